"""What a process in the sandbox can still do, and what it cannot; each probe in a process of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.vhostfs.sandboxed import run_outside, run_sandboxed
from vhostfs import syscalls
from vhostfs.sandbox_nydusd import PASSTHROUGH_CAPABILITIES
from vhostfs.sandbox_options import PARTS
from vhostfs.sandbox_policy import CAPABILITIES, Place, SandboxPolicy, Use

STATUS = """
fields = dict(line.split(":\\t") for line in Path("/proc/self/status").read_text().splitlines())
"""


@pytest.fixture
def places(tmp_path: Path) -> tuple[Place, ...]:
    """A directory to read, one to write, and a secret beside them."""
    for name in ("read", "write", "beside"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    return (
        Place(tmp_path / "read", Use.READ),
        Place(tmp_path / "write", Use.WRITE),
        Place(Path("/dev/null"), Use.DEVICE),
    )


@pytest.fixture
def policy(places: tuple[Place, ...]) -> SandboxPolicy:
    return SandboxPolicy(places=places)


def only(policy: SandboxPolicy, *parts: str) -> SandboxPolicy:
    """The policy with these parts and no others."""
    return policy._replace(off=frozenset(PARTS) - set(parts))


def test_all_parts_are_on_and_say_so(policy: SandboxPolicy) -> None:
    report, fields = run_sandboxed(policy, STATUS + "result = report.as_json(), fields")
    assert report["parts"] == dict.fromkeys(PARTS, "on")
    assert report["capabilities"] == []
    assert fields["NoNewPrivs"] == "1" and fields["Seccomp"] == "2"
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(fields[name], 16) == 0


@pytest.mark.parametrize("part", PARTS)
def test_each_part_can_be_left_out(policy: SandboxPolicy, part: str) -> None:
    off = {part, "landlock", "seccomp"} if part == "no-new-privs" else {part}
    code = STATUS + "result = report.as_json()['parts'], fields, Path('/etc').exists()"
    parts, fields, sees_etc = run_sandboxed(policy._replace(off=frozenset(off)), code)
    assert parts == {name: "off" if name in off else "on" for name in PARTS}
    assert sees_etc == (part == "mounts")
    assert fields["NoNewPrivs"] == ("0" if part == "no-new-privs" else "1")
    assert fields["Seccomp"] == ("0" if "seccomp" in off else "2")
    assert (int(fields["CapEff"], 16) != 0) == (part == "capabilities")


def test_what_needs_no_new_privs_is_not_left_alone(policy: SandboxPolicy) -> None:
    wanted = policy._replace(off=frozenset({"no-new-privs"}))
    code = "try:\n    apply_sandbox(policy)\nexcept ValueError as error:\n    result = str(error)"
    assert "add --no-sandbox=landlock,seccomp" in run_outside(wanted, code)


def test_it_is_not_entered_with_threads(policy: SandboxPolicy) -> None:
    code = """
done = threading.Event()
thread = threading.Thread(target=done.wait)
thread.start()
try:
    apply_sandbox(policy)
except RuntimeError as error:
    result = str(error)
