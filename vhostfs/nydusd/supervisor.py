"""The supervisor of nydus-snapshotter: it keeps a daemon's state and a descriptor over its death.

It listens, anew for each exchange and on one path for both directions (contract 4.6). Who sends connects,
sends the state with the descriptor beside its first bytes, and hangs up; who takes over connects and reads to
the end. It waits for a connection without a limit: so there is one even when there is nothing to send.

Everything here blocks, TIMEOUT_S at most a step. Raises SupervisorError.
"""

from __future__ import annotations

import array
import os
import socket

TIMEOUT_S = 5.0
MAX_STATE = 64 << 20


class SupervisorError(Exception):
    """The exchange failed; the text says how."""


def send(path: str, state: bytes, fd: int) -> None:
    """Hand `state` and a duplicate of `fd` over."""
    try:
        with _connect(path) as connection:
            sent = socket.send_fds(connection, [state], [fd])
            connection.sendall(state[sent:])
    except OSError as error:
        raise SupervisorError(
            f"cannot send to the supervisor at {path}: {error.strerror or error}"
        ) from error


def send_nothing(path: str) -> None:
    """End the supervisor's wait."""
    try:
        _connect(path).close()
    except OSError as error:
        raise SupervisorError(f"cannot reach the supervisor at {path}: {error.strerror or error}") from error


def receive(path: str) -> tuple[bytes, int]:
    """The state and the descriptor that a predecessor sent; the descriptor is the caller's."""
    pieces: list[bytes] = []
    fds: list[int] = []
    try:
        with _connect(path) as connection:
            while True:
                piece, ancillary, _, _ = connection.recvmsg(
                    256 << 10, socket.CMSG_SPACE(8 * array.array("i").itemsize)
                )
                for level, kind, payload in ancillary:
                    if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                        got = array.array("i")
                        got.frombytes(payload[: len(payload) - len(payload) % got.itemsize])
                        fds += got
                if not piece:
                    break
                pieces.append(piece)
                if sum(map(len, pieces)) > MAX_STATE:
                    raise SupervisorError(f"the supervisor at {path} sends more than {MAX_STATE} bytes")
        if not fds or not pieces:
            raise SupervisorError(f"the supervisor at {path} has nothing to hand over")
        os.set_inheritable(fds[0], False)
        return b"".join(pieces), fds.pop(0)
    except OSError as error:
        raise SupervisorError(
            f"cannot take over from the supervisor at {path}: {error.strerror or error}"
        ) from error
    finally:
        for fd in fds:
            os.close(fd)


def _connect(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        connection.settimeout(TIMEOUT_S)
        connection.connect(path)
    except BaseException:
        connection.close()
        raise
    return connection
