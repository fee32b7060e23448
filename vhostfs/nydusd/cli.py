"""`vhostfs-nydusd`: arguments to a running daemon, its exit status back; nothing else.

0: --version, --help, and every end by SIGTERM, SIGINT or the API. 1: it could not begin, or serve that mode.
2: the arguments make no sense. What is heavy is imported after they do.
"""

from __future__ import annotations

import gc
import signal
import sys
from collections.abc import Sequence
from types import FrameType

from vhostfs.nydusd.arguments import NotServed, parse_arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    signal.signal(signal.SIGTERM, _leave)  # until the event loop takes it over
    gc.disable()  # until all is imported: nothing of that becomes garbage
    try:
        arguments = parse_arguments(sys.argv[1:] if argv is None else argv)
    except NotServed as reason:
        print(f"vhostfs-nydusd: {reason}", file=sys.stderr)
        return 1
    from vhostfs.nydusd.process import run

    return run(arguments)


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(0)


if __name__ == "__main__":
    sys.exit(main())
