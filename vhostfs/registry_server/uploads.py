"""Blobs on their way in: sessions that grow by parts, are hashed as they grow, and end with a digest or not.

A part that breaks off leaves what came of it, so that the client can ask and go on. Sessions live as long as
the server, and for IDLE_S without a request.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vhostfs.registry_server.errors import Refusal
from vhostfs.registry_server.store import DIGEST, Store

MAX_SESSIONS = 1000
IDLE_S = 3600.0
_WRITE_SIZE = 1 << 20


@dataclass
class Session:
    """An upload to repository `name` that has `offset` bytes."""

    id: str
    name: str
    path: Path
    used_at: float
    offset: int = 0
    sha256: Any = field(default_factory=hashlib.sha256)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def headers(self) -> dict[str, str]:
        return {
            "Location": f"/v2/{self.name}/blobs/uploads/{self.id}",
            "Range": f"0-{max(self.offset - 1, 0)}",
            "Docker-Upload-UUID": self.id,
        }


class Uploads:
    """The sessions of one server. Used on its event loop."""

    def __init__(self, store: Store, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._sessions: dict[str, Session] = {}

    def begin(self, name: str) -> Session:
        self._expire()
        if len(self._sessions) >= MAX_SESSIONS:
            raise Refusal("TOOMANYREQUESTS", f"{MAX_SESSIONS} uploads are open; end or cancel some")
        id_ = secrets.token_hex(16)
        session = self._sessions[id_] = Session(id_, name, self._store.uploads / id_, self._clock())
        session.path.touch()
        return session

    def find(self, name: str, id_: str) -> Session:
        session = self._sessions.get(id_)
        if session is None or session.name != name:
            raise Refusal("BLOB_UPLOAD_UNKNOWN", "no such upload; begin a new one")
        session.used_at = self._clock()
        return session

    def cancel(self, session: Session) -> None:
        self._sessions.pop(session.id, None)
        session.path.unlink(missing_ok=True)

    def _expire(self) -> None:
        now = self._clock()
        for session in list(self._sessions.values()):
            if now - session.used_at > IDLE_S and not session.lock.locked():
                self.cancel(session)

    async def append(self, session: Session, start: int | None, body: AsyncIterator[bytes]) -> None:
        """Add `body` at the end, which must be at byte `start`, if that is said."""
        if session.lock.locked():
            raise Refusal("RANGE_INVALID", "another request writes to this upload", session.headers)
        async with session.lock:
            if start not in (None, session.offset):
                raise Refusal(
                    "RANGE_INVALID", f"the next byte is {session.offset}, not {start}", session.headers
                )
            waiting = bytearray()
            try:
                async for piece in body:
                    waiting += piece
                    if len(waiting) >= _WRITE_SIZE:
                        await self._write(session, waiting)
                        waiting = bytearray()
            finally:
                await self._write(session, waiting)
                session.used_at = self._clock()

    async def _write(self, session: Session, data: bytearray) -> None:
        def work() -> None:
            with session.path.open("r+b") as file:
                file.seek(session.offset)
                file.write(data)
            session.sha256.update(data)

        if data:
            await asyncio.to_thread(work)
            session.offset += len(data)

    async def finish(self, session: Session, digest: str) -> None:
        """Make a blob of the upload. What has another digest is thrown away."""
        if not DIGEST.fullmatch(digest):
            raise Refusal("DIGEST_INVALID", f"{digest[:100]!r} is no digest by SHA-256")
        actual = f"sha256:{session.sha256.hexdigest()}"
        if actual != digest:
            self.cancel(session)
            raise Refusal("DIGEST_INVALID", f"what was sent has the digest {actual}, not {digest}")
        await asyncio.to_thread(self._store.take, session.path, digest)
        await asyncio.to_thread(self._store.link_blob, session.name, digest)
        self._sessions.pop(session.id, None)
