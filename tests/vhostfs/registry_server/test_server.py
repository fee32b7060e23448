"""The Distribution API of our registry, request by request."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from rafs.oci.descriptor import (
    MAX_DOCUMENT,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER_GZIP,
    OCI_MANIFEST,
    Descriptor,
    sha256_digest,
)
from vhostfs.registry_server import uploads as uploads_module
from vhostfs.registry_server.server import Registry
from vhostfs.registry_server.store import Store, StoreError

CONTENT = bytes(range(256)) * 100
DIGEST = sha256_digest(CONTENT)


class Client:
    """Requests to one registry; each answer is (status, headers, body)."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self.session = session
        self.url = url

    async def __call__(
        self, method: str, path: str, data: Any = None, **headers: str
    ) -> tuple[int, Any, bytes]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        url = path if path.startswith("http") else self.url + path
        body = io.BytesIO(data) if isinstance(data, bytes) else data
        async with self.session.request(method, url, data=body, headers=named) as response:
            return response.status, response.headers, await response.read()

    async def push(self, content: bytes, name: str = "a/b") -> str:
        digest = sha256_digest(content)
        status, _, _ = await self("POST", f"/v2/{name}/blobs/uploads/?digest={digest}", content)
        assert status == 201
        return digest

    async def push_manifest(
        self, target: str, document: dict[str, Any], media_type: str = OCI_MANIFEST
    ) -> str:
        content = json.dumps(document).encode()
        status, headers, body = await self(
            "PUT", f"/v2/a/b/manifests/{target}", content, Content_Type=media_type
        )
        assert status == 201, body
        digest: str = headers["Docker-Content-Digest"]
        assert digest == sha256_digest(content)
        return digest


