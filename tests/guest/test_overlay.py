"""overlayfs with the image below and a tmpfs above: what a container's root file system is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.guest import treelist
from tests.guest.backend import Image, run_on_image
from tests.guest.programs import program
from tests.guest.vm import Guest
from tests.trees import describe, differences

SCRIPT = r"""
set -e
mkdir /run/lower /run/merged
mount -t virtiofs -o ro $TAG /run/lower
mount -t tmpfs tmpfs /tmp
mkdir /tmp/upper /tmp/work
mount -t overlay -o lowerdir=/run/lower,upperdir=/tmp/upper,workdir=/tmp/work overlay /run/merged
cd /run/merged
same() { [ "$1" = "$2" ] || { echo "$3: '$1', not '$2'" >&2; exit 1; }; }

# copy-up by a write, by metadata alone, and of a file with several names
echo more >>folder/appended
same "$(cat folder/appended)" "first
more" "copy-up"
same "$(stat -c '%a %u %g' folder/appended)" "640 12 34" "owner and mode after copy-up"
chmod 600 folder/mode-only
same "$(stat -c '%a %Y' folder/mode-only)" "600 1000000000" "copy-up of metadata"
same "$(cat folder/mode-only)" "as it was" "data after copy-up of metadata"

# whiteouts: of a file, of a folder, and a folder made again where one was
rm folder/removed
[ ! -e folder/removed ] && [ -c /tmp/upper/folder/removed ]
rm -r gone
[ ! -e gone ]
mkdir gone
same "$(ls -A gone)" "" "an opaque folder"

# rename within, over, and of what lies below; create and link
mv folder/renamed folder/new-name
same "$(cat folder/new-name)" "renamed" "rename"
mv folder/over folder/victim
same "$(cat folder/victim)" "over" "rename over a file"
[ ! -e folder/renamed ] && [ ! -e folder/over ]
echo created >folder/created
ln folder/created folder/linked
ln -s created folder/symlink
same "$(cat folder/symlink)" "created" "create and links"

# what is below runs, as it is and after a copy-up
same "$(./bin/busybox echo ran)" "ran" "exec from below"
touch -d @1 bin/busybox
[ -f /tmp/upper/bin/busybox ]
same "$(chroot . /bin/busybox echo ran)" "ran" "exec of a copy"
ls -A folder | sort
cd /
umount /run/merged
exec treelist /run/lower
"""


@pytest.fixture
def image(tmp_path: Path) -> Image:
    source = tmp_path / "source"
    (source / "folder").mkdir(parents=True)
    (source / "gone/below").mkdir(parents=True)
    (source / "bin").mkdir()
    for name, text in {
        "folder/appended": "first\n",
        "folder/mode-only": "as it was",
        "folder/removed": "removed",
        "folder/renamed": "renamed",
        "folder/over": "over",
        "folder/victim": "victim",
        "gone/below/file": "gone",
    }.items():
        (source / name).write_text(text)
    (source / "folder/appended").chmod(0o640)
    os.chown(source / "folder/appended", 12, 34)
    os.utime(source / "folder/mode-only", (1_000_000_000, 1_000_000_000))
    (source / "bin/busybox").write_bytes(program("busybox").read_bytes())
    (source / "bin/busybox").chmod(0o755)
    return Image(source, tmp_path)


def test_overlayfs(guest: Guest, image: Image, programs: dict[str, bytes | Path], tmp_path: Path) -> None:
    result, _ = run_on_image(guest, image, SCRIPT, tmp_path, files=programs)
    names = ["appended", "created", "linked", "mode-only", "new-name", "symlink", "victim"]
    lines = result.check().lines
    assert lines[: len(names)] == names
    below = treelist.parse(lines[len(names) :])
    assert differences(treelist.with_sorted_links(describe(image.source)), below) == []
