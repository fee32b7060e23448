"""``Parser``: a stream of bytes and descriptors -> vhost-user messages. No IO.

``Parser`` takes bytes in any pieces, with the descriptors that came with each piece, and gives back one of
three: a ``Message``, None (need more), or ``ProtocolError``. Descriptors belong to the message in which their
piece begins, so a reader that asks for at most ``Parser.wanted`` bytes at a time never mixes two messages up.
(The kernel ends a read after the buffer that brought descriptors, but lets it begin in an earlier message.)

Ownership: descriptors fed in are the parser's until ``next_message`` returns the message that has them.
``Parser.close`` closes what is left, after an error or at the end of the stream.
"""

from collections import deque
from collections.abc import Sequence

from virtqueue.errors import ProtocolError
from virtqueue.fd import Fd
from virtqueue.messages import (
    FLAG_NEED_REPLY,
    FLAG_REPLY,
    HEADER,
    MAX_PAYLOAD_SIZE,
    MESSAGE_KINDS,
    NOT_OURS,
    VERSION,
    VERSION_MASK,
    Message,
    Request,
    check_fds,
    request_name,
)


class Parser:
    """Incremental reader of front-end messages; see the module's contract. Errors are final."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._consumed = 0  # bytes of the stream that became messages
        self._fds: deque[tuple[int, Fd]] = deque()  # (stream position of its piece, descriptor)
        self._error: ProtocolError | None = None

    @property
    def wanted(self) -> int:
        """Bytes to read next: up to the end of the header, or of the payload. 0: a message is ready."""
        have = len(self._buffer)
        if have < HEADER.size:
            return HEADER.size - have
        size: int = HEADER.unpack_from(self._buffer)[2]
        return max(0, HEADER.size + min(size, MAX_PAYLOAD_SIZE) - have)

    @property
    def mid_message(self) -> bool:
        """True when a message has begun and is not whole: no good place for the stream to end."""
        return bool(self._buffer)

    def feed(self, data: bytes, fds: Sequence[Fd] = ()) -> None:
        """Append a piece of the stream and the descriptors that came with it (now the parser's)."""
        position = self._consumed + len(self._buffer)
        self._buffer += data
        self._fds.extend((position, fd) for fd in fds)

    def next_message(self) -> Message | None:
        """The next whole message, or None. ProtocolError, again on each later call, for a bad stream."""
        if self._error is not None:
            raise self._error
        try:
            return self._next_message()
        except ProtocolError as error:
            self._error = error
            raise

    def _next_message(self) -> Message | None:
        if len(self._buffer) < HEADER.size:
            return None
        number, flags, size = HEADER.unpack_from(self._buffer)
        request = Request(number) if number in MESSAGE_KINDS else number
        name = request_name(request)
        if flags & VERSION_MASK != VERSION:
            raise ProtocolError(f"{name}: protocol version {flags & VERSION_MASK}, expected {VERSION}")
        if flags & FLAG_REPLY:
            raise ProtocolError(f"{name}: the reply flag is set in a request")
        if size > MAX_PAYLOAD_SIZE:
            raise ProtocolError(f"{name}: payload of {size} bytes, at most {MAX_PAYLOAD_SIZE} are accepted")
        end = HEADER.size + size
        if len(self._buffer) < end:
            return None
        payload = bytes(self._buffer[HEADER.size : end])
        fd_count = sum(position < self._consumed + end for position, _ in self._fds)
        kind = MESSAGE_KINDS.get(request, NOT_OURS)
        body = kind.parse(payload, name)
        check_fds(name, kind, body, fd_count)
        del self._buffer[:end]
        self._consumed += end
        fds = tuple(self._fds.popleft()[1] for _ in range(fd_count))
        return Message(request, body, fds, need_reply=bool(flags & FLAG_NEED_REPLY))

    def close(self) -> None:
        """Close every descriptor that no message took along."""
        while self._fds:
            self._fds.popleft()[1].close()