@asynccontextmanager
async def served(folder: Path) -> AsyncIterator[Client]:
    store = Store(folder)
    runner = web.AppRunner(Registry(store).app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with aiohttp.ClientSession() as session:
            yield Client(session, f"http://127.0.0.1:{runner.addresses[0][1]}")
    finally:
        await runner.cleanup()
        store.close()


def error_of(body: bytes) -> str:
    code: str = json.loads(body)["errors"][0]["code"]
    return code


def image(config: str, *layers: str, **more: Any) -> dict[str, Any]:
    sizes = {"size": 1}
    return {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": OCI_CONFIG, "digest": config, **sizes},
        "layers": [{"mediaType": OCI_LAYER_GZIP, "digest": layer, **sizes} for layer in layers],
        **more,
    }


async def test_blobs(tmp_path: Path) -> None:
    async with served(tmp_path) as ask:
        status, headers, _ = await ask("GET", "/v2/")
        assert (status, headers["Docker-Distribution-API-Version"]) == (200, "registry/2.0")
        assert await ask.push(CONTENT) == DIGEST
        status, headers, body = await ask("GET", f"/v2/a/b/blobs/{DIGEST}")
        assert (status, body, headers["Docker-Content-Digest"]) == (200, CONTENT, DIGEST)
        status, headers, body = await ask("HEAD", f"/v2/a/b/blobs/{DIGEST}")
        assert (status, body, headers["Content-Length"]) == (200, b"", str(len(CONTENT)))
        for asked, part in (("5-9", CONTENT[5:10]), ("25000-", CONTENT[25000:]), ("-7", CONTENT[-7:])):
            status, headers, body = await ask("GET", f"/v2/a/b/blobs/{DIGEST}", Range=f"bytes={asked}")
            assert (status, body) == (206, part)
            assert headers["Content-Range"].endswith(f"/{len(CONTENT)}")
        status, headers, _ = await ask("GET", f"/v2/a/b/blobs/{DIGEST}", Range="bytes=99999-")
        assert (status, headers["Content-Range"]) == (416, f"bytes */{len(CONTENT)}")
        status, _, body = await ask("GET", f"/v2/other/blobs/{DIGEST}")  # content is not everybody's
        assert (status, error_of(body)) == (404, "BLOB_UNKNOWN")


async def test_uploads_in_parts(tmp_path: Path) -> None:
    async with served(tmp_path) as ask:
        status, headers, _ = await ask("POST", "/v2/a/b/blobs/uploads/")
        location = headers["Location"]
        assert (status, headers["Range"]) == (202, "0-0")
        status, headers, _ = await ask("PATCH", location, CONTENT[:1000], Content_Range="0-999")
        assert (status, headers["Range"]) == (202, "0-999")
        # out of order, or not as long as it says
        status, headers, body = await ask("PATCH", location, b"xxx", Content_Range="2000-2002")
        assert (status, headers["Range"], error_of(body)) == (416, "0-999", "RANGE_INVALID")
        status, _, body = await ask("PATCH", location, b"xxx", Content_Range="1000-1099")
        assert (status, error_of(body)) == (400, "BLOB_UPLOAD_INVALID")
        status, headers, _ = await ask("GET", location)
        assert (status, headers["Range"]) == (204, "0-999")
        status, headers, _ = await ask("PATCH", location, CONTENT[1000:2000])  # docker says no range
        assert (status, headers["Range"]) == (202, "0-1999")
        status, headers, _ = await ask("PUT", f"{location}?digest={DIGEST}", CONTENT[2000:])
        assert (status, headers["Location"]) == (201, f"/v2/a/b/blobs/{DIGEST}")
        assert (await ask("GET", f"/v2/a/b/blobs/{DIGEST}"))[2] == CONTENT
        status, _, body = await ask("GET", location)
        assert (status, error_of(body)) == (404, "BLOB_UPLOAD_UNKNOWN")
        assert list((tmp_path / "uploads").iterdir()) == []


async def test_a_wrong_digest_is_not_stored(tmp_path: Path) -> None:
    async with served(tmp_path) as ask:
        for digest in (sha256_digest(b"other"), "sha256:abc", "md5:" + "0" * 32):
            status, _, body = await ask("POST", f"/v2/a/b/blobs/uploads/?digest={digest}", CONTENT)
            assert (status, error_of(body)) == (400, "DIGEST_INVALID")
        assert (await ask("HEAD", f"/v2/a/b/blobs/{DIGEST}"))[0] == 404
        assert list((tmp_path / "blobs" / "sha256").iterdir()) == []


async def test_mount_and_cancel(tmp_path: Path) -> None:
    async with served(tmp_path) as ask:
        await ask.push(CONTENT)
        status, headers, _ = await ask("POST", f"/v2/new/blobs/uploads/?mount={DIGEST}&from=a/b")
        assert (status, headers["Location"]) == (201, f"/v2/new/blobs/{DIGEST}")
        assert (await ask("HEAD", f"/v2/new/blobs/{DIGEST}"))[0] == 200
        # nothing to mount: an upload begins instead
        other = sha256_digest(b"other")
        status, headers, _ = await ask("POST", f"/v2/new/blobs/uploads/?mount={other}&from=a/b")
        assert status == 202
        assert (await ask("DELETE", headers["Location"]))[0] == 204
        assert (await ask("GET", headers["Location"]))[0] == 404


async def test_manifests_by_tag_and_digest(tmp_path: Path) -> None:
    async with served(tmp_path) as ask:
        config, layer = await ask.push(b"{}"), await ask.push(CONTENT)
        digest = await ask.push_manifest("v1", image(config, layer))
        for reference in ("v1", digest):
            status, headers, body = await ask("GET", f"/v2/a/b/manifests/{reference}")
            assert (status, headers["Content-Type"], sha256_digest(body)) == (200, OCI_MANIFEST, digest)
            status, headers, body = await ask("HEAD", f"/v2/a/b/manifests/{reference}")
            assert (status, headers["Docker-Content-Digest"], body) == (200, digest, b"")
        index = {"schemaVersion": 2, "manifests": [{"mediaType": OCI_MANIFEST, "digest": digest, "size": 1}]}
        await ask.push_manifest("multi", index, OCI_INDEX)
        assert json.loads((await ask("GET", "/v2/a/b/tags/list"))[2]) == {
            "name": "a/b",
            "tags": ["multi", "v1"],
        }
        assert json.loads((await ask("GET", "/v2/_catalog"))[2]) == {"repositories": ["a/b"]}
        # a tag moves
        moved = await ask.push_manifest("v1", image(config))
        assert (await ask("HEAD", "/v2/a/b/manifests/v1"))[1]["Docker-Content-Digest"] == moved
        assert (await ask("HEAD", f"/v2/a/b/manifests/{digest}"))[0] == 200


async def test_lists_have_pages(tmp_path: Path) -> None:
    async with served(tmp_path) as ask:
        config = await ask.push(b"{}")
        for number in range(5):
            await ask.push_manifest(f"t{number}", image(config))
        found, path, pages = [], "/v2/a/b/tags/list?n=2", 0
        while path:
            _, headers, body = await ask("GET", path)
            found += json.loads(body)["tags"]
            path = headers["Link"].partition(">")[0][1:] if "Link" in headers else ""
            pages += 1
        assert (found, pages) == ([f"t{number}" for number in range(5)], 3)


REFUSED: dict[str, tuple[str, Any, str, int, str]] = {
    "not json": ("v1", b"{", OCI_MANIFEST, 400, "MANIFEST_INVALID"),
    "no object": ("v1", b"[]", OCI_MANIFEST, 400, "MANIFEST_INVALID"),
    "deep": ("v1", b"[" * 100_000, OCI_MANIFEST, 400, "MANIFEST_INVALID"),
    "type": ("v1", b"{}", "text/plain", 400, "MANIFEST_INVALID"),
    "other type": ("v1", image(DIGEST), OCI_INDEX, 400, "MANIFEST_INVALID"),
    "no layers": ("v1", {"config": {}}, OCI_MANIFEST, 400, "MANIFEST_INVALID"),
    "digests": ("v1", image("sha256:../../etc/passwd"), OCI_MANIFEST, 400, "MANIFEST_INVALID"),
    "blob": ("v1", image(sha256_digest(b"none")), OCI_MANIFEST, 400, "MANIFEST_BLOB_UNKNOWN"),
    "digest": (sha256_digest(b"none"), image(DIGEST), OCI_MANIFEST, 400, "DIGEST_INVALID"),
    "tag": ("-v1", image(DIGEST), OCI_MANIFEST, 400, "MANIFEST_INVALID"),
    "size": ("v1", b" " * (MAX_DOCUMENT + 1), OCI_MANIFEST, 413, "SIZE_INVALID"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_manifests_that_are_refused(tmp_path: Path, case: str) -> None:
    target, document, media_type, wanted, code = REFUSED[case]
    content = document if isinstance(document, bytes) else json.dumps(document).encode()
    async with served(tmp_path) as ask:
        await ask.push(CONTENT)
        status, _, body = await ask("PUT", f"/v2/a/b/manifests/{target}", content, Content_Type=media_type)
        assert (status, error_of(body)) == (wanted, code)
        assert (await ask("GET", "/v2/a/b/manifests/v1"))[0] == 404


@pytest.mark.parametrize(
    ("method", "path", "wanted"),
    [
        ("GET", "/v2/UPPER/tags/list", 404),
        ("GET", "/v2/a/../../etc/blobs/" + DIGEST, 404),
        ("GET", "/v2/_tags/blobs/" + DIGEST, 404),
        ("GET", "/v2/" + "n" * 300 + "/tags/list", 400),
        ("GET", "/v2/none/tags/list", 404),
        ("GET", "/v2/a/b/blobs/sha256:..%2f..%2fx", 400),
        ("DELETE", "/v2/a/b/blobs/" + DIGEST, 404),
        ("DELETE", "/v2/a/b/manifests/v1", 404),
        ("PATCH", "/v2/a/b/blobs/uploads/none", 404),
        ("POST", "/v2/a/b/manifests/v1", 405),
    ],
)
async def test_requests_that_are_refused(tmp_path: Path, method: str, path: str, wanted: int) -> None:
    async with served(tmp_path) as ask:
        status, _, body = await ask(method, path)
        assert (status, bool(error_of(body))) == (wanted, True)


async def test_referrers(tmp_path: Path) -> None:
    async with served(tmp_path) as ask:
        config = await ask.push(b"{}")
        subject_content = json.dumps(image(config)).encode()
        subject = Descriptor.of(subject_content, OCI_MANIFEST)

        def artifact(kind: str | None, number: str) -> dict[str, Any]:
            more: dict[str, Any] = {"subject": subject.document(), "annotations": {"number": number}}
            return image(config, **more, **({"artifactType": kind} if kind else {}))

        # before the subject itself is there
        content = json.dumps(artifact("a/trace", "1")).encode()
        status, headers, _ = await ask("PUT", "/v2/a/b/manifests/one", content, Content_Type=OCI_MANIFEST)
        assert (status, headers["OCI-Subject"]) == (201, subject.digest)
        one, two = sha256_digest(content), await ask.push_manifest("two", artifact(None, "2"))
        await ask.push_manifest("subject", image(config))

        status, headers, body = await ask("GET", f"/v2/a/b/referrers/{subject.digest}")
        assert (status, headers["Content-Type"].partition(";")[0]) == (200, OCI_INDEX)
        found = {entry["digest"]: entry for entry in json.loads(body)["manifests"]}
        assert found[one]["artifactType"] == "a/trace" and found[one]["annotations"] == {"number": "1"}
        assert found[two]["artifactType"] == OCI_CONFIG and found.keys() == {one, two}
        status, headers, body = await ask("GET", f"/v2/a/b/referrers/{subject.digest}?artifactType=a/trace")
        assert headers["OCI-Filters-Applied"] == "artifactType"
        assert [entry["digest"] for entry in json.loads(body)["manifests"]] == [one]
        assert (await ask("DELETE", f"/v2/a/b/manifests/{one}"))[0] == 202
        _, _, body = await ask("GET", f"/v2/a/b/referrers/{subject.digest}")
        assert [entry["digest"] for entry in json.loads(body)["manifests"]] == [two]
        status, _, body = await ask("GET", f"/v2/a/b/referrers/{DIGEST}")
        assert (status, json.loads(body)["manifests"]) == (200, [])


async def test_deleting(tmp_path: Path) -> None:
    async with served(tmp_path) as ask:
        config, layer = await ask.push(b"{}"), await ask.push(CONTENT)
        await ask.push(CONTENT, "other")
        digest = await ask.push_manifest("v1", image(config, layer))
        await ask.push_manifest("v2", image(config, layer))
        assert (await ask("DELETE", "/v2/a/b/manifests/v1"))[0] == 202
        assert (await ask("HEAD", f"/v2/a/b/manifests/{digest}"))[0] == 200
        assert (await ask("DELETE", f"/v2/a/b/manifests/{digest}"))[0] == 202
        assert (await ask("HEAD", "/v2/a/b/manifests/v2"))[0] == 404
        assert (await ask("DELETE", f"/v2/a/b/blobs/{layer}"))[0] == 202
        assert (await ask("HEAD", f"/v2/a/b/blobs/{layer}"))[0] == 404
        # another repository has it still
        assert (await ask("GET", f"/v2/other/blobs/{layer}"))[2] == CONTENT
        assert (await ask("DELETE", f"/v2/other/blobs/{layer}"))[0] == 202
        left = {path.name for path in (tmp_path / "blobs" / "sha256").iterdir()}
        assert left == {hashlib.sha256(b"{}").hexdigest()}


async def test_what_was_pushed_is_there_after_a_restart(tmp_path: Path) -> None:
    async with served(tmp_path) as ask:
        digest = await ask.push_manifest("v1", image(await ask.push(b"{}")))
        _, headers, _ = await ask("POST", "/v2/a/b/blobs/uploads/")
        await ask("PATCH", headers["Location"], b"half")
        with pytest.raises(StoreError, match="is served by another process"):
            Store(tmp_path)
        kept = {path.name for path in (tmp_path / "blobs" / "sha256").iterdir()}
    (tmp_path / "blobs" / "sha256" / ("0" * 64)).write_bytes(b"its server ended before it had a home")
    async with served(tmp_path) as ask:
        assert (await ask("HEAD", "/v2/a/b/manifests/v1"))[1]["Docker-Content-Digest"] == digest
        assert list((tmp_path / "uploads").iterdir()) == []
        assert {path.name for path in (tmp_path / "blobs" / "sha256").iterdir()} == kept


async def test_a_part_that_breaks_off_can_be_gone_on_with(tmp_path: Path) -> None:
    async with served(tmp_path) as ask:
        _, headers, _ = await ask("POST", "/v2/a/b/blobs/uploads/")
        location = headers["Location"]
        host, port = ask.url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        head = f"PATCH {location} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(CONTENT)}\r\n\r\n"
        writer.write(head.encode() + CONTENT[:5000])
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        while True:  # until the server has noticed; the test has a deadline
            status, headers, _ = await ask("PATCH", location, b"", Content_Range="99-98")
            if headers.get("Range") == "0-4999":
                break
        status, _, _ = await ask(
            "PUT", f"{location}?digest={DIGEST}", CONTENT[5000:], Content_Range="5000-25599"
        )
        assert status == 201


async def test_uploads_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads_module, "MAX_SESSIONS", 2)
    async with served(tmp_path) as ask:
        for _ in range(2):
            assert (await ask("POST", "/v2/a/b/blobs/uploads/"))[0] == 202
        status, _, body = await ask("POST", "/v2/a/b/blobs/uploads/")
        assert (status, error_of(body)) == (429, "TOOMANYREQUESTS")
        monkeypatch.setattr(uploads_module, "IDLE_S", 0.0)
        assert (await ask("POST", "/v2/a/b/blobs/uploads/"))[0] == 202
        assert len(list((tmp_path / "uploads").iterdir())) == 1
