"""What vhostfs-nydusd keeps in its sandbox: files, code, and the network."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

from native.sandbox import landlock_abi
from tests.vhostfs.sandboxed import run_sandboxed
from vhostfs.sandbox_nydusd import KATA_SHARED, SNAPSHOTTER_ROOTS, code_directories, nydusd_policy
from vhostfs.sandbox_options import SandboxOptions
from vhostfs.sandbox_policy import SandboxPolicy, Use


def somewhere(policy: SandboxPolicy) -> SandboxPolicy:
    """The policy, whatever this machine has in /run/kata-containers."""
    return policy._replace(followed=())


def test_nydusd_keeps_its_sockets_code_and_what_is_chosen(tmp_path: Path) -> None:
    host = tmp_path
    for name in ("snapshot", "share", "vm", "log"):
        (host / name).mkdir()
    (host / "snapshot" / "file").write_text("of the snapshot")
    chosen = SandboxOptions(readable=(host / "snapshot",), writable=(host / "share",))
    policy = nydusd_policy(chosen, sockets=[host / "vm" / "api.sock"], logs=[host / "log" / "file.log"])
    code = """
import pydoc_data.topics, sqlite3  # from the standard library, a module and an extension
top = Path(policy.places[0].path)
host = [place.path for place in policy.places if place.use.name == "SOCKETS"][0].parent
listening = socket.socket(socket.AF_UNIX)
result = {
    "parts": report.parts,
    "socket": outcome(lambda: listening.bind(str(host / "vm/api.sock"))),
    "unlink": outcome(lambda: os.unlink(host / "vm/api.sock")),
    "log": outcome(lambda: (host / "log/file.log").write_text("x")),
    "rotate": outcome(lambda: (host / "log/file.log").rename(host / "log/file.log.1")),
    "share": outcome(lambda: os.mknod(host / "share/whiteout", 0o020000, 0)),
    "snapshot": outcome(lambda: (host / "snapshot/file").read_text()),
    "change the snapshot": outcome(lambda: (host / "snapshot/file").write_text("x")),
    "refusals": [report.refusal(Path(p), u) for p, u in [
        (host / "share/x", Use.SHARED), (host / "snapshot/x", Use.READ), (host / "snapshot/x", Use.WRITE),
        (host / "nowhere", Use.READ), (Path("/etc/shadow"), Use.READ)]],
}
"""
    result = run_sandboxed(somewhere(policy), code)
    parts = result.pop("parts")
    assert parts.pop("landlock").startswith("on")
    assert set(parts.values()) == {"on"}
    refusals = result.pop("refusals")
    assert result.pop("change the snapshot") == "EROFS"
    assert set(result.values()) == {"ok"}
    assert refusals[:2] == [None, None]
    assert "--sandbox-writable" in refusals[2] and str(host / "snapshot" / "x") in refusals[2]
    assert "--sandbox-readable" in refusals[3] and "--sandbox-readable" in refusals[4]


def test_nydusd_keeps_the_directories_of_kata_and_the_snapshotter() -> None:
    places = {place.path: place.use for place in nydusd_policy(SandboxOptions()).places}
    assert places[KATA_SHARED] is Use.SHARED
    for root in SNAPSHOTTER_ROOTS:
        assert places[root] is Use.READ and places[root / "cache"] is Use.WRITE


def test_names_are_resolved_and_servers_reached() -> None:
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
        result = run_sandboxed(somewhere(nydusd_policy(SandboxOptions())), code, before=before)
        thread.join()
    may_listen = "EACCES" if landlock_abi() >= 4 else "ok"
    assert result == [["hello"], may_listen, True]


def test_the_working_directory_is_no_code() -> None:
    """It is on Python's path when it runs a module: `python -m`."""
    assert Path.cwd() not in code_directories() and Path("/") not in code_directories()
