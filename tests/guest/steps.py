"""A guest and the host taking turns: its script runs in a thread, and each waits for the other's steps."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from tests.guest.vm import GuestError, Result

#: for a guest to take its next step, under emulation
STEP_S = 60.0


class SteppedGuest:
    """Steps are files in a folder that guest and host share.

    The guest's `step NAME` makes NAME.guest and waits for NAME.host; it has the folder at /mnt/steps.
    """

    SCRIPT = """
    step() {
        : >/mnt/steps/$1.guest
        until [ -e /mnt/steps/$1.host ]; do usleep 20000; done
    }
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._thread = threading.Thread()
        self._ended: Result | Exception

    def start(self, run: Callable[[], Result]) -> None:
        """Begin to run a guest. Its script begins with SCRIPT."""

        def keep() -> None:
            try:
                self._ended = run()
            except GuestError as error:
                self._ended = error

        self._thread = threading.Thread(target=keep)
        self._thread.start()

    def wait(self, step: str) -> None:
        """Until the guest has come to this step. Raises GuestError if it failed, RuntimeError if late."""
        deadline = time.monotonic() + STEP_S
        while not (self._folder / f"{step}.guest").exists():
            self._thread.join(0.02)
            if not self._thread.is_alive():
                self.end()
                raise RuntimeError(f"the guest ended before step {step}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"the guest did not come to step {step}")

    def go(self, step: str) -> None:
        """Let the guest go on from this step."""
        (self._folder / f"{step}.host").touch()

    def join(self) -> None:
        """Until it has ended, however."""
        if self._thread.ident is not None:
            self._thread.join()

    def end(self) -> Result:
        """What it said, when it has ended. Raises GuestError."""
        self.join()
        if isinstance(self._ended, Exception):
            raise self._ended
        return self._ended.check()
