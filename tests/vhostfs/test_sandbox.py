"""The parts of a sandbox, together and each without the others; a process of its own for each probe."""

from __future__ import annotations

from pathlib import Path

import pytest

from native.sandbox import landlock_abi
from tests.vhostfs.sandboxed import MAY, PATHS, only, run_outside, run_sandboxed, small_policy
from vhostfs.sandbox_nydusd import PASSTHROUGH_CAPABILITIES
from vhostfs.sandbox_options import PARTS
from vhostfs.sandbox_policy import CAPABILITIES, SandboxPolicy

STATUS = """
fields = dict(line.split(":\\t") for line in Path("/proc/self/status").read_text().splitlines())
"""


@pytest.fixture
def policy(tmp_path: Path) -> SandboxPolicy:
    return small_policy(tmp_path)


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


# capabilities


def test_capabilities_that_are_kept_are_held_and_no_others(policy: SandboxPolicy) -> None:
    wanted = policy._replace(capabilities=PASSTHROUGH_CAPABILITIES)
    held, fields = run_sandboxed(wanted, STATUS + "result = report.capabilities, fields")
    assert set(held) == PASSTHROUGH_CAPABILITIES
    assert fields["CapPrm"] == fields["CapEff"] == fields["CapBnd"]
    assert int(fields["CapAmb"], 16) == int(fields["CapInh"], 16) == 0


def test_inheritable_and_ambient_capabilities_go(policy: SandboxPolicy) -> None:
    inherit_chown = (
        """
import struct
header = ctypes.create_string_buffer(struct.pack("Ii", 0x20080522, 0))
sets = ctypes.create_string_buffer(24)
system_call("capget", ctypes.addressof(header), ctypes.addressof(sets))
fields = list(struct.unpack("6I", sets.raw))
fields[2] = 1
sets.raw = struct.pack("6I", *fields)
system_call("capset", ctypes.addressof(header), ctypes.addressof(sets))
assert libc.prctl(47, 2, 0, 0, 0) == 0
"""
        + STATUS
    )
    code = "before = fields\n" + STATUS + "result = [before, fields]"
    wanted = policy._replace(capabilities=PASSTHROUGH_CAPABILITIES)
    before, after = run_sandboxed(wanted, code, before=inherit_chown)
    for name in ("CapInh", "CapAmb"):
        assert int(before[name], 16) == 1 and int(after[name], 16) == 0


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


# Landlock


def test_landlock_alone_keeps_to_the_places(policy: SandboxPolicy) -> None:
    assert run_sandboxed(only(policy, "landlock", "no-new-privs"), PATHS) == MAY | {
        "change what is for reading": "EACCES",
        "beside": "EACCES",
        "shadow": "EACCES",
        "change shadow": "EACCES",
        "new in the root": "EACCES",
        "other processes": "EACCES",
    }


def test_no_tcp_port_is_listened_on_and_none_outside_is_signalled(policy: SandboxPolicy) -> None:
    code = """
tcp = socket.socket()
result = [outcome(lambda: tcp.bind(("127.0.0.1", 0))), outcome(lambda: os.kill(os.getppid(), 0))]
"""
    abi = landlock_abi()
    expected = ["EACCES" if abi >= 4 else "ok", "EPERM" if abi >= 6 else "ok"]
    assert run_sandboxed(only(policy, "landlock", "no-new-privs"), code) == expected


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
