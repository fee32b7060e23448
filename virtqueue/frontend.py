"""``Frontend``: the front-end half of vhost-user over a blocking Unix socket (the mock VMM).

Part of the driver-side mock. It says what a VMM says, in the order in which QEMU says it, and can say
anything else through ``send``. Every receive has a time-out (TimeoutError). A reply that is not one raises
``BadBackend``; a nonzero REPLY_ACK raises ``Refused``.
"""

import array
import socket
import struct
from collections.abc import Sequence
from types import TracebackType

from virtqueue import messages
from virtqueue.driver import Driver
from virtqueue.features import ProtocolFeature, VirtioFeature
from virtqueue.guest_memory import GuestMemory, GuestRegion
from virtqueue.messages import (
    FLAG_REPLY,
    HEADER,
    VERSION,
    VRING_ADDR_LOG,
    Body,
    ConfigAccess,
    RegionBody,
    Request,
    VringAddr,
    VringFd,
    VringState,
)

DEFAULT_TIMEOUT = 5.0  # seconds

_U64 = struct.Struct("=Q")
_STATE = struct.Struct("=II")

VIRTIO_FEATURES = (
    VirtioFeature.VERSION_1
    | VirtioFeature.RING_INDIRECT_DESC
    | VirtioFeature.RING_EVENT_IDX
    | VirtioFeature.PROTOCOL_FEATURES
)

PROTOCOL_FEATURES = ProtocolFeature.MQ | ProtocolFeature.REPLY_ACK | ProtocolFeature.CONFIGURE_MEM_SLOTS


class BadBackend(Exception):
    """The back-end sent what the protocol does not allow, or closed the connection."""


class Refused(Exception):
    """The back-end answered a request with failure (nonzero REPLY_ACK)."""


