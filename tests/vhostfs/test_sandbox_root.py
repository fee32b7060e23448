"""The root of a sandbox: what is in it, by which paths, and where it cannot be had."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.native.host_mounts import clean_mounts, tmpfs
from tests.vhostfs.sandboxed import MAY, PATHS, only, run_outside, run_sandboxed, small_policy
from vhostfs.sandbox_options import PARTS
from vhostfs.sandbox_policy import Place, SandboxPolicy, Use


@pytest.fixture
def policy(tmp_path: Path) -> SandboxPolicy:
    return small_policy(tmp_path)


def test_the_root_holds_the_places_only(policy: SandboxPolicy) -> None:
    assert run_sandboxed(only(policy, "mounts"), PATHS) == MAY | {
        "change what is for reading": "EROFS",
        "beside": "ENOENT",
        "shadow": "ENOENT",
        "change shadow": "ENOENT",
        "new in the root": "EROFS",
        "other processes": "ENOENT",
    }


def test_mounts_of_the_sandbox_are_sealed(policy: SandboxPolicy, tmp_path: Path) -> None:
    code = """
lines = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
result = {fields[4]: fields[5].split(",") for fields in lines}
"""
    mounts = run_sandboxed(only(policy, "mounts"), code)
    assert set(mounts) == {"/", "/proc/self", "/dev/null", str(tmp_path / "read"), str(tmp_path / "write")}
    for path, options in mounts.items():
        assert {"nosuid", "noexec"} <= set(options)
        assert ("nodev" in options) == (path != "/dev/null")
        assert ("ro" in options) == (path in ("/", str(tmp_path / "read")))


def test_paths_through_symlinks_stay(policy: SandboxPolicy, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("loop/../read")
    (tmp_path / "loop").mkdir()
    (tmp_path / "absolute").symlink_to(tmp_path / "link")
    wanted = SandboxPolicy(places=(Place(tmp_path / "absolute" / "file", Use.READ),))
    code = f"result = Path({str(tmp_path / 'absolute/file')!r}).read_text()"
    assert run_sandboxed(wanted, code) == "read"


@pytest.mark.parametrize("parts", [("mounts",), ("capabilities",)])
def test_relative_paths_stay_good(policy: SandboxPolicy, parts: tuple[str, ...]) -> None:
    before = "os.chdir(policy.places[0].path.parent)"
    code = "result = [os.getcwd(), Path('read/file').read_text()]"
    top = policy.places[0].path.parent
    assert run_sandboxed(only(policy, *parts), code, before=before) == [str(top), "read"]


def test_a_working_directory_that_is_gone_is_no_obstacle(policy: SandboxPolicy) -> None:
    before = "gone = policy.places[0].path.parent / 'gone'; gone.mkdir(); os.chdir(gone); gone.rmdir()"
    assert run_sandboxed(only(policy, "mounts"), "result = os.getcwd()", before=before) == "/"


def test_places_may_overlap(tmp_path: Path) -> None:
    (tmp_path / "inner" / "deep").mkdir(parents=True)
    wanted = SandboxPolicy(
        places=(
            Place(tmp_path / "inner" / "deep", Use.READ),
            Place(tmp_path, Use.READ),
            Place(tmp_path / "inner", Use.WRITE),
            Place(tmp_path / "missing", Use.WRITE),
        )
    )
    code = """
