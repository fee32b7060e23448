"""How a daemon in its sandbox has an agent started: a shell that waits outside.

It is a shell since that takes a fifth of a megabyte where an interpreter takes ten. Who has taken over the
daemon can have it start agents for cache directories below `within`, and nothing else: all the rest of the
command stands in the shell's arguments, and the agent checks its directory.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

#: reads directories from its standard input, until the daemon has gone
_SCRIPT = 'while IFS= read -r directory; do ("$@" --cache-dir "$directory" </dev/null &); done'
#: not for agents: what is secret, and what is about the daemon's own descriptors
_NOT_INHERITED = ("IMAGE_PULL_AUTH", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "NOTIFY_SOCKET")


class Starter:
    """Spawn it before the sandbox is entered; close it at the end."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @classmethod
    def spawn(cls, within: Iterable[Path], options: Sequence[str] = ()) -> Starter:
        """`within`: absolute paths of directories; `options` of `vhostfs agent`, behind which those in the
        environment go (VHOSTFS_AGENT_OPTIONS). Raises OSError."""
        chosen = os.environ.get("VHOSTFS_AGENT_OPTIONS", "").split()
        command = [sys.executable, "-P", "-m", "vhostfs", "agent", *options, *chosen]
        for directory in within:
            command += ["--within", str(directory)]
        read_end, write_end = os.pipe2(os.O_CLOEXEC)
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        environment = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}
        try:
            os.posix_spawn(
                "/bin/sh",
                ["sh", "-c", _SCRIPT, "vhostfs-agent-starter", *command],
                environment,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, fd, to) for fd, to in ((read_end, 0), (null, 1), (null, 2))
                ],
                setsid=True,
            )
        except BaseException:
            os.close(write_end)
            raise
        finally:
            os.close(read_end)
            os.close(null)
        os.set_blocking(write_end, False)
        return cls(write_end)

    def start(self, cache_dir: Path) -> None:
        """Have an agent started, if the directory has none. Raises OSError: nobody is there to do it."""
        os.write(self._fd, os.fsencode(cache_dir) + b"\n")

    def close(self) -> None:
        os.close(self._fd)
