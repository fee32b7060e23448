"""WWW-Authenticate: what a server wants to see before it answers (RFC 9110, 11.6.1). Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

_TOKEN = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"
_PARAMETER = re.compile(rf'\s*({_TOKEN})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|({_TOKEN}|[^\s,"]+))\s*(?:,|$)')
_SCHEME = re.compile(rf"\s*({_TOKEN})(?:\s+|\s*,|\s*$)")
MAX_LENGTH = 8 << 10


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way to log in: `scheme` in small letters ("basic", "bearer"), and its parameters."""

    scheme: str
    parameters: dict[str, str] = field(default_factory=dict)

    def get(self, name: str) -> str:
        return self.parameters.get(name, "")


def parse_challenges(headers: Iterable[str]) -> list[Challenge]:
    """The challenges in the header's values, each of which may have several, but for malformed ones."""
    found: list[Challenge] = []
    for header in headers:
        text, at, before = header[:MAX_LENGTH], 0, len(found)
        while at < len(text):
            parameter = _PARAMETER.match(text, at)
            if parameter is not None:
                if len(found) > before:
                    value = parameter[3] if parameter[2] is None else re.sub(r"\\(.)", r"\1", parameter[2])
                    found[-1].parameters.setdefault(parameter[1].lower(), value)
                at = parameter.end()
                continue
            scheme = _SCHEME.match(text, at)
            if scheme is None:
                break
            found.append(Challenge(scheme[1].lower()))
            at = scheme.end()
    return found
