"""Any requests in chains of any shape, and now and then a chain that breaks the ring.

Invariant: each good chain gets exactly one used element, with the exact length and the right bytes, and a
malformed one breaks the ring (err fd) without touching the others; nothing crashes and nothing hangs.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.native.conftest import BIG_CHUNK, BIG_SIZE
from tests.native.rig import DEADLINE_S, BuiltImage, Rig
from virtqueue import fuse_abi as abi
from virtqueue.driver import Buffer, Driver
from virtqueue.fuse_abi import Opcode
from virtqueue.malformed import BROKEN_RINGS

FILL = b"\xa5"
ROOM = 70_000  # of one request or reply in guest memory


@dataclass(frozen=True)
class Request:
    """A FUSE request, how its two buffers are cut into descriptors, and what the reply must be."""

    opcode: int
    body: bytes
    room: int
    cuts: tuple[list[int], list[int]]
    indirect: bool
    kick: bool
    nodeid: str = "big"

    @property
    def size(self) -> int:
        return abi.IN_HEADER.size + len(self.body)


def lengths(total: int, cuts: list[int]) -> list[int]:
    """Pieces of `total` bytes cut at `cuts` (per mille), empty ones too."""
    edges = sorted(total * cut // 1000 for cut in cuts)
    return [end - start for start, end in zip([0, *edges], [*edges, total], strict=True)]


cut_lists = st.tuples(st.lists(st.integers(0, 1000), max_size=5), st.lists(st.integers(0, 1000), max_size=5))
reads = st.tuples(st.integers(0, BIG_SIZE + 10), st.integers(0, 66_000)).flatmap(
    lambda at: st.builds(
        Request,
        opcode=st.just(Opcode.READ),
        body=st.just(abi.READ_IN.pack(0, at[0], at[1], 0, 0, 0)),
        room=st.sampled_from([16 + at[1], 16 + at[1], 16 + at[1], 15 + at[1], 16, 15, 0]),
        cuts=cut_lists,
        indirect=st.booleans(),
        kick=st.booleans(),
    )
)
others = st.builds(
    Request,
    opcode=st.sampled_from([*Opcode, 0, 53, 0xFFFF_FFFF]).filter(
        lambda opcode: opcode not in (Opcode.READ, Opcode.DESTROY, Opcode.INIT)
    ),
    body=st.binary(max_size=80),
    room=st.sampled_from([0, 8, 15, 16, 100, 5000]),
    cuts=cut_lists,
    indirect=st.booleans(),
    kick=st.booleans(),
    nodeid=st.sampled_from(["root", "big", "none"]),
)


def expected_read(request: Request, big: bytes) -> tuple[int, bytes]:
    """(error, payload) of a READ of /big."""
    _, offset, size, *_ = abi.READ_IN.unpack(request.body)
    if request.room < 16 + size:
        return errno.EINVAL, b""
    return 0, big[offset : offset + size]


class Model:
    """The driver's side: what is out, and the check of each element that comes back."""

    def __init__(self, rig: Rig, driver: Driver, nodeids: dict[str, int], big: bytes) -> None:
        self.rig, self.driver, self.nodeids, self.big = rig, driver, nodeids, big
        self.out: dict[int, tuple[Request, int, int, int]] = {}  # head -> request, unique, two gpas
        self.unique = 0
        self.free: list[tuple[int, int]] = []

    def submit(self, request: Request) -> None:
        """Put the request in the ring, when it has room for it."""
        readable = lengths(request.size, request.cuts[0])
        writable = lengths(request.room, request.cuts[1]) if request.room else []
        descs = 1 if request.indirect else len(readable) + len(writable)
        while self.driver.room < descs and self.out:
            self.take()
        if self.driver.room < descs:
            return
        memory = self.rig.memory
        gpas = self.free.pop() if self.free else (memory.allocate(ROOM), memory.allocate(ROOM))
        self.unique += 2
        header = (request.size, request.opcode, self.unique, self.nodeids[request.nodeid], 0, 0, 0, 0, 0)
        memory.write(gpas[0], abi.IN_HEADER.pack(*header) + request.body)
        memory.write(gpas[1], FILL * (request.room + 64))
        head = self.driver.add(
            buffers(gpas[0], readable), buffers(gpas[1], writable), indirect=request.indirect
        )
        self.out[head] = (request, self.unique, *gpas)
        self.driver.publish()
        if request.kick:
            self.driver.kick()

    def take(self) -> None:
        """Wait for one element and check it."""
        self.driver.kick()
        used = self.driver.wait_used(DEADLINE_S)
        request, unique, request_gpa, reply_gpa = self.out.pop(used.head)
        reply = self.rig.memory.read(reply_gpa, request.room + 64)
        assert reply[used.written :] == FILL * (len(reply) - used.written), "written past the used length"
        self.free.append((request_gpa, reply_gpa))
        if request.opcode in (Opcode.FORGET, Opcode.BATCH_FORGET) or request.room < 16:
            assert used.written == 0
            return
        length, error, answered = abi.OUT_HEADER.unpack_from(reply)
        assert (length, answered) == (used.written, unique) and -4096 < error <= 0
        assert not error or length == 16
        if request.opcode == Opcode.READ:
            assert (-error, reply[16 : used.written]) == expected_read(request, self.big)