top = policy.places[1].path
result = [outcome((top / name / "x").touch) for name in ("", "inner", "inner/deep")]
"""
    assert run_sandboxed(only(wanted, "mounts"), code) == ["EROFS", "ok", "EROFS"]


def test_a_place_on_a_mount_of_its_own_below_another_place(tmp_path: Path) -> None:
    """As a cache on its own disk, in the folder that has the socket."""
    disk = tmp_path / "run" / "disk"
    disk.mkdir(parents=True)
    with clean_mounts(tmp_path):
        tmpfs(disk)
        (disk / "cache").mkdir()
        (disk / "cache" / "file").write_text("on the disk")
        wanted = SandboxPolicy(places=(Place(tmp_path / "run", Use.READ), Place(disk / "cache", Use.READ)))
        code = f"result = Path({str(disk / 'cache/file')!r}).read_text()"
        assert run_sandboxed(only(wanted, "mounts"), code) == "on the disk"


def test_without_privilege_a_user_namespace_gives_the_root(policy: SandboxPolicy, tmp_path: Path) -> None:
    for path in [tmp_path, *tmp_path.rglob("*")]:
        path.chmod(0o777)
    for path in tmp_path.parents:
        if path.is_relative_to("/tmp"):
            path.chmod(path.stat().st_mode | 0o055)
    become = "os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534); libc.prctl(4, 1)"
    assert run_sandboxed(policy, PATHS + "result['parts'] = report.parts", before=become) == MAY | {
        "parts": dict.fromkeys(PARTS, "on"),
        "change what is for reading": "EROFS",
        "beside": "ENOENT",
        "shadow": "ENOENT",
        "change shadow": "ENOENT",
        "new in the root": "EROFS",
        "other processes": "ENOENT",
    }


@pytest.mark.parametrize(
    ("call", "error"), [("move_mount", "EPERM"), ("mount_setattr", "ENOSYS"), ("pivot_root", "EACCES")]
)
def test_what_a_security_module_forbids_half_way_is_undone(
    policy: SandboxPolicy, call: str, error: str
) -> None:
    before = f"""
from native.sandbox import Action, SeccompFilter, set_no_new_privs
mounted = lambda: Path("/proc/self/mountinfo").read_text().count("vhostfs")
seen = lambda: (sorted(os.listdir("/sys")), mounted(), os.getcwd())
outside = seen()
set_no_new_privs()
refusing = SeccompFilter(Action.ALLOW)
refusing.add(Action.ERRNO, "{call}", error=errno.{error})
refusing.load()
"""
    result = run_sandboxed(
        policy._replace(off=frozenset({"landlock"})),
        "result = [seen() == outside, report.parts]",
        before=before,
    )
    is_as_before, parts = result
    assert is_as_before
    assert parts.pop("mounts").startswith("unavailable: cannot ")
    assert parts == {"capabilities": "on", "no-new-privs": "on", "landlock": "off", "seccomp": "on"}


def test_another_failure_is_an_error_that_says_how_to_go_without(policy: SandboxPolicy) -> None:
    code = """
from native.sandbox import Action, SeccompFilter, set_no_new_privs
set_no_new_privs()
refusing = SeccompFilter(Action.ALLOW)
refusing.add(Action.ERRNO, "open_tree", error=errno.EMFILE)
refusing.load()
try:
    apply_sandbox(policy)
except Exception as error:
    result = [type(error).__name__, str(error)]
"""
    name, text = run_outside(policy, code)
    assert name == "SandboxError"
    assert text.startswith("sandbox: cannot bind /") and text.endswith("--no-sandbox=mounts goes without it")


def test_where_namespaces_are_refused_it_goes_on_and_says_so(policy: SandboxPolicy) -> None:
    """As in a container: no right to mount, no user namespaces."""
    become = """
Path("/proc/sys/user/max_user_namespaces").read_text()
libc.unshare(0x10000000)  # a user namespace, in which no other may be made
Path("/proc/self/setgroups").write_text("deny")
Path("/proc/self/uid_map").write_text("0 0 1")
Path("/proc/self/gid_map").write_text("0 0 1")
Path("/proc/sys/user/max_user_namespaces").write_text("0")
from native.sandbox import keep_capabilities
keep_capabilities(0)
"""
    parts = run_sandboxed(policy, "result = report.parts", before=become)
    assert parts["mounts"] == "unavailable: cannot have a mount namespace: No space left on device"
    assert set(parts.values()) - {parts["mounts"]} == {"on"}
