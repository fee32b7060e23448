"""What a daemon has of an image: not what fetches it."""

from __future__ import annotations

import subprocess
import sys

from tests.conftest import REPO

FETCHES = ["aiohttp", "ssl", "zstandard", "lz4", "blake3", "obstore", "rafs.fetch", "rafs.backend.http"]


def test_what_fetches_is_not_imported() -> None:
    """It is heavy, and speaks to networks: it is the agent's."""
    script = f"""
import sys
sys.modules["ssl"] = None
import vhostfs.nydusd.daemon, vhostfs.front_ends, vhostfs.rafs_instance
print([name for name in {FETCHES} if sys.modules.get(name)])
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=REPO, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
