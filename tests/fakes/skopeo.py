"""Debian's skopeo and umoci, unpacked into the cache."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from tests.guest.debian import unpacked
from tests.guest.programs import environment

_LIBRARIES = ["libgpgme11", "libassuan0", "libgpg-error0", "libdevmapper1.02.1"]


def skopeo(home: Path, *words: str | Path) -> str:
    """Run skopeo without certificates and policies, `home` as its home; what it prints."""
    tree = unpacked("skopeo", ["skopeo", *_LIBRARIES])
    libraries = [tree / "usr/lib/x86_64-linux-gnu", tree / "lib/x86_64-linux-gnu"]
    command = [str(tree / "usr/bin/skopeo"), "--insecure-policy", *map(str, words)]
    variables = {
        **environment(),
        "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
        "HOME": str(home),
        "XDG_RUNTIME_DIR": str(home),
        "TMPDIR": str(home),
    }
    home.mkdir(exist_ok=True)
    done = subprocess.run(command, capture_output=True, text=True, env=variables)
    assert done.returncode == 0, f"{' '.join(command[1:])}: {done.stderr}"
    assert "warn" not in done.stderr.lower(), done.stderr
    return done.stdout


def inspect(home: Path, image: str, *options: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(skopeo(home, "inspect", "--tls-verify=false", *options, image))
    return document


def umoci(*words: str | Path) -> None:
    command = [str(unpacked("umoci", ["umoci"]) / "usr/bin/umoci"), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command[1:])}: {done.stderr}"
