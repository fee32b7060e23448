"""One run of a shell script in a guest: boot, run, power off; standard output, error and status come back.

QEMU emulates (TCG), as KVM is often not to be had where tests run: a boot takes 4 to 6 seconds. Set
VHOSTFS_GUEST_ACCEL=kvm where it works. The guest has busybox, no disk and no network; its memory is a shared
memfd, so that a vhost-user back-end can map it.
"""

from __future__ import annotations

import os
import re
import selectors
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from tests.guest import initramfs
from tests.guest.kernel import Kernel
from tests.guest.programs import environment, program

#: How long a guest may go on when its back-end died or a vhost-user request failed: it hangs then.
GRACE_S = 5.0
#: What the kernel prints when something is wrong in it; a script's status does not show it.
COMPLAINT = re.compile(r"BUG:|Oops|WARNING:|Kernel panic|blocked for more than|general protection fault")
VHOST_FAILURE = re.compile(rb"vhost.* failed|Failed to .*(msg|vhost)|vhost.*[Uu]nexpected")


class GuestError(Exception):
    """The guest did not end its script, or its kernel complained; the text has what the console said."""


@dataclass(frozen=True)
class Result:
    stdout: bytes
    stderr: bytes
    status: int
    seconds: float  # the whole run, boot included
    console: str

    @property
    def lines(self) -> list[str]:
        """Standard output as text, a line each."""
        return self.stdout.decode().splitlines()

    def check(self) -> Result:
        """This result if the script ended with status 0, else GuestError with what it said."""
        if self.status:
            said = (self.stdout[-2000:] + b"\n" + self.stderr[-4000:]).decode(errors="replace").strip()
            raise GuestError(f"the script ended with status {self.status} and said:\n{said}")
        return self


@dataclass
class Guest:
    """How guests are made; `run` boots one. One Guest may run any number, also at the same time.

    `room_mib`: of memory that may be plugged later. `huge_pages`: its memory is made of them.
    """

    kernel: Kernel = field(default_factory=Kernel.of)
    memory_mib: int = 512
    cpus: int = 1
    room_mib: int = 0
    huge_pages: bool = False

    @cached_property
    def _initramfs(self) -> bytes:
        return initramfs.base(self.kernel, program("busybox"))

    def run(
        self,
        script: str,
        *,
        socket: Path | None = None,
        tag: str = "vhostfs",
        queues: int = 1,
        queue_size: int | None = None,
        files: Mapping[str, bytes | Path] | None = None,
        backend: subprocess.Popen[bytes] | None = None,
        monitor: Path | None = None,
        timeout_s: float = 120,
    ) -> Result:
        """Run `script` (busybox sh, as root, $TAG set) in a guest of its own.

        `socket`: the listening vhost-user socket of the virtio-fs device with `tag` and `queues` request
        queues; None: no such device. `files` are put into the guest. Raises GuestError when the guest dies,
        hangs past `timeout_s`, loses its `backend` or its kernel complains.
        """
        with tempfile.TemporaryDirectory(prefix="vhostfs-guest-") as folder:
            work = Path(folder)
            addition = initramfs.addition(script, {"TAG": tag}, files or {})
            (work / "initrd").write_bytes(self._initramfs + addition)
            command = self._command(work)
            if monitor:
                command += ["-qmp", f"unix:{monitor},server=on,wait=off"]
            if socket:
                size = f",queue-size={queue_size}" if queue_size else ""
                command += ["-chardev", f"socket,id=fs,path={socket}"]
                command += [
                    "-device",
                    f"vhost-user-fs-pci,chardev=fs,tag={tag},num-request-queues={queues}{size}",
                ]
            started = time.monotonic()
            ending = _run_qemu(command, backend, started + timeout_s)
            return _result(work, ending, time.monotonic() - started)

    def _command(self, work: Path) -> list[str]:
        memory = f"{self.memory_mib}M"
        room = f",slots=4,maxmem={self.memory_mib + self.room_mib}M" if self.room_mib else ""
        pages = ",hugetlb=on,hugetlbsize=2M" if self.huge_pages else ""
        command = [
            str(program("qemu-system-x86_64")),
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
        ]
        # One thread for all CPUs. With a thread each, a kernel that patches its own code (static keys) may
        # run into the breakpoint that it set, where a CPU's translated code is old, and die: "Oops: int3".
        accel = os.environ.get("VHOSTFS_GUEST_ACCEL", "tcg,thread=single")
        command += ["-accel", accel, "-cpu", "max,la57=off"]
        command += ["-smp", str(self.cpus), "-m", memory + room]
        command += ["-machine", "q35,memory-backend=memory,vmport=off,smbus=off,sata=off"]
        command += ["-object", f"memory-backend-memfd,id=memory,size={memory},share=on{pages}"]
        command += ["-kernel", str(self.kernel.image), "-initrd", str(work / "initrd")]
        command += ["-append", "console=ttyS0 loglevel=5 panic=-1 mitigations=off nokaslr tsc=reliable"]
        command += ["-serial", f"file:{work}/console", "-device", "virtio-serial-pci"]
        for port in initramfs.PORTS:
            command += ["-chardev", f"file,id={port},path={work}/{port}"]
            command += ["-device", f"virtserialport,chardev={port},name={port}"]
        return command


