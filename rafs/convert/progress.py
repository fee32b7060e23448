"""Who is told how far a conversion is."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called on the event loop. `layer` is the digest of the layer as it was."""

    def begin(self, layer: str, step: str, size: int) -> None:
        """A layer has come to a step ("fetch", "convert", "push") of so many bytes."""

    def advance(self, layer: str, size: int) -> None:
        """So many more bytes of it are done; fewer, when some must be done again."""

    def end(self, layer: str, outcome: str) -> None:
        """Nothing is left to do for the layer."""

    def say(self, text: str) -> None:
        """Something else is done now."""


class NoProgress:
    def begin(self, layer: str, step: str, size: int) -> None:
        pass

    def advance(self, layer: str, size: int) -> None:
        pass

    def end(self, layer: str, outcome: str) -> None:
        pass

    def say(self, text: str) -> None:
        pass