class Frontend:
    """A connection to a back-end. Use it as a context manager; closing it is how a VMM vanishes."""

    def __init__(self, sock: socket.socket, *, timeout: float = DEFAULT_TIMEOUT) -> None:
        self.sock = sock
        sock.settimeout(timeout)
        self.virtio_features = 0
        self.protocol_features = 0
        self.queue_num = 0
        self.drivers: dict[int, Driver] = {}

    @classmethod
    def connect(cls, path: str, *, timeout: float = DEFAULT_TIMEOUT) -> "Frontend":
        """Connect to the listening socket at ``path``. OSError when nobody listens."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # Not settimeout(): it makes the socket non-blocking, and then a full backlog is an error at once.
            seconds = int(timeout)
            limit = struct.pack("@ll", seconds, int((timeout - seconds) * 1_000_000))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
            sock.connect(path)
        except BlockingIOError as error:
            sock.close()
            raise TimeoutError(f"{path} accepted no connection within {timeout} s") from error
        except BaseException:
            sock.close()
            raise
        return cls(sock, timeout=timeout)

    # Single messages.

    def send(
        self, request: int, body: Body = None, fds: Sequence[int] = (), *, need_reply: bool = False
    ) -> None:
        """Send one request; the descriptors stay ours."""
        self.send_raw(messages.pack_request(request, body, need_reply=need_reply), fds)

    def send_raw(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Send any bytes; the descriptors, which stay ours, come with the first of them."""
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            sent = self.sock.sendmsg([data], ancillary)
            if sent < len(data):
                self.sock.sendall(data[sent:])
        except ConnectionError as error:
            raise BadBackend("the back-end closed the connection") from error

    def receive(self, request: int) -> bytes:
        """The payload of the reply to ``request``."""
        number, flags, size = HEADER.unpack(self._receive_exactly(HEADER.size))
        payload = self._receive_exactly(size)
        name = messages.request_name(request)
        if number != request:
            raise BadBackend(f"reply to {messages.request_name(number)}, expected one to {name}")
        if flags != VERSION | FLAG_REPLY:
            raise BadBackend(f"reply to {name} with flags {flags:#x}")
        return payload

    def _receive_exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            try:
                piece = self.sock.recv(size - len(data))
            except ConnectionError:
                piece = b""
            if not piece:
                raise BadBackend("the back-end closed the connection")
            data += piece
        return data

    def receive_u64(self, request: int) -> int:
        payload = self.receive(request)
        if len(payload) != _U64.size:
            raise BadBackend(f"reply to {messages.request_name(request)} of {len(payload)} bytes, expected 8")
        value: int = _U64.unpack(payload)[0]
        return value

    def get(self, request: Request) -> int:
        """Send a request without payload and return the u64 of its reply."""
        self.send(request)
        return self.receive_u64(request)

    def set(self, request: Request, body: Body = None, fds: Sequence[int] = ()) -> None:
        """Send a request that has no reply of its own; with REPLY_ACK wait for the verdict."""
        ack = bool(self.protocol_features & ProtocolFeature.REPLY_ACK)
        self.send(request, body, fds, need_reply=ack)
        if ack and (code := self.receive_u64(request)):
            raise Refused(f"{request.name}: the back-end answered {code}")

    # Negotiation, as a VMM does it.

    def negotiate(
        self,
        virtio_features: int = VIRTIO_FEATURES,
        protocol_features: int = PROTOCOL_FEATURES,
    ) -> None:
        """Take the wanted features that are offered, and own the session."""
        offered = self.get(Request.GET_FEATURES)
        if offered & VirtioFeature.PROTOCOL_FEATURES:
            offered_protocol = self.get(Request.GET_PROTOCOL_FEATURES)
            self.protocol_features = protocol_features & offered_protocol
            self.send(Request.SET_PROTOCOL_FEATURES, self.protocol_features)
            if self.protocol_features & ProtocolFeature.MQ:
                self.queue_num = self.get(Request.GET_QUEUE_NUM)
        self.set(Request.SET_OWNER)
        self.virtio_features = virtio_features & offered
        self.set(Request.SET_FEATURES, self.virtio_features)

    def share(self, memory: GuestMemory) -> None:
        """Give the back-end all regions: one by one with CONFIGURE_MEM_SLOTS, as one table without."""
        if self.protocol_features & ProtocolFeature.CONFIGURE_MEM_SLOTS:
            for region in memory.regions:
                self.add_region(region)
        else:
            self.set_mem_table(memory.regions)

    def set_mem_table(self, regions: Sequence[GuestRegion]) -> None:
        self.set(Request.SET_MEM_TABLE, tuple(_region_body(r) for r in regions), [r.fd for r in regions])

    def add_region(self, region: GuestRegion) -> None:
        self.set(Request.ADD_MEM_REG, _region_body(region), [region.fd])

    def remove_region(self, region: GuestRegion, *, with_fd: bool = False) -> None:
        self.set(Request.REM_MEM_REG, _region_body(region), [region.fd] if with_fd else ())

    def get_config(self, offset: int, size: int) -> bytes:
        """Bytes of the config space; empty when the back-end refuses."""
        self.send(Request.GET_CONFIG, ConfigAccess(offset, size, 0, bytes(size)))
        payload = self.receive(Request.GET_CONFIG)
        return payload[12:]

    # Vrings.

    def start_vring(
        self,
        index: int,
        memory: GuestMemory,
        *,
        size: int = 128,
        base: int = 0,
        polling: bool = False,
        enable: bool = True,
    ) -> Driver:
        """Make a driver for vring ``index``, tell the back-end all about it and start it."""
        driver = Driver(memory, size, virtio_features=self.virtio_features, base=base)
        if index in self.drivers:
            self.drivers[index].close()
        self.drivers[index] = driver
        self.resume_vring(index, base=base, polling=polling, enable=enable)
        return driver

    def resume_vring(self, index: int, *, base: int, polling: bool = False, enable: bool = True) -> None:
        """Start (again) the vring of a driver that exists, at available index ``base``."""
        driver = self.drivers[index]
        self.set(Request.SET_VRING_NUM, VringState(index, driver.size))
        self.set(Request.SET_VRING_BASE, VringState(index, base))
        self.set(Request.SET_VRING_ADDR, vring_addr(index, driver))
        self.set(Request.SET_VRING_ERR, VringFd(index, True), [driver.err_fd])
        self.set(Request.SET_VRING_CALL, VringFd(index, True), [driver.call_fd])
        self.set_kick(index, None if polling else driver.kick_fd)
        if enable and self.virtio_features & VirtioFeature.PROTOCOL_FEATURES:
            self.enable_vring(index)

    def set_kick(self, index: int, fd: int | None) -> None:
        self.set(Request.SET_VRING_KICK, VringFd(index, fd is not None), () if fd is None else [fd])

    def enable_vring(self, index: int, enabled: bool = True) -> None:
        self.set(Request.SET_VRING_ENABLE, VringState(index, int(enabled)))

    def stop_vring(self, index: int) -> int:
        """GET_VRING_BASE: stop the vring; returns the available index it stopped at."""
        self.send(Request.GET_VRING_BASE, VringState(index, 0))
        payload = self.receive(Request.GET_VRING_BASE)
        if len(payload) != _STATE.size:
            raise BadBackend(f"reply to GET_VRING_BASE of {len(payload)} bytes, expected 8")
        answered, base = _STATE.unpack(payload)
        if answered != index:
            raise BadBackend(f"reply to GET_VRING_BASE about vring {answered}, expected {index}")
        return int(base)

    def close(self) -> None:
        """Vanish: close the connection and the drivers' eventfds. Guest memory is the caller's."""
        self.sock.close()
        for driver in self.drivers.values():
            driver.close()
        self.drivers.clear()

    def __enter__(self) -> "Frontend":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def vring_addr(index: int, driver: Driver, *, log: int | None = None) -> VringAddr:
    """The SET_VRING_ADDR body of a driver's vring."""
    user_addr = driver.memory.user_addr
    return VringAddr(
        index,
        0 if log is None else VRING_ADDR_LOG,
        desc=user_addr(driver.desc_gpa),
        used=user_addr(driver.used_gpa),
        avail=user_addr(driver.avail_gpa),
        log=log or 0,
    )


def _region_body(region: GuestRegion) -> RegionBody:
    return RegionBody(region.gpa, region.size, region.user_addr, region.mmap_offset)
