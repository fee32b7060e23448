"""Descriptors through a real server: none leaks, whenever a front-end vanishes or we run out of them."""

import asyncio
import contextlib
import logging
import os
import random
import resource
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.virtqueue.bodies import EXAMPLES, REGION
from tests.virtqueue.serving import RecordingDevice, Run, run_with_server, serving
from virtqueue.frontend import BadBackend, Frontend
from virtqueue.guest_memory import GuestMemory
from virtqueue.messages import Request, VringFd, pack_request


def open_fds() -> set[str]:
    """Open descriptors of this process, by number and target; the listing's own is gone by then."""
    found = set()
    for entry in list(Path("/proc/self/fd").iterdir()):
        with contextlib.suppress(FileNotFoundError):
            found.add(f"{entry.name} {entry.readlink()}")
    return found


def test_more_descriptors_than_a_message_may_have(
    run: Run[Any], path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def client() -> None:
        read_end, write_end = os.pipe()
        for count in (33, 253):
            with Frontend.connect(str(path)) as frontend:
                frontend.send_raw(pack_request(99, b"12345678"), [write_end] * count)
                with pytest.raises(BadBackend, match="closed the connection"):
                    frontend.receive(99)
        os.close(write_end)
        os.set_blocking(read_end, False)
        assert os.read(read_end, 1) == b""  # every copy is closed
        os.close(read_end)

    run_with_server(run, path, client)
    assert "more than 32 came with one message" in caplog.text


def test_cancelling_the_server_in_the_middle_of_a_request_leaks_nothing(run: Run[Any], path: Path) -> None:
    async def main() -> int:
        device = RecordingDevice()
        device.pause = asyncio.Event()  # never set
        async with serving(path, device):
            with GuestMemory() as memory, await asyncio.to_thread(Frontend.connect, str(path)) as frontend:
                frontend.send(Request.SET_PROTOCOL_FEATURES, 0x8008)
                frontend.send(Request.ADD_MEM_REG, REGION, [memory.regions[0].fd])
                assert await asyncio.to_thread(device.paused.wait, 5)
        return device.resets

    before = open_fds()
    assert run(main()) == 1
    assert open_fds() == before


@pytest.mark.parametrize("seed", range(4))
def test_no_descriptor_leaks_when_front_ends_vanish_anywhere(run: Run[Any], path: Path, seed: int) -> None:
    """Sessions are cut at a random byte; what a device keeps, it gives back when it is reset."""
    choose = random.Random(seed)
    before = open_fds()

    def session() -> list[tuple[bytes, int]]:
        steps = [(Request.SET_PROTOCOL_FEATURES, EXAMPLES[Request.SET_PROTOCOL_FEATURES][0], 0)]
        for request in choose.choices(list(EXAMPLES), k=6):
            body, fds = EXAMPLES[request]
            steps.append((request, body, fds))
        for request in (Request.SET_VRING_CALL, Request.SET_VRING_ERR):
            steps.append((request, VringFd(1, True), 1))
        return [(pack_request(r, body, need_reply=True), fds) for r, body, fds in steps]

    def client() -> None:
        for _ in range(60):
            messages = session()
            budget = choose.randrange(sum(len(wire) for wire, _ in messages) + 1)
            with Frontend.connect(str(path)) as frontend:
                for wire, count in messages:
                    fds = [os.eventfd(0, os.EFD_CLOEXEC) for _ in range(count)]
                    try:
                        frontend.send_raw(wire[:budget], fds)
                    except BadBackend:
                        break
                    finally:
                        for fd in fds:
                            os.close(fd)
                    budget -= len(wire)
                    if budget <= 0:
                        break
        with Frontend.connect(str(path)) as frontend:
            frontend.get(Request.GET_FEATURES)  # all others have been cleared away

    device = run_with_server(run, path, client)
    assert device.resets == 61
    assert not device.kept
    assert open_fds() == before


class Announcing(logging.Handler):
    """Sets ``seen`` when a line of the log has ``text`` in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
        self.seen = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if self.text in record.getMessage():
            self.seen.set()


def test_a_process_that_is_out_of_descriptors_serves_once_it_has_some(run: Run[Any], path: Path) -> None:
    log = logging.getLogger("virtqueue.server")
    announcing = Announcing("cannot accept a connection: [Errno 24] Too many open files")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    def client() -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            lowest_free = os.dup(0)
            os.close(lowest_free)
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
            try:
                sock.connect(str(path))
                assert announcing.seen.wait(5)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert Frontend(sock).get(Request.GET_FEATURES)

    log.addHandler(announcing)
    try:
        run_with_server(run, path, client)
    finally:
        log.removeHandler(announcing)
