import os
import subprocess
import time
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithCommit(build_py):
    """Writes which commit it is into the built package (vhostfs/nydusd/version.py), never into the tree."""

    def run(self):
        super().run()
        if self.editable_mode:
            return
        seconds = int(os.environ.get("SOURCE_DATE_EPOCH") or time.time())
        built = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
        text = f"GIT_COMMIT = {git_commit()!r}\nBUILD_TIME = {built!r}\n"
        (Path(self.build_lib) / "vhostfs" / "_build.py").write_text(text)


def git_commit():
    if commit := os.environ.get("VHOSTFS_GIT_COMMIT"):  # for builds from an archive
        return commit
    try:
        command = ["git", "-C", str(Path(__file__).resolve().parent), "rev-parse", "HEAD"]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


setup(cffi_modules=["native/build_dataplane.py:ffibuilder"], cmdclass={"build_py": BuildWithCommit})
