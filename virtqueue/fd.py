"""``Fd``: one open file descriptor and its one owner.

A descriptor that came over the socket belongs to the message that it came with. Whoever wants to keep it
calls ``take()`` and is the owner from then on; closing the message closes what nobody took. So a message
that is refused half-way, or whose task is cancelled, leaks nothing, whichever path it leaves by.
"""

import os


class Fd:
    """Owner of one file descriptor. Not thread-safe; the number itself may be lent with ``fileno()``."""

    __slots__ = ("_number",)

    def __init__(self, number: int) -> None:
        self._number: int | None = number

    def fileno(self) -> int:
        """The number, still owned here. ValueError once it was taken or closed."""
        if self._number is None:
            raise ValueError("this file descriptor has been taken or closed")
        return self._number

    def take(self) -> int:
        """Give the descriptor away: the caller closes it. ValueError once it was taken or closed."""
        number = self.fileno()
        self._number = None
        return number

    def close(self) -> None:
        """Close the descriptor if it is still owned here; more calls do nothing."""
        number, self._number = self._number, None
        if number is not None:
            os.close(number)

    def __repr__(self) -> str:
        return f"Fd({'gone' if self._number is None else self._number})"
