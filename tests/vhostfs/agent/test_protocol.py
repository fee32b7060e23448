"""Messages: there and back, and everything else is refused without a word of what was in it."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from native.dataplane import BLOB_RECORD
from rafs.blob_record import BlobRecord
from rafs.errors import ImageCorrupt
from rafs.limits import CacheLimits
from rafs.metered import BackendStatistics
from rafs.prefetch.options import PrefetchOptions
from rafs.prefetch.statistics import PrefetchStatistics
from tests.fakes.blobs import make_blob, make_chunks
from vhostfs.agent.protocol import (
    MAX_FDS,
    MAX_MESSAGE,
    Adjust,
    AskFigures,
    BackendFigures,
    BlobEntry,
    CloseBlob,
    Done,
    Figures,
    Hello,
    Message,
    OpenBlob,
    Opened,
    Prefetch,
    ProtocolError,
    Refused,
    StopPrefetch,
    Welcome,
    decode_reply,
    decode_request,
    encode,
)

RECORD = BlobRecord.parse(BLOB_RECORD.parse(make_blob(make_chunks([5000] * 8)).entry))
OPEN = OpenBlob(
    7, 8, b"{}", {"registry_auth": "c2VjcmV0"}, ["/a", "/b"], BlobEntry.of(RECORD), "", CacheLimits()
)
REQUESTS: list[tuple[Message, int]] = [
    (Hello(1), 3),
    (OPEN, 2),
    (msgspec.structs.replace(OPEN, told="digests"), 3),
    (CloseBlob(1, 2), 0),
    (Adjust(1, [2, 3], {"proxy_url": "http://x"}), 0),
    (Prefetch(1, 2, [3], PrefetchOptions(everything=True)), 1),
    (StopPrefetch(1, 2), 0),
    (AskFigures(1, [2], 0), 0),
]
REPLIES: list[tuple[Message, int]] = [
    (Welcome(1), 0),
    (Opened(3), 6),
    (Done(4), 0),
    (Refused(5, "no"), 0),
    (Figures(6, {"requests": 1}, {}, {}, BackendFigures.of(BackendStatistics()), PrefetchStatistics()), 0),
]


@pytest.mark.parametrize(("message", "fds"), REQUESTS, ids=lambda value: type(value).__name__)
def test_requests_there_and_back(message: Message, fds: int) -> None:
    assert decode_request(encode(message), fds) == message
    for wrong in (fds + 1, fds - 1):
        with pytest.raises(ProtocolError):
            decode_request(encode(message), wrong)
    with pytest.raises(ProtocolError):
        decode_reply(encode(message), fds)


@pytest.mark.parametrize(("message", "fds"), REPLIES, ids=lambda value: type(value).__name__)
def test_replies_there_and_back(message: Message, fds: int) -> None:
    assert decode_reply(encode(message), fds) == message
    with pytest.raises(ProtocolError):
        decode_reply(encode(message), fds + 1)
    with pytest.raises(ProtocolError):
        decode_request(encode(message), fds)


@given(st.binary(max_size=200))
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_request(data, 0)


@given(st.data())
def test_spoilt_messages_are_refused_or_are_others(data: st.DataObject) -> None:
    """Nothing but ProtocolError comes out of it, and no secret."""
    good = encode(OPEN)
    at = data.draw(st.integers(0, len(good) - 1))
    spoilt = good[:at] + data.draw(st.binary(max_size=9)) + good[at + data.draw(st.integers(0, 9)) :]
    try:
        decode_request(spoilt, 2)
    except ProtocolError as error:
        assert "c2VjcmV0" not in str(error) and error.__cause__ is None


def test_bounds() -> None:
    with pytest.raises(ProtocolError, match="a message of"):
        decode_request(bytes(MAX_MESSAGE + 1), 0)
    with pytest.raises(ValueError, match="at most"):
        encode(Refused(1, "x" * MAX_MESSAGE))
    many = msgspec.structs.replace(OPEN, files=["/a"] * (MAX_FDS + 1))
    with pytest.raises(ProtocolError):
        decode_request(encode(many), MAX_FDS + 1)


def test_a_record_is_checked_again() -> None:
    assert BlobEntry.of(RECORD).record() == RECORD
    with pytest.raises(ImageCorrupt):
        msgspec.structs.replace(BlobEntry.of(RECORD), blob_id="../../etc/passwd").record()
    with pytest.raises(ImageCorrupt):
        msgspec.structs.replace(BlobEntry.of(RECORD), chunk_count=1 << 30).record()
