"""QEMU's monitor: changes of a running guest's hardware (QMP)."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from typing import Any, Self

#: for an answer, or for a guest to give a device back
PATIENCE_S = 60.0


class MonitorError(Exception):
    """QEMU refused a command; the text is its own."""


class Monitor:
    """A connection to the monitor of a guest that was run with this socket; use it in a with block."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(PATIENCE_S)
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                self._socket.connect(str(path))
                break
            except (FileNotFoundError, ConnectionRefusedError):  # QEMU starts
                if time.monotonic() > deadline:
                    raise
        self._lines = self._socket.makefile("rw")
        self._events: list[dict[str, Any]] = []
        self._read()  # the greeting
        self.execute("qmp_capabilities")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self._socket.close()

    def _read(self) -> dict[str, Any]:
        line = self._lines.readline()
        if not line:
            raise MonitorError("QEMU ended")
        said: dict[str, Any] = json.loads(line)
        return said

    def execute(self, command: str, **arguments: Any) -> Any:
        """One command; what it returns. Raises MonitorError."""
        self._lines.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self._lines.flush()
        while True:
            said = self._read()
            if "event" in said:
                self._events.append(said)
            elif "error" in said:
                raise MonitorError(f"{command}: {said['error']['desc']}")
            else:
                return said["return"]

    def wait_event(self, name: str) -> dict[str, Any]:
        """The next event of this name, also one that came during a command."""
        while True:
            for event in self._events:
                if event["event"] == name:
                    self._events.remove(event)
                    return event
            self._events.append(self._read())

    def plug_memory(self, name: str, size_mib: int) -> None:
        """Plug a module of memory, as Kata does: shared, so that a back-end can map it."""
        backend = {"qom-type": "memory-backend-memfd", "id": f"{name}-memory"}
        self.execute("object-add", **backend, size=size_mib << 20, share=True)
        self.execute("device_add", driver="pc-dimm", id=name, memdev=f"{name}-memory")

    def unplug_memory(self, name: str) -> None:
        """Ask the guest for a module, and wait until it has let go of it."""
        self.execute("device_del", id=name)
        self.wait_event("DEVICE_DELETED")
        self.execute("object-del", id=f"{name}-memory")
