"""Answers: is it what was asked for? Checked before a byte of the body is used, and while it is read.

A server may be a captive portal, a login page, a cache that ignores Range, or broken: what does not fit the
question is refused, with a sentence that says how. What begins with `check_` or `parse_` reads nothing.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from rafs.backend.http import (
    LONGEST_TIMEOUT_S,
    MIN_BYTES_PER_S,
    HttpFailure,
    HttpOptions,
    Kind,
    parse_retry_after,
)

if TYPE_CHECKING:
    import aiohttp

#: of the body of an error or of a redirect; more of it is not worth the connection
MAX_ERROR_BODY = 64 << 10
#: a body whose length is not told, as that of a manifest or a token, may have so much
MAX_DOCUMENT = 16 << 20
DRAIN_TIMEOUT_S = 2.0

_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)")
_WEB_PAGES = ("text/html", "application/xhtml+xml")
#: what a status means that is no success; others by their class
_KINDS: dict[int, Kind] = {
    401: "auth",
    403: "auth",
    404: "missing",
    407: "auth",
    408: "network",
    410: "missing",
    416: "corrupt",
    425: "network",
    429: "network",
}


class ByteRange(NamedTuple):
    """Of a resource: `length` > 0 bytes at `offset`."""

    offset: int
    length: int

    @property
    def header(self) -> str:
        return f"bytes={self.offset}-{self.offset + self.length - 1}"


def check_range_answer(response: aiohttp.ClientResponse, asked: ByteRange, host: str) -> int | None:
    """Raise HttpFailure unless a 200 or 206 has exactly the bytes that were asked for.

    Return the size of the whole resource, if the answer tells.
    """
    headers = response.headers
    check_plain(headers, host)
    if response.status == 200:
        if asked.offset == 0 and response.content_length == asked.length:
            return asked.length
        raise HttpFailure(
            "corrupt", host, "sends the whole blob where a range was asked for (200 instead of 206)"
        )
    said = headers.get("Content-Range", "")
    match = _CONTENT_RANGE.fullmatch(said.strip())
    last = asked.offset + asked.length - 1
    if match is None or (int(match[1]), int(match[2])) != (asked.offset, last):
        shown = f"Content-Range {said[:80]!r}" if said else "no Content-Range"
        raise HttpFailure("corrupt", host, f"answers with {shown} to a request for {asked.offset}-{last}")
    if response.content_length not in (None, asked.length):
        count = response.content_length
        raise HttpFailure("corrupt", host, f"announces {count} bytes where {asked.length} were asked for")
    return None if match[3] == "*" else int(match[3])


def check_plain(headers: Mapping[str, str], host: str) -> None:
    """Raise HttpFailure when a body is a web page, or encoded though that was not asked for."""
    kind = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind in _WEB_PAGES:
        raise HttpFailure("corrupt", host, "answers with a web page (a proxy or a login in between?)")
    if headers.get("Content-Encoding", "identity").strip().lower() not in ("identity", ""):
        raise HttpFailure("corrupt", host, "encodes the body though that was not asked for")


async def read_body(response: aiohttp.ClientResponse, length: int, host: str, options: HttpOptions) -> bytes:
    """Read a body of exactly `length` bytes. Raises HttpFailure when it has more or fewer, or stalls."""
    pieces: list[bytes] = []
    got = 0
    while got < length:
        # a drip that never stops is a stall too: each window must bring its share
        share = min(length - got, max(1, int(MIN_BYTES_PER_S * options.timeout_s)))
        try:
            async with asyncio.timeout(options.timeout_s):
                before = got
                while got - before < share:
                    piece = await response.content.readany()
                    if not piece:
                        raise HttpFailure("network", host, f"the body ended after {got} of {length} bytes")
                    pieces.append(piece)
                    got += len(piece)
        except TimeoutError:
            reason = f"the body stalled after {got} of {length} bytes"
            raise HttpFailure("network", host, reason) from None
    if got > length or not await _at_end(response, options):
        raise HttpFailure("corrupt", host, f"sends more than the {length} bytes that were asked for")
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


async def _at_end(response: aiohttp.ClientResponse, options: HttpOptions) -> bool:
    if response.content.at_eof():
        return True
    async with asyncio.timeout(options.timeout_s):
        return not await response.content.readany()


async def read_document(response: aiohttp.ClientResponse, host: str, limit: int = MAX_DOCUMENT) -> bytes:
    """Read a body whose length is not known. Raises HttpFailure when it has more than `limit` bytes."""
    pieces: list[bytes] = []
    got = 0
    try:
        async with asyncio.timeout(LONGEST_TIMEOUT_S):
            while piece := await response.content.readany():
                got += len(piece)
                if got > limit:
                    raise HttpFailure("corrupt", host, f"sends a document of more than {limit} bytes")
                pieces.append(piece)
    except TimeoutError:
        raise HttpFailure("network", host, f"the body stalled after {got} bytes") from None
    return b"".join(pieces)


async def drain(response: aiohttp.ClientResponse) -> bytes:
    """Read the little that is left, so that the connection can be used again; give the beginning of it."""
    pieces: list[bytes] = []
    got = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_TIMEOUT_S):
            while got < MAX_ERROR_BODY and (piece := await response.content.readany()):
                got += len(piece)
                pieces.append(piece)
    return b"".join(pieces)


async def refusal(response: aiohttp.ClientResponse, host: str) -> HttpFailure:
    """What an answer that is no success means. Reads its body for the reason that a registry gives."""
    status = response.status
    default: Kind = "network" if status >= 500 else "other"
    kind = _KINDS.get(status, default)
    said = _reason_in(await drain(response))
    text = f"answers {status} {response.reason or ''}".rstrip() + (f" ({said})" if said else "")
    return HttpFailure(
        kind,
        host,
        text,
        status=status,
        retry_after=parse_retry_after(response.headers.get("Retry-After")),
        again=kind == "network",
    )


def _reason_in(body: bytes) -> str:
    """The code in an OCI error document or an object store's XML; no free text: that may repeat secrets."""
    try:
        code = json.loads(body)["errors"][0]["code"]
    except (ValueError, LookupError, TypeError):
        match = re.search(rb"<Code>([A-Za-z.]{1,64})</Code>", body)
        return match[1].decode() if match else ""
    return code if isinstance(code, str) and re.fullmatch(r"[A-Za-z_]{1,64}", code) else ""
