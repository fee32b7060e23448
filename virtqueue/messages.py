"""vhost-user messages: bytes <-> values. Pure: nothing here reads or writes.

A message is a header (request, flags, payload size: three u32) and a payload, all in machine byte order.
``MESSAGE_KINDS`` says for each request what its payload is and how many file descriptors come with it.
``parser.py`` cuts the stream into messages with that table; the front-end mock packs with the same functions.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from virtqueue.errors import ProtocolError
from virtqueue.fd import Fd

VERSION = 1
VERSION_MASK = 0x3
FLAG_REPLY = 0x4
FLAG_NEED_REPLY = 0x8

HEADER = struct.Struct("=III")  # request, flags, payload size

# The largest payload that makes sense here is a table of 32 regions (1032 bytes); a config space access is a
# header and at most 256 bytes. One page leaves room for requests that we only refuse, and is the bound that
# other back-ends have too, so no front-end counts on more.
MAX_PAYLOAD_SIZE = 4096

# Descriptors per message. The protocol's first limit was 8; some front-ends send up to 32 regions at once.
MAX_FDS = 32

VRING_INDEX_MASK = 0xFF
VRING_NOFD = 0x100

VRING_ADDR_LOG = 0x1


class Request(IntEnum):
    """Requests of the front-end that we know by name; others are refused as unknown."""

    GET_FEATURES = 1
    SET_FEATURES = 2
    SET_OWNER = 3
    RESET_OWNER = 4
    SET_MEM_TABLE = 5
    SET_LOG_BASE = 6
    SET_LOG_FD = 7
    SET_VRING_NUM = 8
    SET_VRING_ADDR = 9
    SET_VRING_BASE = 10
    GET_VRING_BASE = 11
    SET_VRING_KICK = 12
    SET_VRING_CALL = 13
    SET_VRING_ERR = 14
    GET_PROTOCOL_FEATURES = 15
    SET_PROTOCOL_FEATURES = 16
    GET_QUEUE_NUM = 17
    SET_VRING_ENABLE = 18
    SET_BACKEND_REQ_FD = 21
    GET_CONFIG = 24
    SET_CONFIG = 25
    GET_INFLIGHT_FD = 31
    SET_INFLIGHT_FD = 32
    RESET_DEVICE = 34
    VRING_KICK = 35
    GET_MAX_MEM_SLOTS = 36
    ADD_MEM_REG = 37
    REM_MEM_REG = 38
    SET_STATUS = 39
    GET_STATUS = 40


@dataclass(frozen=True, slots=True)
class VringState:
    index: int
    num: int


@dataclass(frozen=True, slots=True)
class VringAddr:
    """Front-end user addresses of the three areas of a vring; ``log`` is a guest address."""

    index: int
    flags: int
    desc: int
    used: int
    avail: int
    log: int


@dataclass(frozen=True, slots=True)
class VringFd:
    """Which vring a kick, call or err descriptor is for; without one the vring polls."""

    index: int
    has_fd: bool


@dataclass(frozen=True, slots=True)
class RegionBody:
    """One memory region: guest address, bytes, front-end address, and where the region starts in its file."""

    gpa: int
    size: int
    user_addr: int
    mmap_offset: int


@dataclass(frozen=True, slots=True)
class ConfigAccess:
    """A read or write of the virtio config space. ``payload`` has ``size`` bytes, or none in a read."""

    offset: int
    size: int
    flags: int
    payload: bytes


MemTable = tuple[RegionBody, ...]
Body = int | VringState | VringAddr | VringFd | RegionBody | ConfigAccess | MemTable | bytes | None

_U64 = struct.Struct("=Q")
_STATE = struct.Struct("=II")
_ADDR = struct.Struct("=IIQQQQ")
_TABLE = struct.Struct("=II")
_REGION = struct.Struct("=QQQQ")
_SINGLE_REGION = struct.Struct("=QQQQQ")
_CONFIG = struct.Struct("=III")


def _exactly(layout: struct.Struct, payload: bytes, what: str) -> tuple[Any, ...]:
    if len(payload) != layout.size:
        raise ProtocolError(f"{what}: payload of {len(payload)} bytes, expected {layout.size}")
    return layout.unpack(payload)


def _parse_empty(payload: bytes, what: str) -> None:
    if payload:
        raise ProtocolError(f"{what}: payload of {len(payload)} bytes, expected none")


def _parse_u64(payload: bytes, what: str) -> int:
    (value,) = _exactly(_U64, payload, what)
    return int(value)


def _parse_state(payload: bytes, what: str) -> VringState:
    return VringState(*_exactly(_STATE, payload, what))


def _parse_addr(payload: bytes, what: str) -> VringAddr:
    return VringAddr(*_exactly(_ADDR, payload, what))


def _parse_vring_fd(payload: bytes, what: str) -> VringFd:
    value = _parse_u64(payload, what)
    if value & ~(VRING_INDEX_MASK | VRING_NOFD):
        raise ProtocolError(f"{what}: payload {value:#x} has bits set that mean nothing")
    return VringFd(index=value & VRING_INDEX_MASK, has_fd=not value & VRING_NOFD)


def _parse_mem_table(payload: bytes, what: str) -> MemTable:
    if len(payload) < _TABLE.size:
        raise ProtocolError(f"{what}: payload of {len(payload)} bytes has no room for the region count")
    count, _padding = _TABLE.unpack_from(payload)
    if count > MAX_FDS:
        raise ProtocolError(f"{what}: {count} regions, at most {MAX_FDS} fit one message; use ADD_MEM_REG")
    if len(payload) != _TABLE.size + count * _REGION.size:
        raise ProtocolError(f"{what}: payload of {len(payload)} bytes does not hold {count} regions")
    return tuple(RegionBody(*fields) for fields in _REGION.iter_unpack(payload[_TABLE.size :]))


def _parse_region(payload: bytes, what: str) -> RegionBody:
    return RegionBody(*_exactly(_SINGLE_REGION, payload, what)[1:])


def _parse_config(payload: bytes, what: str) -> ConfigAccess:
    if len(payload) < _CONFIG.size:
        raise ProtocolError(f"{what}: payload of {len(payload)} bytes, expected at least {_CONFIG.size}")
    offset, size, config_flags = _CONFIG.unpack_from(payload)
    data = payload[_CONFIG.size :]
    if data and len(data) != size:
        raise ProtocolError(f"{what}: {len(data)} bytes of config space, the message says {size}")
    return ConfigAccess(offset, size, config_flags, data)


def _parse_raw(payload: bytes, what: str) -> bytes:
    return payload


@dataclass(frozen=True, slots=True)
class MessageKind:
    """Payload parser of a request, and the least and most descriptors that it brings."""

    parse: Callable[[bytes, str], Body]
    min_fds: int = 0
    max_fds: int = 0


_EMPTY = MessageKind(_parse_empty)
_NUMBER = MessageKind(_parse_u64)
_VRING_STATE = MessageKind(_parse_state)
_VRING_FD = MessageKind(_parse_vring_fd, 0, 1)  # exactly one unless the NOFD bit is set, see check_fds
NOT_OURS = MessageKind(_parse_raw, 0, MAX_FDS)  # refused by the session, whatever it holds

MESSAGE_KINDS: dict[Request, MessageKind] = {
    Request.GET_FEATURES: _EMPTY,
    Request.SET_FEATURES: _NUMBER,
    Request.SET_OWNER: _EMPTY,
    Request.RESET_OWNER: _EMPTY,
    Request.SET_MEM_TABLE: MessageKind(_parse_mem_table, 0, MAX_FDS),  # one for each region, see check_fds
    Request.SET_LOG_BASE: NOT_OURS,
    Request.SET_LOG_FD: NOT_OURS,
    Request.SET_VRING_NUM: _VRING_STATE,
    Request.SET_VRING_ADDR: MessageKind(_parse_addr),
    Request.SET_VRING_BASE: _VRING_STATE,
    Request.GET_VRING_BASE: _VRING_STATE,
    Request.SET_VRING_KICK: _VRING_FD,
    Request.SET_VRING_CALL: _VRING_FD,
    Request.SET_VRING_ERR: _VRING_FD,
    Request.GET_PROTOCOL_FEATURES: _EMPTY,
    Request.SET_PROTOCOL_FEATURES: _NUMBER,
    Request.GET_QUEUE_NUM: _EMPTY,
    Request.SET_VRING_ENABLE: _VRING_STATE,
    Request.SET_BACKEND_REQ_FD: NOT_OURS,
    Request.GET_CONFIG: MessageKind(_parse_config),
    Request.SET_CONFIG: MessageKind(_parse_config),
    Request.GET_INFLIGHT_FD: NOT_OURS,
    Request.SET_INFLIGHT_FD: NOT_OURS,
    Request.RESET_DEVICE: _EMPTY,
    Request.VRING_KICK: NOT_OURS,
    Request.GET_MAX_MEM_SLOTS: _EMPTY,
    Request.ADD_MEM_REG: MessageKind(_parse_region, 1, 1),
    Request.REM_MEM_REG: MessageKind(_parse_region, 0, 1),  # older front-ends send one; it gets closed unused
    Request.SET_STATUS: _NUMBER,
    Request.GET_STATUS: _EMPTY,
}


def request_name(request: int) -> str:
    """The name of a request in logs and errors."""
    return request.name if isinstance(request, Request) else f"request {request}"


@dataclass(frozen=True, slots=True)
class Message:
    """One request. It owns ``fds``: use it as a context manager, and ``take()`` those that outlive it.

    ``request`` is a plain int when we do not know the number; ``body`` then holds the raw payload.
    """

    request: Request | int
    body: Body
    fds: tuple[Fd, ...] = ()
    need_reply: bool = False

    @property
    def name(self) -> str:
        return request_name(self.request)

    def close(self) -> None:
        """Close every descriptor that nobody took."""
        for fd in self.fds:
            fd.close()

    def __enter__(self) -> "Message":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def check_fds(name: str, kind: MessageKind, body: Body, count: int) -> None:
    """ProtocolError unless ``count`` descriptors may come with this message."""
    least, most = kind.min_fds, kind.max_fds
    if isinstance(body, VringFd):
        least = most = int(body.has_fd)
    elif isinstance(body, tuple):
        least = most = len(body)
    if not least <= count <= most:
        expected = str(least) if least == most else f"{least} to {most}"
        raise ProtocolError(f"{name}: {count} file descriptors, expected {expected}")


def pack_body(body: Body) -> bytes:
    """The payload bytes of a body."""
    match body:
        case None:
            return b""
        case bytes():
            return body
        case int():
            return _U64.pack(body)
        case VringState(index, num):
            return _STATE.pack(index, num)
        case VringAddr(index, flags, desc, used, avail, log):
            return _ADDR.pack(index, flags, desc, used, avail, log)
        case VringFd(index, has_fd):
            return _U64.pack(index | (0 if has_fd else VRING_NOFD))
        case RegionBody(gpa, size, user_addr, mmap_offset):
            return _SINGLE_REGION.pack(0, gpa, size, user_addr, mmap_offset)
        case ConfigAccess(offset, size, config_flags, payload):
            return _CONFIG.pack(offset, size, config_flags) + payload
        case tuple():
            regions = (_REGION.pack(r.gpa, r.size, r.user_addr, r.mmap_offset) for r in body)
            return _TABLE.pack(len(body), 0) + b"".join(regions)


def pack_request(request: int, body: Body = None, *, need_reply: bool = False) -> bytes:
    """A whole request, as a front-end sends it."""
    payload = pack_body(body)
    return HEADER.pack(request, VERSION | (FLAG_NEED_REPLY if need_reply else 0), len(payload)) + payload


def pack_reply(request: int, body: Body) -> bytes:
    """A whole reply to ``request``."""
    payload = pack_body(body)
    return HEADER.pack(request, VERSION | FLAG_REPLY, len(payload)) + payload
