"""What an ordinary user of a container does, on an overlayfs whose upper directory is shared."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.guest.nydusd import Nydusd
from tests.guest.programs import static_program
from tests.guest.vm import Guest

SCRIPT = r"""
set -e
mkdir /mnt/share /mnt/merged
mount -t virtiofs $TAG /mnt/share
cd /mnt/share/containers
mount -t overlay -o lowerdir=lower,upperdir=snapshot/fs,workdir=snapshot/work,index=off overlay /mnt/merged
cd /mnt/merged
as_user() { asuser 1000 1000 busybox "$@"; }
# each name is taken by a whiteout when it is made again: overlayfs makes it in its work directory, which has
# no permissions at all, for the user, by its own rights
for name in file folder link; do as_user rm -r $name; done
as_user sh -c 'echo again >file'
as_user mkdir folder
as_user ln -s file link
as_user sh -c 'echo new >new'
cat file link new
stat -c '%n %u %g' file folder link new
cd /
umount /mnt/merged /mnt/share
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
    daemon = Nydusd(tmp_path, shared=[source])
    with daemon:
        daemon.share("/containers", source)
        program = static_program(Path(__file__).parent / "asuser.c", tmp_path)
        result = daemon.run(booted, SCRIPT, files={"/bin/asuser": program})
    owners = [f"{name} 1000 1000" for name in ("file", "folder", "link", "new")]
    assert result.check().lines == ["again", "again", "new", *owners]