done.set()
"""
    assert "there are 2" in run_outside(policy, code)


# mounts

PATHS = """
top = policy.places[0].path.parent
result = {
    "read": outcome(lambda: (top / "read/file").read_text()),
    "list": outcome(lambda: os.listdir(top / "read")),
    "write": outcome(lambda: (top / "write/new").write_text("x")),
    "rename": outcome(lambda: (top / "write/new").rename(top / "write/newer")),
    "change what is for reading": outcome(lambda: (top / "read/file").write_text("x")),
    "beside": outcome(lambda: (top / "beside/file").read_text()),
    "shadow": outcome(lambda: Path("/etc/shadow").read_text()),
    "change shadow": outcome(lambda: os.open("/etc/shadow", os.O_WRONLY)),
    "new in the root": outcome(lambda: Path("/new").write_text("x")),
    "other processes": outcome(lambda: os.listdir("/proc/1")),
    "own descriptors": outcome(lambda: os.listdir("/proc/self/fd")),
    "device": outcome(lambda: Path("/dev/null").write_text("x")),
}
"""
MAY = {"read": "ok", "list": "ok", "write": "ok", "rename": "ok", "own descriptors": "ok", "device": "ok"}


def test_the_root_holds_the_places_only(policy: SandboxPolicy) -> None:
    assert run_sandboxed(only(policy, "mounts"), PATHS) == MAY | {
        "change what is for reading": "EROFS",
        "beside": "ENOENT",
        "shadow": "ENOENT",
        "change shadow": "ENOENT",
        "new in the root": "EROFS",
        "other processes": "ENOENT",
    }


def test_landlock_alone_keeps_to_the_places(policy: SandboxPolicy) -> None:
    assert run_sandboxed(only(policy, "landlock", "no-new-privs"), PATHS) == MAY | {
        "change what is for reading": "EACCES",
        "beside": "EACCES",
        "shadow": "EACCES",
        "change shadow": "EACCES",
        "new in the root": "EACCES",
        "other processes": "EACCES",
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


# capabilities


def test_capabilities_that_are_kept_are_held_and_no_others(policy: SandboxPolicy) -> None:
    wanted = policy._replace(capabilities=PASSTHROUGH_CAPABILITIES)
    held, fields = run_sandboxed(wanted, STATUS + "result = report.capabilities, fields")
    assert set(held) == PASSTHROUGH_CAPABILITIES
    assert fields["CapPrm"] == fields["CapEff"] == fields["CapBnd"]
    assert int(fields["CapAmb"], 16) == int(fields["CapInh"], 16) == 0


def test_capabilities_come_back_with_the_user_and_no_others(policy: SandboxPolicy) -> None:
    """A passthrough acts as the guest's user, and returns."""
    code = """
effective = lambda: [line for line in open("/proc/self/status") if line.startswith("CapEff")]
before = effective()
system_call("setfsuid", 1000)
as_user = effective()
system_call("setfsuid", 0)
result = [before == effective(), as_user]
"""
    wanted = policy._replace(capabilities=PASSTHROUGH_CAPABILITIES, passthrough=True)
    same, as_user = run_sandboxed(wanted, code)
    of_files = {"CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "MKNOD"}
    left = {name for bit, name in enumerate(CAPABILITIES) if int(as_user[0].split()[1], 16) >> bit & 1}
    assert same and left == PASSTHROUGH_CAPABILITIES - of_files


# system calls


def test_what_only_an_intruder_asks_for_ends_the_process(policy: SandboxPolicy) -> None:
    code = """
def intrude(name):
    apply_sandbox(policy)
    system_call(name, 0, 0, 0, 0, 0)
result = {name: forked(lambda: intrude(name)) for name in syscalls.DEADLY
          if libseccomp.seccomp_syscall_resolve_name(name.encode()) >= 0}
"""
    ends = run_outside(only(policy, "seccomp", "no-new-privs"), code)
    assert len(ends) > 40
    assert set(ends.values()) == {"SIGSYS"}
    for named in (
        "execve",
        "ptrace",
        "mount",
        "bpf",
        "perf_event_open",
        "kexec_load",
        "init_module",
        "setns",
    ):
        assert named in ends


FORBIDDEN = """
clone, unshare, fork = 0x10000, 0x10000000, 17
exec_page = lambda protection: mmap.mmap(-1, 4096, prot=protection)
result = {
    "packet": outcome(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)),
    "netlink": outcome(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)),
    "vsock": outcome(lambda: socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)),
    "tcp": outcome(lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM)),
    "udp6": outcome(lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)),
    "raw": outcome(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)),
    "unix": outcome(lambda: socket.socket(socket.AF_UNIX)),
    "fork": outcome(os.fork),
    "thread": outcome(lambda: threading.Thread(target=int).start()),
    "user namespace": outcome(lambda: system_call("unshare", 0x10000000)),
    "io_uring": outcome(lambda: system_call("io_uring_setup", 1, 0)),
    "userfaultfd": outcome(lambda: system_call("userfaultfd", 0)),
    "written code": outcome(lambda: exec_page(mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)),
    "code": outcome(lambda: exec_page(mmap.PROT_READ | mmap.PROT_EXEC)),
    "memory made code": outcome(lambda: system_call("mprotect", 0, 4096, 5)),
    "own limits": outcome(lambda: __import__("resource").getrlimit(7)),
    "others' limits": outcome(lambda: system_call("prlimit64", 1, 7, 0, 0)),
    "change limits": outcome(lambda: __import__("resource").setrlimit(7, (10, 10))),
    "signal oneself": outcome(lambda: os.kill(os.getpid(), 0)),
    "signal others": outcome(lambda: os.kill(1, 0)),
    "type into the terminal": outcome(lambda: system_call("ioctl", 0, 0x5412, 0)),
    "handles": outcome(lambda: system_call("open_by_handle_at", 0, 0, 0)),
}
"""
ALWAYS = {
    "packet": "EPERM",
    "netlink": "EPERM",
    "vsock": "EPERM",
    "unix": "ok",
    "fork": "EPERM",
    "thread": "ok",
    "user namespace": "ENOSYS",
    "io_uring": "ENOSYS",
    "userfaultfd": "ENOSYS",
    "written code": "EPERM",
    "memory made code": "EPERM",
    "own limits": "ok",
    "others' limits": "ENOSYS",
    "change limits": "ENOSYS",
    "signal oneself": "ok",
    "signal others": "ENOSYS",
    "type into the terminal": "ENOSYS",
}


def test_system_calls_of_a_daemon_that_needs_little(policy: SandboxPolicy) -> None:
    wanted = only(policy, "seccomp", "no-new-privs")
    assert run_sandboxed(wanted, FORBIDDEN, before="import resource") == ALWAYS | {
        "tcp": "EPERM",
        "udp6": "EPERM",
        "raw": "EPERM",
        "code": "EPERM",
        "handles": "ENOSYS",
    }


def test_system_calls_of_a_daemon_with_network_and_passthrough(policy: SandboxPolicy) -> None:
    wanted = only(policy, "seccomp", "no-new-privs")._replace(network=True, late_code=True, passthrough=True)
    wanted = wanted._replace(file_handles=True)
    assert run_sandboxed(wanted, FORBIDDEN) == ALWAYS | {
        "tcp": "ok",
        "udp6": "ok",
        "raw": "ENOSYS",
        "code": "ok",
        "handles": "EFAULT",
    }


def test_threads_that_run_already_come_under_the_filter() -> None:
    """apply_sandbox has no threads to meet; the filter itself would."""
    code = """
from native.sandbox import Action, SeccompFilter, set_no_new_privs
results, loaded = [], threading.Event()
def work():
    loaded.wait()
    results.append(outcome(lambda: system_call("userfaultfd", 0)))
thread = threading.Thread(target=work)
thread.start()
set_no_new_privs()
seccomp = SeccompFilter(Action.ALLOW)
seccomp.add(Action.ERRNO, "userfaultfd", error=errno.EXDEV)
seccomp.load()
loaded.set()
thread.join()
result = results
"""
    assert run_outside(SandboxPolicy(places=()), code) == ["EXDEV"]


def test_an_unknown_system_call_is_left_out() -> None:
    code = """
from native.sandbox import Action, SeccompFilter
result = SeccompFilter(Action.ALLOW).add(Action.KILL, "of_the_future")
"""
    assert run_outside(SandboxPolicy(places=()), code) is False


def test_every_name_in_the_tables_is_a_system_call() -> None:
    rules = {
        rule.name
        for rule in [
            *syscalls.allowed(network=True, late_code=True, passthrough=True, file_handles=True),
            *syscalls.refused(network=True, late_code=True),
        ]
    }
    assert not rules & set(syscalls.DEADLY)
    code = """
from native.sandbox import Action, SeccompFilter
names = %r
result = [name for name in names if not SeccompFilter(Action.ALLOW).add(Action.KILL, name)]
"""
    names = sorted({*rules, *syscalls.DEADLY, *syscalls.QUIET})
    assert run_outside(SandboxPolicy(places=()), code % names) == []


# Landlock


def test_no_tcp_port_is_listened_on_and_none_outside_is_signalled(policy: SandboxPolicy) -> None:
    code = """
tcp = socket.socket()
result = [outcome(lambda: tcp.bind(("127.0.0.1", 0))), outcome(lambda: os.kill(os.getppid(), 0))]
"""
    assert run_sandboxed(only(policy, "landlock", "no-new-privs"), code) == ["EACCES", "EPERM"]


# limits


@pytest.mark.parametrize(("wanted", "is_beyond"), [(100, False), (None, False), (1000, True)])
def test_the_limit_of_open_files_is_raised_first(
    policy: SandboxPolicy, wanted: int | None, is_beyond: bool
) -> None:
    before = """
import resource
from vhostfs import sandbox
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 128))
may_raise = sandbox._has("SYS_RESOURCE")
"""
    code = "result = [may_raise, report.nofile, *resource.getrlimit(resource.RLIMIT_NOFILE)]"
    may_raise, *limits = run_sandboxed(policy._replace(nofile=wanted), code, before=before)
    if is_beyond and may_raise:
        assert limits == [1000, 1000, 1000]
    else:
        assert limits == [min(wanted or 128, 128)] * 2 + [128]
