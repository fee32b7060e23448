"""What an ordinary user of a container does, on an overlayfs whose upper directory is shared."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.guest.nydusd import run_on_share
from tests.guest.programs import static_program
from tests.guest.vm import Guest

SCRIPT = r"""
set -e
cd $SHARE
mkdir /run/merged
mount -t overlay -o lowerdir=lower,upperdir=snapshot/fs,workdir=snapshot/work,index=off overlay /run/merged
cd /run/merged
as_user() { asuser 1000 1000 busybox "$@"; }
# Each name is taken by a whiteout when it is made again: overlayfs then makes it in its work directory, which
# has no permissions at all, as the user and by its own rights.
as_user rm -r file folder link
as_user sh -c 'echo again >file'
as_user mkdir folder
as_user ln -s file link
as_user sh -c 'echo new >new'
cat file link new
stat -c '%n %u %g' file folder link new
cd /
umount /run/merged
"""


@pytest.mark.parametrize("kernel", ["guest", "multi_queue_guest"])
def test_a_user_makes_again_what_it_removed(
    request: pytest.FixtureRequest, kernel: str, tmp_path: Path
) -> None:
    """Linux 6.1 does not tell a caller's groups, 6.12 does."""
    booted: Guest = request.getfixturevalue(kernel)
    source = tmp_path / "source"
    for folder in ("lower/folder", "snapshot/fs", "snapshot/work"):
        (source / folder).mkdir(parents=True)
    for folder in ("lower", "lower/folder", "snapshot/fs"):
        (source / folder).chmod(0o777)
    (source / "lower/file").write_text("lower\n")
    (source / "lower/link").symlink_to("nowhere")
    program = static_program(Path(__file__).parent / "asuser.c", tmp_path)
    result = run_on_share(booted, source, SCRIPT, tmp_path, files={"/bin/asuser": program})
    owners = [f"{name} 1000 1000" for name in ("file", "folder", "link", "new")]
    assert result.check().lines == ["again", "again", "new", *owners]
