"""C objects that Python owns, and errors that C returns.

A wrapper object owns its C object and frees it in `close`; using it after is a ValueError.
"""

from __future__ import annotations

import os
from typing import Any


def check(result: int, what: str) -> int:
    """Return `result`. Raises OSError when it is a negative errno."""
    if result < 0:
        raise OSError(-result, f"{what}: {os.strerror(-result)}")
    return result


class Handle:
    """A C object that this wrapper owns."""

    def __init__(self, pointer: Any) -> None:
        self._pointer = pointer

    @property
    def c(self) -> Any:
        """The C pointer. Raises ValueError after `close`."""
        if self._pointer is None:
            raise ValueError(f"{type(self).__name__} is closed")
        return self._pointer

    @property
    def closed(self) -> bool:
        return self._pointer is None

    def _take(self) -> Any:
        pointer, self._pointer = self._pointer, None
        return pointer
