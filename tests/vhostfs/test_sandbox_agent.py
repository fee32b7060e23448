"""What the agent keeps in its sandbox: its cache, the network, and what workers hand it."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

from native.sandbox import landlock_abi
from tests.vhostfs.sandboxed import run_sandboxed
from vhostfs.sandbox_agent import agent_policy
from vhostfs.sandbox_options import SandboxOptions


def test_it_writes_its_cache_and_reads_by_descriptors_alone(tmp_path: Path) -> None:
    for name in ("cache", "blobs", "hidden"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    before = f"blobs = os.open({str(tmp_path / 'blobs')!r}, os.O_PATH)"
    code = """
top = Path(policy.places[0].path).parent
result = {
    "parts": report.parts,
    "capabilities": report.capabilities,
    "write": outcome(lambda: (top / "cache/new").write_text("x")),
    "by descriptor": outcome(lambda: Path(f"/proc/self/fd/{blobs}/file").read_text()),
    "change by descriptor": outcome(lambda: os.open(f"/proc/self/fd/{blobs}/new", os.O_CREAT | os.O_WRONLY)),
    "by path": outcome(lambda: (top / "blobs/file").read_text()),
    "hidden": outcome(lambda: os.listdir(top / "hidden")),
    "shadow": outcome(lambda: Path("/etc/shadow").read_text()),
    "raw": outcome(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)),
    "devices": sorted(os.listdir("/dev")),
    "program": forked(lambda: 0),
}
"""
    policy = agent_policy(tmp_path / "cache", SandboxOptions())
    result = run_sandboxed(policy._replace(off=frozenset({"seccomp"})), code, before=before)
    parts = result.pop("parts")
    assert parts.pop("seccomp") == "off" and set(parts.values()) == {"on"}
    assert result.pop("capabilities") == [] and result.pop("devices") == ["null", "urandom"]
    assert result.pop("change by descriptor") in ("EACCES", "EROFS")
    assert result == {
        "write": "ok",
        "by descriptor": "ok",
        "by path": "ENOENT",
        "hidden": "ENOENT",
        "shadow": "ENOENT",
        "raw": "EPERM",
        "program": 0,
    }


def test_names_are_resolved_and_servers_reached(tmp_path: Path) -> None:
    """By address families that a registry needs; without netlink, which the C library would like to ask."""
    code = """
port = int(os.environ["PORT"])
def fetch():
    found = socket.getaddrinfo("localhost", port, socket.AF_INET, socket.SOCK_STREAM)
    family, kind, protocol, _, address = found[0]
    with socket.socket(family, kind, protocol) as connection:
        connection.connect(address)
        return connection.recv(100).decode()
answers = []
thread = threading.Thread(target=lambda: answers.append(fetch()))
thread.start()
thread.join()
import ssl  # a late import, with libraries of its own
may_listen = outcome(lambda: socket.create_server(("127.0.0.1", 0)))
result = [answers, may_listen, bool(ssl.create_default_context())]
"""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"hello")

        thread = threading.Thread(target=answer)
        thread.start()
        before = f"os.environ['PORT'] = '{server.getsockname()[1]}'"
        result = run_sandboxed(agent_policy(tmp_path, SandboxOptions()), code, before=before)
        thread.join()
    may_listen = "EACCES" if landlock_abi() >= 4 else "ok"
    assert result == [["hello"], may_listen, True]
