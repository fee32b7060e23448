"""The parser: messages in any pieces come out the same; garbage is a message or a ProtocolError."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.virtqueue.bodies import BODIES, EXAMPLES, REGION, fd_count
from tests.virtqueue.fake_fd import FakeFd
from virtqueue.errors import ProtocolError
from virtqueue.fd import Fd
from virtqueue.messages import (
    HEADER,
    MAX_FDS,
    MAX_PAYLOAD_SIZE,
    Body,
    ConfigAccess,
    Message,
    Request,
    pack_request,
)
from virtqueue.parser import Parser


def parse(data: bytes, fds: int = 0) -> Message:
    parser = Parser()
    parser.feed(data, [FakeFd() for _ in range(fds)])
    message = parser.next_message()
    assert message is not None
    assert not parser.mid_message
    return message


@pytest.mark.parametrize("request_", EXAMPLES, ids=lambda r: r.name)
def test_each_request_survives_the_wire(request_: Request) -> None:
    body, fds = EXAMPLES[request_]
    message = parse(pack_request(request_, body, need_reply=True), fds)
    assert (message.request, message.body, message.need_reply) == (request_, body, True)
    assert len(message.fds) == fds
    assert message.name == request_.name


def test_an_unknown_request_comes_through_raw() -> None:
    message = parse(pack_request(4711, b"abc"), fds=3)
    assert (message.request, message.body, len(message.fds)) == (4711, b"abc", 3)
    assert message.name == "request 4711"


def raw(request: int, payload: bytes = b"", *, flags: int = 1, size: int | None = None) -> bytes:
    return HEADER.pack(request, flags, len(payload) if size is None else size) + payload


U64_BYTES = bytes(8)

BAD: dict[str, tuple[bytes, int, str]] = {
    # name: (stream, file descriptors, error)
    "version": (raw(1, flags=2), 0, "GET_FEATURES: protocol version 2, expected 1"),
    "no version": (raw(1, flags=0), 0, "version 0"),
    "reply": (raw(1, flags=5), 0, "reply flag"),
    "too long": (raw(99, size=MAX_PAYLOAD_SIZE + 1), 0, "request 99: payload of 4097 bytes"),
    "longest": (raw(1, size=0xFFFFFFFF), 0, "payload of 4294967295 bytes"),
    "payload where none belongs": (raw(1, b"x"), 0, "GET_FEATURES: payload of 1 bytes, expected none"),
    "short u64": (raw(2, bytes(7)), 0, "SET_FEATURES: payload of 7 bytes, expected 8"),
    "short state": (raw(8, bytes(4)), 0, "SET_VRING_NUM: payload of 4 bytes, expected 8"),
    "short addr": (raw(9, bytes(39)), 0, "SET_VRING_ADDR: payload of 39 bytes, expected 40"),
    "short table": (raw(5, bytes(7)), 0, "no room for the region count"),
    "table of too many": (raw(5, struct.pack("=II", 33, 0)), 0, "33 regions, at most 32"),
    "table cut short": (raw(5, struct.pack("=II", 1, 0) + bytes(31)), 1, "does not hold 1 regions"),
    "table too long": (raw(5, struct.pack("=II", 0, 0) + bytes(32)), 0, "does not hold 0 regions"),
    "region without padding": (raw(37, bytes(32)), 1, "ADD_MEM_REG: payload of 32 bytes, expected 40"),
    "kick with bits": (raw(12, struct.pack("=Q", 0x201)), 1, "bits set that mean nothing"),
    "kick without fd": (raw(12, U64_BYTES), 0, "SET_VRING_KICK: 0 file descriptors, expected 1"),
    "kick with two": (raw(12, U64_BYTES), 2, "SET_VRING_KICK: 2 file descriptors, expected 1"),
    "nofd with fd": (raw(12, struct.pack("=Q", 0x100)), 1, "1 file descriptors, expected 0"),
    "fd where none belongs": (raw(1), 1, "GET_FEATURES: 1 file descriptors, expected 0"),
    "table without fds": (pack_request(5, (REGION,)), 0, "0 file descriptors, expected 1"),
    "table with too many fds": (pack_request(5, (REGION,)), 2, "2 file descriptors, expected 1"),
    "region without fd": (pack_request(37, REGION), 0, "0 file descriptors, expected 1"),
    "removal with two": (pack_request(38, REGION), 2, "2 file descriptors, expected 0 to 1"),
    "unknown with too many": (raw(99), MAX_FDS + 1, "33 file descriptors, expected 0 to 32"),
    "config without header": (raw(24, bytes(11)), 0, "expected at least 12"),
    "config lies": (raw(24, struct.pack("=III", 0, 5, 0) + bytes(4)), 0, "4 bytes of config space"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_messages_are_named_and_final(name: str) -> None:
    stream, fd_number, error = BAD[name]
    parser = Parser()
    fds = [FakeFd() for _ in range(fd_number)]
    parser.feed(stream, fds)
    for _ in range(2):
        with pytest.raises(ProtocolError, match=error):
            parser.next_message()
    parser.close()
    assert all(fd.closed == 1 for fd in fds)


def test_a_read_of_config_needs_no_payload() -> None:
    message = parse(raw(24, struct.pack("=III", 4, 8, 0)))
    assert message.body == ConfigAccess(4, 8, 0, b"")


def test_removal_may_bring_a_descriptor() -> None:
    assert len(parse(pack_request(38, REGION), 1).fds) == 1
    assert len(parse(pack_request(38, REGION), 0).fds) == 0


def test_a_bad_header_is_noticed_before_its_payload_comes() -> None:
    parser = Parser()
    parser.feed(raw(1, size=1 << 31))
    with pytest.raises(ProtocolError):
        parser.next_message()


def test_wanted_leads_from_message_to_message() -> None:
    parser = Parser()
    stream = pack_request(Request.SET_FEATURES, 5) + pack_request(Request.GET_FEATURES)
    assert parser.wanted == HEADER.size
    parser.feed(stream[:12])
    assert parser.wanted == 8
    parser.feed(stream[12:15])
    assert parser.wanted == 5
    assert parser.mid_message
    parser.feed(stream[15:20])
    assert parser.wanted == 0
    assert parser.next_message() is not None
    assert parser.wanted == HEADER.size


def test_a_closed_message_closes_what_nobody_took() -> None:
    kept, left = FakeFd(7), FakeFd(8)
    with Message(Request.SET_MEM_TABLE, (), (kept, left)):
        assert kept.take() == 7
    assert (kept.closed, left.closed) == (1, 1)
    with pytest.raises(ValueError, match="taken or closed"):
        kept.fileno()


@st.composite
def messages(draw: st.DrawFn) -> tuple[Request, Body]:
    request = draw(st.sampled_from(Request))
    return request, draw(BODIES[request])


@given(st.lists(messages(), min_size=1, max_size=6), st.data())
def test_any_pieces_give_the_same_messages(sent: list[tuple[Request, Body]], data: st.DataObject) -> None:
    """Descriptors come with a piece that begins in their message; otherwise pieces end anywhere."""
    parser = Parser()
    received: list[Message] = []
    given_fds: list[list[Fd]] = []
    pieces: list[tuple[bytes, list[Fd]]] = []
    for request, body in sent:
        wire = pack_request(request, body)
        fds: list[Fd] = [FakeFd() for _ in range(fd_count(request, body))]
        given_fds.append(fds)
        start = data.draw(st.integers(0, len(wire) - 1)) if fds else 0
        if start or (fds and pieces):
            pieces.append((wire[:start], []))
        rest = wire[start:]
        cut = data.draw(st.integers(1, len(rest)))
        pieces += [(rest[:cut], fds), (rest[cut:], [])]
    merged: list[tuple[bytes, list[Fd]]] = []
    for piece, fds in pieces:
        if merged and not fds and data.draw(st.booleans()):
            merged[-1] = (merged[-1][0] + piece, merged[-1][1])
        else:
            merged.append((piece, fds))
    for piece, fds in merged:
        parser.feed(piece, fds)
        while data.draw(st.booleans()) and (message := parser.next_message()):
            received.append(message)
    while message := parser.next_message():
        received.append(message)
    assert [(m.request, m.body) for m in received] == sent
    assert [list(m.fds) for m in received] == given_fds
    assert not parser.mid_message


@given(
    st.lists(st.tuples(st.binary(max_size=40), st.integers(0, 3)), max_size=8)
    | st.lists(
        st.tuples(
            st.builds(
                raw,
                st.integers(0, 45),
                st.binary(max_size=60),
                flags=st.sampled_from([1, 9, 1, 9, 5, 0]),
                size=st.none() | st.integers(0, 60),
            ),
            st.integers(0, 3),
        ),
        max_size=8,
    )
)
def test_garbage_parses_or_is_a_protocol_error(pieces: list[tuple[bytes, int]]) -> None:
    parser = Parser()
    fds = [[FakeFd() for _ in range(count)] for _, count in pieces]
    fed: list[FakeFd] = []
    try:
        for (piece, _), piece_fds in zip(pieces, fds, strict=True):
            fed += piece_fds
            parser.feed(piece, piece_fds)
            while message := parser.next_message():
                message.close()
    except ProtocolError:
        pass
    else:
        assert parser.wanted > 0
    parser.close()
    assert all(fd.closed == 1 for fd in fed)
