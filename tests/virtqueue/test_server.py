"""A real server on a real socket, with the mock front-end on the other side and a device that remembers."""

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.virtqueue.bodies import REGION
from tests.virtqueue.serving import RecordingDevice, Run, run_with_server, serving
from virtqueue import events
from virtqueue.frontend import BadBackend, Frontend, Refused
from virtqueue.guest_memory import GuestMemory
from virtqueue.messages import Request, VringState, pack_request
from virtqueue.offer import virtio_fs_offer


def test_a_whole_session(run: Run[Any], path: Path) -> None:
    def client() -> None:
        with (
            GuestMemory([(0, 1 << 20), (1 << 20, 1 << 20)]) as memory,
            Frontend.connect(str(path)) as frontend,
        ):
            frontend.negotiate()
            assert frontend.queue_num == 2
            frontend.share(memory)
            frontend.start_vring(0, memory)
            frontend.start_vring(1, memory, polling=True, base=5)
            frontend.remove_region(memory.regions[1], with_fd=True)
            assert frontend.stop_vring(1) == 77

    device = run_with_server(run, path, client)
    assert [type(event).__name__ for event in device.events] == [
        "VirtioFeaturesSet",
        *["MemRegionAdded"] * 2,
        *[
            "VringNumSet",
            "VringBaseSet",
            "VringAddrSet",
            "VringErrSet",
            "VringCallSet",
            "VringKickSet",
            "VringEnableSet",
        ]
        * 2,
        "MemRegionRemoved",
        "VringStopRequested",
    ]
    assert device.events[15] == events.VringKickSet(1, None)
    assert device.resets == 1


def test_a_table_of_regions(run: Run[Any], path: Path) -> None:
    def client() -> None:
        regions = [(n << 20, 1 << 20) for n in range(32)]
        with GuestMemory(regions) as memory, Frontend.connect(str(path)) as frontend:
            frontend.negotiate(protocol_features=0)
            frontend.share(memory)
            assert frontend.get(Request.GET_QUEUE_NUM) == 2  # answered, so the table was taken

    device = run_with_server(run, path, client)
    (table,) = (event for event in device.events if isinstance(event, events.MemTableSet))
    assert [region.gpa for region in table.regions] == [n << 20 for n in range(32)]


def test_a_refusal_is_told_and_the_session_goes_on(run: Run[Any], path: Path) -> None:
    def client() -> None:
        with Frontend.connect(str(path)) as frontend:
            frontend.negotiate()
            with pytest.raises(Refused, match="SET_VRING_NUM: the back-end answered 1"):
                frontend.set(Request.SET_VRING_NUM, VringState(0, 3))
            frontend.set(Request.SET_VRING_NUM, VringState(0, 4))

    run_with_server(run, path, client)


