"""A real root file system: its dynamically linked programs run from the mount, and nothing can be changed."""

from __future__ import annotations

import errno
import json
from pathlib import Path

from tests.guest.backend import Image, run_on_image
from tests.guest.vm import Guest

#: Every way to change a file system that the C library offers, tried as root; prints {what: errno}.
CHANGES = r"""
import errno, json, os, stat

FILE, FOLDER, NEW = "/etc/debian_version", "/usr/share/zoneinfo/Europe", "/etc/new"


def write(flags):
    fd = os.open(FILE, flags)
    try:
        os.write(fd, b"x")
        os.fsync(fd)
    finally:
        os.close(fd)


changes = {
    "create": lambda: os.open(NEW, os.O_WRONLY | os.O_CREAT),
    "write": lambda: write(os.O_WRONLY),
    "read and write": lambda: write(os.O_RDWR),
    "append": lambda: write(os.O_WRONLY | os.O_APPEND),
    "open truncating": lambda: write(os.O_WRONLY | os.O_TRUNC),
    "truncate": lambda: os.truncate(FILE, 0),
    "unlink": lambda: os.unlink(FILE),
    "rename": lambda: os.rename(FILE, NEW),
    "rename a folder": lambda: os.rename(FOLDER, NEW),
    "link": lambda: os.link(FILE, NEW),
    "symlink": lambda: os.symlink(FILE, NEW),
    "mkdir": lambda: os.mkdir(NEW),
    "rmdir": lambda: os.rmdir(FOLDER),
    "mkfifo": lambda: os.mkfifo(NEW),
    "mknod": lambda: os.mknod(NEW, stat.S_IFCHR | 0o600, os.makedev(1, 3)),
    "chmod": lambda: os.chmod(FILE, 0o600),
    "chown": lambda: os.chown(FILE, 1, 1),
    "utime": lambda: os.utime(FILE, (1, 1)),
    "setxattr": lambda: os.setxattr(FILE, "user.x", b"y"),
    "removexattr": lambda: os.removexattr(FILE, "user.x"),
}
before = os.stat(FILE), open(FILE).read(), sorted(os.listdir("/etc"))
results = {}
for name, change in changes.items():
    try:
        change()
        results[name] = 0
    except OSError as error:
        results[name] = error.errno
assert before == (os.stat(FILE), open(FILE).read(), sorted(os.listdir("/etc")))
print(json.dumps(results))
"""

PROGRAM = r"""
import ast, ctypes, glob, json, os, sqlite3, ssl, subprocess, threading

folder = os.path.dirname(os.__file__)
sources = glob.glob(folder + "/*.py")
compiled = []


def compile_some(first):
    for source in sources[first::4]:
        compiled.append(compile(open(source).read(), source, "exec"))


threads = [threading.Thread(target=compile_some, args=(first,)) for first in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
maps = [line.split() for line in open("/proc/self/maps")]
listing = subprocess.run(["bash", "-c", "ls -1A $1 | cat", "-", folder], capture_output=True, check=True)
print(json.dumps({
    "mapped": sorted({columns[5] for columns in maps if columns[1] == "r-xp" and len(columns) == 6}),
    "folder": folder, "listed": sorted(listing.stdout.decode().split()), "compiled": len(compiled),
}))
"""


def test_python_runs_from_the_mount(guest: Guest, python_image: Image, tmp_path: Path) -> None:
    """Shared libraries are mapped from the mount, and programs start programs."""
    script = "mount -t virtiofs -o ro $TAG /mnt && mount -t proc proc /mnt/proc || exit 100\n"
    script += "chroot /mnt /usr/bin/python3 -I -B - </program.py"
    result, _ = run_on_image(guest, python_image, script, tmp_path, files={"/program.py": PROGRAM.encode()})
    answer = json.loads(result.check().stdout)
    libraries = {Path(name).name.split(".so")[0] for name in answer["mapped"]}
    assert {"libc", "libssl", "libsqlite3"} <= libraries
    modules = python_image.source / answer["folder"].lstrip("/")
    assert answer["listed"] == sorted(path.name for path in modules.iterdir())
    assert answer["compiled"] == len(list(modules.glob("*.py")))


def test_nothing_can_be_changed(guest: Guest, python_image: Image, tmp_path: Path) -> None:
    """The guest may mount read-write; each change is then refused by the back-end, with EROFS."""
    script = "mount -t virtiofs -o rw $TAG /mnt && chroot /mnt /usr/bin/python3 -I -B - </changes.py"
    result, _ = run_on_image(guest, python_image, script, tmp_path, files={"/changes.py": CHANGES.encode()})
    refused: dict[str, int] = json.loads(result.check().stdout)
    assert {name: errno.errorcode.get(number, number) for name, number in refused.items()} == dict.fromkeys(
        refused, "EROFS"
    )
    assert len(refused) == 20
