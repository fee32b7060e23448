"""The system calls of a sandbox: which are left, which are refused, which end the process."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.vhostfs.sandboxed import only, run_outside, run_sandboxed, small_policy
from vhostfs import syscalls
from vhostfs.sandbox_policy import SandboxPolicy


@pytest.fixture
def policy(tmp_path: Path) -> SandboxPolicy:
    return small_policy(tmp_path)


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
