"""What can be wrong with what nydusd's callers give us."""

from __future__ import annotations


class ConfigError(Exception):
    """A configuration that cannot be used. The text begins with the path of the field, and shows no value."""
