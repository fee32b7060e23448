"""The API socket: appears when it can answer, and goes first at the end."""

from __future__ import annotations

from functools import partial

from vhostfs.api.http import HttpServer
from vhostfs.api.routes import Routes, answer
from virtqueue.listener import Listener


class ApiServer:
    """`async with` it to serve `routes` at `path`. Raises OSError: the socket cannot be made."""

    def __init__(self, path: str, routes: Routes) -> None:
        self._path = path
        self._server = HttpServer(partial(answer, routes))
        self._listener: Listener | None = None

    async def __aenter__(self) -> ApiServer:
        self._listener = Listener.bind(self._path, backlog=1024)
        try:
            await self._server.start(self._listener)
        except BaseException:  # a signal comes in this very moment
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._listener is not None:
            self._listener.unlink()
        await self._server.close()
        if self._listener is not None:
            self._listener.close()
