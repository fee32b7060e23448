"""What vhostfs-nydusd keeps in its sandbox: files and code, and no network."""

from __future__ import annotations

from pathlib import Path

from tests.vhostfs.sandboxed import run_sandboxed
from vhostfs.sandbox import SandboxReport
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
        assert places[root] is Use.READ and places[root / "cache"] is Use.READ


def test_there_is_no_network() -> None:
    """Nothing but Unix sockets can be made, and no interface would be there for others."""
    code = """
report_before = Path("/proc/self/net/dev").read_text()
result = {
    "tcp": outcome(lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM)),
    "tcp6": outcome(lambda: socket.socket(socket.AF_INET6, socket.SOCK_STREAM)),
    "udp": outcome(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)),
    "unix": outcome(lambda: socket.socket(socket.AF_UNIX)),
    "interfaces": [line.split(":")[0].strip() for line in report_before.splitlines()[2:]],
    "resolver": outcome(lambda: Path("/etc/resolv.conf").read_text()),
    "certificates": outcome(lambda: os.listdir("/etc/ssl")),
}
"""
    result = run_sandboxed(somewhere(nydusd_policy(SandboxOptions())), code)
    assert result.pop("interfaces") == ["lo"]
    assert result.pop("unix") == "ok"
    assert result == {
        "tcp": "EPERM",
        "tcp6": "EPERM",
        "udp": "EPERM",
        "resolver": "ENOENT",
        "certificates": "ENOENT",
    }


def test_where_caches_may_be(tmp_path: Path) -> None:
    """Where an agent can be started for them: the snapshotter's, and what is chosen."""
    chosen = SandboxOptions(writable=(tmp_path,))
    report = SandboxReport(caches=nydusd_policy(chosen, caches=[Path("/named")]).caches)
    for path in (tmp_path / "x", SNAPSHOTTER_ROOTS[0] / "cache", Path("/named/deep")):
        assert report.refusal_of_cache(path) is None
    for path in (SNAPSHOTTER_ROOTS[0], tmp_path.parent, Path("/etc"), tmp_path / ".." / "x"):
        reason = report.refusal_of_cache(path)
        assert reason is not None and "--sandbox-writable" in reason
    assert SandboxReport().refusal_of_cache(Path("/etc")) is None


def test_the_working_directory_is_no_code() -> None:
    """It is on Python's path when it runs a module: `python -m`."""
    assert Path.cwd() not in code_directories() and Path("/") not in code_directories()
