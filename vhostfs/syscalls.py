"""The system calls that a sandboxed daemon may make: what the policy's filter is built of.

Found by running the suites under strace, and by reading what glibc, CPython 3.11 to 3.13, libuv and our own
C ask for. Three answers are given to the rest:

- what only an intruder asks for (`DEADLY`) ends the process;
- what libraries try and do well without (`QUIET`) does not exist (ENOSYS), and is not worth a line in a log;
- everything else does not exist either, so that a newer C library falls back as on an older kernel. The
  kernel logs it (`type=1326` in its log or audit.log), and so arguments that no rule allows (EPERM).

Calls whose arguments are pointers cannot be judged by what they point to: clone3 and openat2 are the ones
that matter. The first is refused (glibc then uses clone), the second opens no more than openat does.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from typing import NamedTuple

from native.sandbox import Condition, equal, greater, masked_equal


class Rule(NamedTuple):
    """One system call, and what must hold of its arguments (all of it)."""

    name: str
    conditions: tuple[Condition, ...] = ()


def _words(text: str) -> list[str]:
    return text.split()


_INT = 0xFFFF_FFFF  # an int argument: the upper half of its register is not specified
_CLONE_FS = 0x200
_CLONE_THREAD = 0x10000
_PROT_WRITE, _PROT_EXEC = 2, 4
_PR_SET_NAME, _PR_GET_NAME, _PR_SET_VMA = 15, 16, 0x53564D41
_SOCK_TYPE_MASK = 0xF

#: harmless by what they do: own memory, own threads, own descriptors, time, what is known of oneself
_PLAIN = _words("""
brk munmap mremap madvise mlock munlock msync memfd_create membarrier
exit exit_group futex set_robust_list rseq sched_yield sched_getaffinity getcpu restart_syscall
rt_sigaction rt_sigprocmask rt_sigreturn rt_sigtimedwait sigaltstack
clock_gettime clock_getres clock_nanosleep nanosleep gettimeofday time getrandom
getpid gettid getppid getuid geteuid getgid getegid getresuid getresgid getgroups capget
uname sysinfo getrusage getcwd times
epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2 poll ppoll select pselect6 eventfd2 pipe2
timerfd_create timerfd_settime
read readv pread64 preadv preadv2 write writev pwrite64 pwritev pwritev2 lseek
close close_range dup dup2 dup3 fcntl flock
fsync fdatasync sync_file_range ftruncate fallocate fadvise64 fstat fstatfs getdents64
""")

#: paths: mounts, Landlock and file modes say which; none of these gives more than the caller has
_PATHS = _words("""
open openat openat2 stat lstat newfstatat statx statfs access faccessat faccessat2 readlink readlinkat
mkdir mkdirat rmdir unlink unlinkat rename renameat renameat2 link linkat
chmod fchmod fchmodat utimensat umask
""")

#: once a socket exists; which ones may exist is said in `_sockets`
_SOCKETS = _words("""
bind listen accept accept4 connect shutdown getsockname getpeername getsockopt setsockopt
sendto sendmsg sendmmsg recvfrom recvmsg recvmmsg
""")

#: What a passthrough of a host directory does for a guest on top of that (native/c/passthroughfs_*.c).
#: setfs*id and setgroups make files belong to the guest's user: they lead away from root and back, no
#: further. capset only drops. unshare(CLONE_FS), in `allowed`, gives a thread a umask of its own.
_PASSTHROUGH = _words("""
mknodat symlinkat fchownat copy_file_range syncfs fchdir
setxattr fsetxattr getxattr fgetxattr listxattr flistxattr removexattr fremovexattr
setfsuid setfsgid setgroups capset
""")

#: How a passthrough holds inodes without descriptors. With a mount of a file system open, and the right to
#: look past directories, this reaches every inode of it, whatever its path: the one thing here that a
#: root without other places does not bound.
_FILE_HANDLES = _words("open_by_handle_at name_to_handle_at")

#: what ioctl may ask: of terminals, pipes and sockets; of files, to share blocks; nothing of devices
_IOCTLS = {
    "FICLONERANGE": 0x4020940D,
    "TCGETS": 0x5401,
    "TIOCGWINSZ": 0x5413,
    "FIONREAD": 0x541B,
    "FIONBIO": 0x5421,
    "FIOCLEX": 0x5451,
}
#: other programs and other processes, the kernel itself, mounts and namespaces, the machine
DEADLY = _words("""
execve execveat ptrace process_vm_readv process_vm_writev process_madvise kcmp pidfd_getfd pidfd_open
init_module finit_module delete_module kexec_load kexec_file_load bpf perf_event_open
mount umount2 mount_setattr move_mount open_tree fsopen fsconfig fsmount fspick pivot_root chroot setns
swapon swapoff reboot sethostname setdomainname settimeofday clock_settime adjtimex clock_adjtime
acct quotactl quotactl_fd add_key request_key keyctl iopl ioperm modify_ldt syslog vhangup uselib
nfsservctl lookup_dcookie fanotify_init personality
""")

#: glibc: clone3 before clone, for each thread. libuv: io_uring, whose requests no filter sees.
QUIET = ("clone3", "io_uring_setup", "io_uring_enter", "io_uring_register")


def allowed(*, network: bool, late_code: bool, passthrough: bool, file_handles: bool) -> Iterator[Rule]:
    """What is allowed. `late_code`: modules are loaded later, so code may be mapped (but never written)."""
    names = _PLAIN + _PATHS + _SOCKETS
    names += (_PASSTHROUGH if passthrough else []) + (_FILE_HANDLES if file_handles else [])
    yield from (Rule(name) for name in names)
    yield from _sockets(network)
    pid = os.getpid()
    yield Rule("tgkill", (equal(0, pid),))
    yield Rule("kill", (masked_equal(0, _INT, pid),))
    yield Rule("clone", (masked_equal(_clone_flags_argument(), _CLONE_THREAD, _CLONE_THREAD),))
    if passthrough:
        yield Rule("unshare", (equal(0, _CLONE_FS),))
    for option in (_PR_SET_NAME, _PR_GET_NAME, _PR_SET_VMA):
        yield Rule("prctl", (masked_equal(0, _INT, option),))
    yield Rule("prlimit64", (masked_equal(0, _INT, 0), equal(2, 0)))  # reads its own limits
    yield Rule("getrlimit")
    for name in ("getpriority", "setpriority"):  # of the calling thread; without SYS_NICE only downwards
        yield Rule(name, (masked_equal(0, _INT, os.PRIO_PROCESS), masked_equal(1, _INT, 0)))
    for request in _IOCTLS.values():
        yield Rule("ioctl", (masked_equal(1, _INT, request),))
    yield Rule("mprotect", (masked_equal(2, _PROT_EXEC, 0),))
    yield Rule("mmap", (masked_equal(2, _PROT_EXEC, 0),))
    if late_code:
        yield Rule("mmap", (masked_equal(2, _PROT_EXEC | _PROT_WRITE, _PROT_EXEC),))


def refused(*, network: bool, late_code: bool) -> Iterator[Rule]:
    """Arguments that are refused with EPERM; such calls exist, so ENOSYS would mislead."""
    first_refused = socket.AF_UNIX + 1
    if network:
        yield Rule("socket", (masked_equal(0, _INT, socket.AF_UNSPEC),))
        families = [f for f in range(first_refused, socket.AF_INET6) if f != socket.AF_INET]
        yield from (Rule("socket", (masked_equal(0, _INT, family),)) for family in families)
        yield Rule("socket", (greater(0, socket.AF_INET6),))
    else:
        yield Rule("socket", (greater(0, socket.AF_UNIX),))
    yield Rule("clone", (masked_equal(_clone_flags_argument(), _CLONE_THREAD, 0),))
    yield Rule("mprotect", (masked_equal(2, _PROT_EXEC, _PROT_EXEC),))
    forbidden = _PROT_EXEC | _PROT_WRITE if late_code else _PROT_EXEC
    yield Rule("mmap", (masked_equal(2, forbidden, forbidden),))


def _sockets(network: bool) -> Iterator[Rule]:
    """Unix sockets, and for the network TCP and UDP: no raw, packet, netlink, vsock or other family."""
    yield Rule("socket", (masked_equal(0, _INT, socket.AF_UNIX),))
    yield Rule("socketpair", (masked_equal(0, _INT, socket.AF_UNIX),))
    if network:
        for family in (socket.AF_INET, socket.AF_INET6):
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                yield Rule("socket", (masked_equal(0, _INT, family), masked_equal(1, _SOCK_TYPE_MASK, kind)))


def _clone_flags_argument() -> int:
    return 1 if os.uname().machine == "s390x" else 0
