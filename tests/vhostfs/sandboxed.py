"""Code that runs inside the sandbox, in a process of its own, and tells what it could do.

    result = run_sandboxed(policy, "result = outcome(lambda: open('/etc/shadow'))")

The code has `outcome` (a callable's result: "ok", or the name of the errno), `system_call` (by name, raw),
`forked` (runs a callable in a child: its exit status, or the name of the signal that ended it), `Path`,
`os`, `socket` and what else the preamble imports. It leaves something that JSON knows in `result`.
"""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

from vhostfs.sandbox_options import PARTS
from vhostfs.sandbox_policy import Place, SandboxPolicy, Use

_PREAMBLE = """
import ctypes, errno, json, mmap, os, pickle, select, signal, socket, sys, threading
from pathlib import Path
from vhostfs import syscalls
from vhostfs.sandbox import apply_sandbox
from vhostfs.sandbox_policy import Use

libc = ctypes.CDLL(None, use_errno=True)
libseccomp = ctypes.CDLL("libseccomp.so.2")

def system_call(name, *arguments):
    number = libseccomp.seccomp_syscall_resolve_name(name.encode())
    assert number >= 0, name
    result = libc.syscall(ctypes.c_long(number), *(ctypes.c_long(a) for a in arguments))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result

def outcome(work):
    try:
        work()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "ok"

def forked(work):
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else signal.Signals(-code).name

policy = pickle.loads(sys.stdin.buffer.read(int(sys.argv[1])))
"""


def start(policy: SandboxPolicy, code: str) -> subprocess.Popen[bytes]:
    """The process; the code enters the sandbox by `apply_sandbox(policy)`, and has stdin and stdout."""
    pickled = pickle.dumps(policy)
    process = subprocess.Popen(
        [sys.executable, "-c", _PREAMBLE + code, str(len(pickled))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).resolve().parents[2],
    )
    assert process.stdin is not None
    process.stdin.write(pickled)
    process.stdin.flush()
    return process


def run_sandboxed(policy: SandboxPolicy, code: str, *, before: str = "") -> Any:
    """Return `result` of `code`, which runs in the sandbox, after `before`, which does not."""
    script = f"{before}\nreport = apply_sandbox(policy)\n{code}\nprint(json.dumps(result))"
    process = start(policy, script)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return json.loads(out)


def run_outside(policy: SandboxPolicy, code: str) -> Any:
    """Return `result` of `code`, which calls `apply_sandbox(policy)` itself where it wants to."""
    process = start(policy, f"{code}\nprint(json.dumps(result))")
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return json.loads(out)


def small_policy(top: Path) -> SandboxPolicy:
    """Keeps a directory `top`/read, one `top`/write, and not the secret `beside` them."""
    for name in ("read", "write", "beside"):
        (top / name).mkdir()
        (top / name / "file").write_text(name)
    return SandboxPolicy(
        places=(
            Place(top / "read", Use.READ),
            Place(top / "write", Use.WRITE),
            Place(Path("/dev/null"), Use.DEVICE),
        )
    )


def only(policy: SandboxPolicy, *parts: str) -> SandboxPolicy:
    """The policy with these parts and no others."""
    return policy._replace(off=frozenset(PARTS) - set(parts))


#: what a process under `small_policy` can do with paths
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
