"""The one error of the builder."""

from __future__ import annotations

from typing import ClassVar

from rafs.errors import RafsError


class BuildError(RafsError):
    """An image cannot be built: its source cannot be read or does not fit the format, or the output fails.

    The text names the file, and where there is one the remedy.
    """

    fault: ClassVar[str] = "source"
