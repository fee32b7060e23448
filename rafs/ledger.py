"""What a cache directory saved and gave up since it was made: sums of counters, in a small file there.

The owner of the directory writes it now and then and at its end; what a kill loses is a minute's worth. The
figures are for people: a file that makes no sense counts as none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from rafs.errors import cache_error

LEDGER_NAME = "vhostfs.ledger.json"


def read_ledger(directory: Path) -> dict[str, int]:
    """The sums; empty where nothing was noted. Raises CacheError."""
    try:
        noted = json.loads((directory / LEDGER_NAME).read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError:
        return {}
    except OSError as error:
        raise cache_error(f"cannot read {directory / LEDGER_NAME}", error) from error
    return (
        {name: value for name, value in noted.items() if isinstance(name, str) and isinstance(value, int)}
        if isinstance(noted, dict)
        else {}
    )


class Ledger:
    """The owner's: `note` sums of this process on top of what was there."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / LEDGER_NAME
        self._before = read_ledger(directory)
        self._last: dict[str, int] = {}

    def note(self, counters: Mapping[str, int]) -> None:
        """Write, unless nothing has changed. What does not succeed is tried again with the next ones."""
        if counters == self._last:
            return
        sums = {name: value + self._before.get(name, 0) for name, value in counters.items()}
        temporary = self._path.with_name(f"{LEDGER_NAME}.new")
        with suppress(OSError):
            temporary.write_text(json.dumps(self._before | sums, indent=1) + "\n")
            temporary.replace(self._path)
            self._last = dict(counters)
