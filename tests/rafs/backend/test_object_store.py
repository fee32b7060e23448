"""Object stores: ranges of blobs, whose fault it is when there are none, and the ways there.

S3 is asked from OpenStack Swift, GCS and Azure from fakes that check signatures.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from rafs.errors import BlobAuthError, BlobNetworkError, BlobNotFound, BlobUnavailable
from tests.fakes.blob_readers import BLOB_ID, CONTENT, backend_of, check_reads
from tests.fakes.object_stores import FakeAzure, FakeGcs
from tests.fakes.s3_server import S3Server, s3_server, section_of


async def test_s3(s3: S3Server) -> None:
    async with backend_of("s3", section_of(s3)) as backend:
        await check_reads(backend)


async def test_s3_below_a_prefix(s3: S3Server) -> None:
    async with backend_of("s3", section_of(s3, object_prefix="images/")) as backend:
        assert await backend.read_range(BLOB_ID, 0, 8) == b"prefixed"
    async with backend_of("s3", section_of(s3, object_prefix=BLOB_ID[:10])) as backend:
        with pytest.raises(BlobNotFound):
            await backend.read_range(BLOB_ID, 0, 8)


@pytest.mark.parametrize(
    ("changes", "error", "reason"),
    [
        ({"access_key_secret": "hunter2"}, BlobAuthError, r"refuses us \(SignatureDoesNotMatch\)"),
        ({"access_key_id": "hunter2"}, BlobAuthError, r"refuses us \(SignatureDoesNotMatch\)"),
        ({"region": "elsewhere"}, BlobUnavailable, r"answers 400 \(AuthorizationHeaderMalformed\)"),
        ({"bucket_name": "other"}, BlobNotFound, "has no such bucket"),
        ({"endpoint": "127.0.0.1:1"}, BlobNetworkError, "127.0.0.1:1: no connection: Connection refused"),
        ({"endpoint": "nowhere.invalid"}, BlobNetworkError, "nowhere.invalid: its name cannot be resolved"),
        ({"scheme": "https"}, BlobNetworkError, "no connection"),
    ],
)
async def test_errors_say_whose_fault_it_is(
    s3: S3Server, changes: dict[str, str], error: type[BlobUnavailable], reason: str
) -> None:
    async with backend_of("s3", section_of(s3, **changes)) as backend:
        where = "9 bytes at offset 5 in bucket"
        with pytest.raises(error, match=f"^blob {BLOB_ID}: {where}.*{reason}") as caught:
            await backend.read_range(BLOB_ID, 5, 9)
        assert "hunter2" not in str(caught.value) and s3.secret_key not in str(caught.value)
        with pytest.raises(error):
            await backend.blob_size(BLOB_ID)


async def test_what_the_environment_says_has_no_effect(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of somebody else")
    monkeypatch.setenv("AWS_ENDPOINT", "http://127.0.0.1:1")
    async with backend_of("s3", section_of(s3)) as backend:
        await check_reads(backend)


async def test_a_server_that_goes() -> None:
    with s3_server({"bucket": {BLOB_ID: CONTENT}}) as server:
        async with backend_of("s3", section_of(server)) as backend:
            await backend.read_range(BLOB_ID, 0, 10)
            server.process.kill()
            server.process.wait()
            with pytest.raises(BlobNetworkError):
                await backend.read_range(BLOB_ID, 0, 10)


async def test_gcs(tmp_path: Path) -> None:
    async with FakeGcs({f"bucket/images/{BLOB_ID}": CONTENT}) as server:
        section = {"bucket_name": "bucket", "endpoint": server.url, "object_prefix": "images/"}
        async with backend_of("gcs", {**section, "service_account_key": server.service_account()}) as backend:
            await check_reads(backend)
        (tmp_path / "key.json").write_text(server.service_account())
        by_file = {**section, "service_account_file": str(tmp_path / "key.json")}
        async with backend_of("gcs", by_file) as backend:
            await check_reads(backend)
        another = {**section, "service_account_key": FakeGcs({}).service_account()}
        for wrong in (section, another):
            async with backend_of("gcs", wrong) as backend:
                with pytest.raises(BlobAuthError, match="refuses us"):
                    await backend.read_range(BLOB_ID, 0, 10)
    async with FakeGcs({f"bucket/{BLOB_ID}": CONTENT}, public=True) as server:
        async with backend_of("gcs", {"bucket_name": "bucket", "endpoint": server.url}) as backend:
            await check_reads(backend)
        assert all("Authorization" not in request.headers for request in server.requests)


async def test_azure() -> None:
    async with FakeAzure({f"container/{BLOB_ID}": CONTENT}) as server:
        section = {"account_name": server.ACCOUNT, "container_name": "container", "endpoint": server.url}
        for credential in ({"account_key": server.KEY}, {"sas_token": server.SAS}):
            async with backend_of("azure", {**section, **credential}) as backend:
                await check_reads(backend)
        for wrong in ({}, {"account_key": "aHVudGVyMg=="}, {"sas_token": "sig=hunter2"}):
            async with backend_of("azure", {**section, **wrong}) as backend:
                with pytest.raises(BlobAuthError, match="refuses us") as caught:
                    await backend.read_range(BLOB_ID, 0, 10)
                assert "hunter2" not in str(caught.value)
