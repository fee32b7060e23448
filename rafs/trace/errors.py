"""What can be wrong with a trace."""

from __future__ import annotations


class TraceError(Exception):
    """Not a trace, or one that was damaged or is of a later version; the text says which."""
