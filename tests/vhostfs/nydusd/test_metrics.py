"""GET /metrics of a nydusd in its sandbox, where the library for it is imported by the first who asks."""

from __future__ import annotations

import re
import socket
from pathlib import Path

from tests.vhostfs.conftest import BuiltImage
from tests.vhostfs.nydusd.daemon_process import PATIENCE_S, Nydusd
from tests.vhostfs.nydusd.test_end import mount, running


def scrape(nydusd: Nydusd) -> tuple[str, str]:
    """(head, body) of the answer."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE_S)
        client.connect(str(nydusd.api))
        client.sendall(b"GET /metrics HTTP/1.1\r\nHost: nydusd\r\nConnection: close\r\n\r\n")
        pieces = []
        while piece := client.recv(65536):
            pieces.append(piece)
    head, _, body = b"".join(pieces).decode().partition("\r\n\r\n")
    return head, body


def test_a_daemon_in_its_sandbox_tells_prometheus(image: BuiltImage, tmp_path: Path) -> None:
    with running(tmp_path, image) as nydusd:
        head, body = scrape(nydusd)
        assert head.startswith("HTTP/1.1 200 OK"), nydusd.log
        assert "Content-Type: text/plain; version=" in head
        assert "# HELP vhostfs_mount_reads_total " in body
        mount(nydusd, image)
        _, body = scrape(nydusd)
        chunks = re.search(
            r'^vhostfs_mount_chunks\{mountpoint="/rafs/a/lowerdir"\} (.+)$', body, re.MULTILINE
        )
        assert chunks is not None and float(chunks[1]) > 16
        place = re.escape(str(image.blob_dir))
        reads = rf'^vhostfs_backend_reads_total\{{place="{place}",type="localfs"\}} (.+)$'
        found = re.search(reads, body, re.MULTILINE)
        assert found is not None and float(found[1]) > 0
        assert nydusd.end() == 0
