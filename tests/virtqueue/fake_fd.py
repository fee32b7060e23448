"""``FakeFd``: a descriptor that is none, for tests without IO."""

from virtqueue.fd import Fd


class FakeFd(Fd):
    """Closes nothing, and remembers whether it was closed."""

    __slots__ = ("closed",)

    def __init__(self, number: int = 1000) -> None:
        super().__init__(number)
        self.closed = 0

    def close(self) -> None:
        self.closed += 1