def buffers(gpa: int, pieces: list[int]) -> list[Buffer]:
    starts = accumulate(pieces, initial=gpa)
    return [Buffer(start, length) for start, length in zip(starts, pieces, strict=False)]


@pytest.fixture(scope="module")
def warm(plain: BuiltImage) -> Iterator[Rig]:
    with Rig(plain, num_request_queues=1, regions=((0x10_0000, 48 << 20),)) as rig:
        yield rig


@pytest.fixture(scope="module")
def nodeids(warm: Rig) -> dict[str, int]:
    client = warm.client(0)
    return {"root": 1, "big": client.lookup(1, b"big").nodeid, "none": 1 << 50}


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    size=st.sampled_from([1, 2, 8, 64]),
    base=st.sampled_from([0, 0xFFF0, 0x7FF8]),
    requests=st.lists(st.one_of(reads, others), max_size=40),
    end=st.one_of(st.none(), st.sampled_from(sorted(BROKEN_RINGS))),
)
def test_each_good_chain_once_and_a_bad_one_breaks_the_ring(
    warm: Rig,
    nodeids: dict[str, int],
    big: bytes,
    size: int,
    base: int,
    requests: list[Request],
    end: str | None,
) -> None:
    rig = warm
    driver = rig.driver(size=size, base=base)
    broken = rig.device.statistics()["broken_rings"]
    rig.attach(1, driver, base=base)
    model = Model(rig, driver, nodeids, big)
    try:
        for request in requests:
            model.submit(request)
        while model.out:
            model.take()
        assert driver.maybe_used() is None
        if end is not None and (size > 1 or end not in ("readable_after_writable", "indirect_and_next")):
            BROKEN_RINGS[end](driver)
            driver.kick(force=True)
            driver.wait_error()
            broken += 1
        assert rig.device.statistics()["broken_rings"] == broken
        stopped_at = (base + model.unique // 2) & 0xFFFF
        assert rig.device.stop_vring(1, 1000) == stopped_at
    finally:
        rig.device.stop_vring(1, 0)
        for gpas in [*model.free, *((at[2], at[3]) for at in model.out.values())]:
            for gpa in gpas:
                rig.memory.free(gpa)
        rig.drivers.remove(driver)
        driver.close()
        for gpa in (driver.desc_gpa, driver.avail_gpa, driver.used_gpa):
            rig.memory.free(gpa)
    counted = rig.device.statistics()
    assert counted["requests"] == counted["replies"]


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    order=st.lists(
        st.one_of(
            st.tuples(st.just("read"), st.integers(0, 47), st.integers(1, 66_000)),
            st.tuples(st.sampled_from(["complete", "fail"]), st.integers(0, 47), st.integers(1, 4)),
            st.tuples(st.just("share"), st.just(0), st.just(0)),
        ),
        max_size=40,
    )
)
def test_misses_in_any_order_of_events(
    plain: BuiltImage, big: bytes, order: list[tuple[str, int, int]]
) -> None:
    """Reads, completions, failures and new memory tables in any order: the right bytes or EIO, once each."""
    with Rig(plain, warm=False) as rig:
        client = rig.client(size=64)
        nodeid = client.lookup(1, b"big").nodeid
        out: dict[int, tuple[int, int]] = {}
        for what, chunk, number in order:
            if what == "read":
                offset = chunk * BIG_CHUNK + number % 1000
                out[client.submit_read(nodeid, offset, number)] = (offset, number)
            elif what == "complete":
                rig.cache.fill(chunk, number)
            elif what == "fail":
                rig.cache.blob.fail(chunk, number)
            else:
                rig.share()
        rig.cache.fill()
        for unique, (offset, size) in out.items():
            try:
                assert client.wait(unique) == big[offset : offset + size]
            except OSError as error:
                assert error.errno == errno.EIO and any(what == "fail" for what, _, _ in order)
        counted = rig.device.statistics()
        assert counted["requests"] == counted["replies"] and client.driver.in_flight == 0