def test_a_device_that_refuses(run: Run[Any], path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def client() -> None:
        with Frontend.connect(str(path)) as frontend:
            frontend.send(Request.SET_PROTOCOL_FEATURES, 8)
            frontend.protocol_features = 8
            with pytest.raises(Refused):
                frontend.set(Request.SET_FEATURES, 1 << 32)

    run_with_server(run, path, client, RecordingDevice.refuse)
    assert "refused: the device refuses" in caplog.text


def test_a_refusal_that_cannot_be_told_ends_the_connection(
    run: Run[Any], path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def client() -> None:
        with Frontend.connect(str(path)) as frontend:
            frontend.send(Request.SET_VRING_NUM, VringState(9, 2))
            with pytest.raises(BadBackend, match="closed the connection"):
                frontend.get(Request.GET_FEATURES)

    run_with_server(run, path, client)
    assert "SET_VRING_NUM for vring 9: this device has 2 vrings" in caplog.text


BROKEN: dict[str, bytes] = {
    "garbage": b"\xff" * 64,
    "http": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "unknown request": pack_request(99),
    "half a header": b"\1\0\0\0",
    "half a payload": pack_request(Request.SET_FEATURES, 0)[:-3],
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_front_end_loses_its_connection_and_the_next_is_served(
    run: Run[Any], path: Path, name: str
) -> None:
    def client() -> None:
        for _ in range(3):
            with Frontend.connect(str(path)) as frontend:
                frontend.send_raw(BROKEN[name])
                frontend.sock.shutdown(socket.SHUT_WR)
                with pytest.raises(BadBackend, match="closed the connection"):
                    frontend.receive(Request.GET_FEATURES)
            with Frontend.connect(str(path)) as frontend:
                frontend.negotiate()

    device = run_with_server(run, path, client)
    assert device.resets == 6


def test_a_fault_of_ours_costs_one_connection(
    run: Run[Any], path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        device = RecordingDevice()
        device.error = ZeroDivisionError("a bug")

        def client() -> None:
            with Frontend.connect(str(path)) as frontend, pytest.raises(BadBackend):
                frontend.negotiate()
                frontend.get(Request.GET_FEATURES)

        async with serving(path, device):
            await asyncio.to_thread(client)
            device.error = None
            with await asyncio.to_thread(Frontend.connect, str(path)) as frontend:
                await asyncio.to_thread(frontend.negotiate)

    run(main())
    assert "internal error" in caplog.text
    assert "ZeroDivisionError: a bug" in caplog.text


def test_a_second_front_end_is_turned_away(
    run: Run[Any], path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def client() -> None:
        with Frontend.connect(str(path)) as first:
            first.negotiate()
            with Frontend.connect(str(path)) as second, pytest.raises(BadBackend):
                second.get(Request.GET_FEATURES)
            first.get(Request.GET_FEATURES)

    run_with_server(run, path, client)
    assert "already has a front-end" in caplog.text


def test_a_front_end_that_comes_back_waits_for_the_old_one_to_be_cleared_away(
    run: Run[Any], path: Path
) -> None:
    async def main() -> None:
        device = RecordingDevice()
        async with serving(path, device):
            device.pause = asyncio.Event()
            first = await asyncio.to_thread(Frontend.connect, str(path))
            first.send(Request.SET_FEATURES, 1 << 32)
            await asyncio.to_thread(device.paused.wait, 5)
            first.close()
            with await asyncio.to_thread(Frontend.connect, str(path)) as second:
                answer = asyncio.create_task(asyncio.to_thread(second.get, Request.GET_FEATURES))
                await asyncio.sleep(0)  # it is on its way; the server is still busy with the first
                assert device.resets == 0
                device.pause.set()
                assert await answer
                assert device.resets == 1

    run(main())


def test_many_requests_in_one_write_and_slow_reading(run: Run[Any], path: Path) -> None:
    """The server must not lose answers that do not fit the socket's buffer at once."""
    count = 20_000

    def client() -> None:
        with Frontend.connect(str(path)) as frontend:
            frontend.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            stream = pack_request(Request.GET_FEATURES) * count
            frontend.sock.setblocking(False)
            sent = received = 0
            while received < count * 20:
                if sent < len(stream):
                    try:
                        sent += frontend.sock.send(stream[sent : sent + 100_000])
                        continue
                    except BlockingIOError:
                        pass
                frontend.sock.settimeout(5)
                received += len(frontend.sock.recv(1 << 20))
                frontend.sock.setblocking(False)
            assert received == count * 20

    run_with_server(run, path, client)


def test_descriptors_come_with_the_first_byte_and_the_rest_comes_singly(run: Run[Any], path: Path) -> None:
    def client() -> None:
        with GuestMemory() as memory, Frontend.connect(str(path)) as frontend:
            frontend.negotiate()
            (region,) = memory.regions
            wire = pack_request(Request.ADD_MEM_REG, REGION, need_reply=True)
            frontend.send_raw(wire[:1], [region.fd])
            for index in range(1, len(wire)):
                frontend.send_raw(wire[index : index + 1])
            assert frontend.receive_u64(Request.ADD_MEM_REG) == 0

    device = run_with_server(run, path, client)
    assert any(isinstance(event, events.MemRegionAdded) for event in device.events)


def test_the_config_space_is_offered_with_a_tag(run: Run[Any], path: Path) -> None:
    async def main() -> None:
        def client() -> None:
            with Frontend.connect(str(path)) as frontend:
                frontend.negotiate(protocol_features=0xFFFF_FFFF)
                assert frontend.get_config(0, 40) == b"share" + bytes(31) + b"\3\0\0\0"
                assert frontend.get_config(0, 41) == b""

        async with serving(path, RecordingDevice(), virtio_fs_offer(3, "share")):
            await asyncio.to_thread(client)

    run(main())