@dataclass
class _Ending:
    why: str  # "" when QEMU ended by itself
    said: bytes  # by QEMU, on its standard error


def _run_qemu(command: list[str], backend: subprocess.Popen[bytes] | None, deadline: float) -> _Ending:
    """Run QEMU to its end, or kill it at the `deadline` or GRACE_S after its back-end is lost."""
    ending = _Ending("", b"")
    with (
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment(),
        ) as qemu,
        selectors.DefaultSelector() as selector,
    ):
        assert qemu.stderr
        selector.register(qemu.stderr, selectors.EVENT_READ)
        backend_fd = os.pidfd_open(backend.pid) if backend and backend.poll() is None else -1
        try:
            if backend_fd >= 0:
                selector.register(backend_fd, selectors.EVENT_READ)
            elif backend:
                deadline, ending.why = time.monotonic(), "the back-end was dead before the guest started"
            while qemu.stderr in {key.fileobj for key in selector.get_map().values()}:
                ready = selector.select(max(0.0, deadline - time.monotonic()))
                if not ready:
                    ending.why = ending.why or "it ran out of time"
                    break
                for key, _ in ready:
                    lost = ""
                    if key.fd == backend_fd:
                        selector.unregister(backend_fd)
                        lost = "its back-end died"
                    elif said := os.read(qemu.stderr.fileno(), 65536):
                        ending.said += said
                        lost = "its back-end refused or hung up" if VHOST_FAILURE.search(ending.said) else ""
                    else:
                        selector.unregister(qemu.stderr)  # QEMU ended
                    if lost and not ending.why:
                        ending.why = lost
                        deadline = min(deadline, time.monotonic() + GRACE_S)
        finally:
            if ending.why:
                qemu.kill()
            if backend_fd >= 0:
                os.close(backend_fd)
    return ending


def _result(work: Path, ending: _Ending, seconds: float) -> Result:
    def read(name: str) -> bytes:
        path = work / name
        return path.read_bytes() if path.exists() else b""

    steps = read("status").decode(errors="replace").splitlines()
    last = steps[-1] if steps else "none"
    console = read("console").decode(errors="replace").replace("\r", "")
    complaint = COMPLAINT.search(console)
    excerpt = console[complaint.start() :][:6000] if complaint else console[-3000:]
    if not last.startswith("exit "):
        raise GuestError(
            f"the guest failed: {ending.why or 'it ended'} after {seconds:.1f} s, last step: {last}\n"
            f"script's standard error: {read('stderr')[-2000:].decode(errors='replace').strip()}\n"
            f"QEMU said: {ending.said.decode(errors='replace').strip()}\nthe console said:\n{excerpt}"
        )
    if complaint:
        raise GuestError(f"the guest's kernel complained:\n{excerpt}")
    return Result(read("stdout"), read("stderr"), int(last.split()[1]), seconds, console)
