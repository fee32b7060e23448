"""What the guest boots from: a cpio archive in the "newc" format of the kernel's initramfs, and its /init.

Archives may be joined end to end: the kernel unpacks one over the other. So the base (busybox, modules,
/init) is made once and each run adds its script and files. It is not compressed: unpacking under emulation
costs more than loading.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from tests.guest.kernel import Kernel

MODULES = ("virtio_pci", "virtio_console", "fuse", "virtiofs", "overlay")
#: How the guest speaks: a virtio-serial port for each of the script's outputs, one for the steps of /init.
PORTS = ("stdout", "stderr", "status")


class Archive:
    """A newc archive being written. Every entry belongs to root, with time 0."""

    def __init__(self) -> None:
        self._out = bytearray()
        self._seen: set[str] = set()

    def _entry(self, name: str, mode: int, data: bytes) -> None:
        raw = name.encode() + b"\0"
        self._seen.add(name)
        number = len(self._seen)
        # ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(raw), 0)
        self._out += b"070701" + b"".join(b"%08X" % field for field in fields) + raw
        self._out += bytes(-len(self._out) % 4) + data
        self._out += bytes(-len(self._out) % 4)

    def folder(self, path: str) -> None:
        """`path` and the folders above it, once each."""
        for parent in [*reversed(PurePosixPath(path.strip("/")).parents), PurePosixPath(path.strip("/"))]:
            if str(parent) != "." and str(parent) not in self._seen:
                self._entry(str(parent), stat.S_IFDIR | 0o755, b"")

    def file(self, path: str, data: bytes, mode: int = 0o644) -> None:
        self.folder(str(PurePosixPath(path).parent))
        self._entry(path.strip("/"), stat.S_IFREG | mode, data)

    def link(self, path: str, target: str) -> None:
        self.folder(str(PurePosixPath(path).parent))
        self._entry(path.strip("/"), stat.S_IFLNK | 0o777, target.encode())

    def finish(self) -> bytes:
        self._entry("TRAILER!!!", 0, b"")
        return bytes(self._out) + bytes(-len(self._out) % 512)


# The script writes to fifos that cat drains into the ports: a port opens once only, and so /dev/stdout works.
INIT = r"""#!/bin/busybox sh
export PATH=/bin:/sbin:/usr/bin:/usr/sbin
/bin/busybox mkdir -p /proc /sys /dev /tmp /run /mnt
/bin/busybox mount -t proc proc /proc
/bin/busybox --install -s /bin
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm
for place in /tmp /run /dev/shm; do mount -t tmpfs tmp $place; done
ln -s /proc/self/fd /dev/fd
ln -s /proc/self/fd/1 /dev/stdout
ln -s /proc/self/fd/2 /dev/stderr
off() { poweroff -f; }
failed=
for module in $(cat /boot/order); do insmod /boot/$module.ko || failed="$failed $module"; done
# the ports appear when the host's messages for them have been handled
tries=0
while [ $tries -lt 200 ]; do
  stdout= stderr= status=
  for port in /sys/class/virtio-ports/*; do
    read -r name 2>/dev/null <$port/name || continue
    case $name in stdout|stderr|status) eval "$name=/dev/${port##*/}" ;; esac
  done
  [ -c "$stdout" ] && [ -c "$stderr" ] && [ -c "$status" ] && break
  tries=$((tries + 1))
  usleep 20000
done
[ -c "$status" ] || { echo "no virtio-serial ports" >/dev/console; off; }
exec 7>$status
echo booted >&7
[ -z "$failed" ] || { echo "failed to load modules:$failed" >&7; off; }
mkfifo /run/stdout /run/stderr
cat /run/stdout >$stdout & drain1=$!
cat /run/stderr >$stderr & drain2=$!
(exec 7>&-; . /boot/environment; cd /; exec sh /boot/script) </dev/null >/run/stdout 2>/run/stderr
code=$?
# a process that the script left behind may hold the fifos: it is ended, not waited for
kill -9 $(ls /proc | grep -E '^[0-9]+$' | grep -vxE "1|$drain1|$drain2") 2>/dev/null
wait $drain1 $drain2
echo "exit $code" >&7
off
"""


def base(kernel: Kernel, busybox: Path) -> bytes:
    """Busybox, /init and the modules: the same for every run with `kernel`."""
    archive = Archive()
    archive.file("bin/busybox", busybox.read_bytes(), 0o755)
    archive.file("init", INIT.encode(), 0o755)
    modules = kernel.load_order(MODULES)
    for name, module in modules.items():
        archive.file(f"boot/{name}.ko", module)
    archive.file("boot/order", "\n".join(modules).encode())
    archive.file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n")
    archive.file("etc/group", b"root:x:0:\nnogroup:x:65534:\n")
    archive.link("etc/mtab", "/proc/mounts")
    archive.folder("root")
    return archive.finish()


def addition(script: str, environment: Mapping[str, str], files: Mapping[str, bytes | Path]) -> bytes:
    """One run's own part. `files`: guest path to bytes (0644) or to a host file, whose mode is kept."""
    archive = Archive()
    archive.file("boot/script", script.encode())
    exports = {"HOME": "/root", **environment}
    quoted = ["export {}='{}'\n".format(name, value.replace("'", "'\\''")) for name, value in exports.items()]
    archive.file("boot/environment", "".join(quoted).encode())
    for path, source in files.items():
        if isinstance(source, bytes):
            archive.file(path, source)
        else:
            archive.file(path, source.read_bytes(), stat.S_IMODE(source.stat().st_mode))
    return archive.finish()
