"""A reader of RAFS v5 images by the words of the specification, section 4: it shares no code with ours.

`describe_image` gives what tests.trees.describe gives of a directory. On the way everything is asserted that
the format promises: tables, order, numbers, digests of inodes and chunks, where chunks lie.
"""

from __future__ import annotations

import hashlib
import os
import stat
import struct
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from tests.blobs import DIGESTS, decode
from tests.trees import Entry

_SUPER = struct.Struct("<IIIIQQQQQIIIIQ")
_INODE = struct.Struct("<32sQQIIIIQQQIIIHHIIQ8s")
_CHUNK = struct.Struct("<32sIIIIQQQII")
_CODECS = {0x1: 0, 0x2: 1, 0x80: 3}


@dataclass(frozen=True)
class Record:
    """An inode record; `place` is where it stands, `chunks` are parsed, in order."""

    place: int
    digest: bytes
    parent: int
    ino: int
    mode: int
    uid: int
    gid: int
    size: int
    blocks: int
    flags: int
    nlink: int
    first_child: int
    count: int
    rdev: int
    mtime_ns: int
    name: bytes
    target: bytes
    xattrs: dict[bytes, bytes]
    chunks: list[tuple[bytes, int, int, int, int, int, int, int, int, int]]
    end: int


class Image5:
    """A bootstrap, parsed whole; `records[i]` has index i + 1."""

    def __init__(self, path: Path) -> None:
        data = self.data = path.read_bytes()
        (magic, version, size, self.chunk_size, self.flags, inodes, table, prefetch, blobs) = (
            _SUPER.unpack_from(data)[:9]
        )
        entries, prefetched, blobs_size, extended_count, extended = _SUPER.unpack_from(data)[9:]
        assert (magic, version, size) == (0x52414653, 0x500, 8192)
        assert len(data) % 8 == 0 and not any(data[80:8192])
        assert self.flags & 0x10  # owners are real
        self.codec = _CODECS[self.flags & 0xC3]
        self.digest = DIGESTS[{4: "blake3", 8: "sha256"}[self.flags & 0xC]]
        assert table == 8192 and not (prefetch | blobs | extended) % 8
        assert prefetch >= table + 4 * entries and blobs >= prefetch + 4 * prefetched
        assert extended >= blobs + blobs_size
        self.prefetch = list(struct.unpack_from(f"<{prefetched}I", data, prefetch))
        self.blob_ids = [part[8:].decode() for part in self._blob_entries(data[blobs : blobs + blobs_size])]
        assert extended_count == len(self.blob_ids)
        self.blobs = [struct.unpack_from("<IIQQ40s", data, extended + 64 * i) for i in range(extended_count)]
        places = [8 * place for place in struct.unpack_from(f"<{entries}I", data, table)]
        assert min(places) >= extended + 64 * extended_count
        self.records = [self._record(place) for place in places]
        ordered = sorted(self.records, key=lambda record: record.place)
        for one, after in pairwise(ordered):
            assert one.end <= after.place
        assert ordered[-1].end == len(data)
        assert inodes == len({record.ino for record in self.records})

    @staticmethod
    def _blob_entries(table: bytes) -> list[bytes]:
        found = []
        while len(table) > 8:
            size = 8 + len(table[8:].split(b"\0")[0])
            found.append(table[:size])
            table = table[size + 1 :]
        return found

    def _record(self, place: int) -> Record:
        data = self.data
        (digest, parent, ino, uid, gid, project, mode, size, blocks, flags, nlink, first, count) = (
            _INODE.unpack_from(data, place)[:13]
        )
        name_size, target_size, rdev, nanoseconds, seconds, reserved = _INODE.unpack_from(data, place)[13:]
        assert project == 0 and not any(reserved) and nanoseconds < 10**9
        at = place + 128
        name, at = data[at : at + name_size], at + (name_size + 7) // 8 * 8
        target, at = data[at : at + target_size], at + (target_size + 7) // 8 * 8
        assert bool(target) == bool(flags & 1) == stat.S_ISLNK(mode)
        xattrs = {}
        if flags & 4:
            (total,) = struct.unpack_from("<Q", data, at)
            pair, end = at + 8, at + 8 + total
            while pair < end:
                (length,) = struct.unpack_from("<I", data, pair)
                key, _, value = data[pair + 4 : pair + 4 + length].partition(b"\0")
                xattrs[key] = value
                pair += 4 + length
            assert pair == end and xattrs
            at = (end + 7) // 8 * 8
        chunks = []
        if stat.S_ISREG(mode):
            chunks = [_CHUNK.unpack_from(data, at + 80 * i) for i in range(count)]
            at += 80 * count
            assert blocks == -(-size // 512)
        if seconds >= 1 << 63:
            seconds -= 1 << 64
        return Record(
            place,
            digest,
            parent,
            ino,
            mode,
            uid,
            gid,
            size,
            blocks,
            flags,
            nlink,
            first,
            count,
            rdev,
            seconds * 10**9 + nanoseconds,
            name,
            target,
            xattrs,
            chunks,
            at,
        )

    def record(self, index: int) -> Record:
        return self.records[index - 1]

    def content(self, record: Record, blob_dir: Path) -> bytes:
        """The data of a file, each chunk checked."""
        pieces = []
        for number, chunk in enumerate(record.chunks):
            digest, blob, flags, stored_size, size, stored_at, at, file_offset, index, crc = chunk
            count, _, blob_plain, blob_stored, _ = self.blobs[blob]
            assert index < count and at + size <= blob_plain and stored_at + stored_size <= blob_stored
            assert file_offset == number * self.chunk_size and crc == 0
            assert size == min(self.chunk_size, record.size - file_offset)
            assert (flags == 1) == (stored_size < size)
            with (blob_dir / self.blob_ids[blob]).open("rb") as file:
                file.seek(stored_at)
                plain = decode(self.codec, file.read(stored_size), size)
            assert self.digest(plain) == digest
            pieces.append(plain)
        return b"".join(pieces)

    def digest_of(self, record: Record) -> bytes:
        """What the record's digest must be (4.7)."""
        if stat.S_ISREG(record.mode):
            return self.digest(b"".join(chunk[0] for chunk in record.chunks))
        if stat.S_ISDIR(record.mode):
            children = range(record.first_child, record.first_child + record.count)
            return self.digest(b"".join(self.record(child).digest for child in children))
        return self.digest(record.target)


def _children(image: Image5, record: Record) -> list[tuple[int, Record]]:
    if not stat.S_ISDIR(record.mode):
        return []
    return [(i, image.record(i)) for i in range(record.first_child, record.first_child + record.count)]


def _check_numbers(image: Image5) -> None:
    """A directory's children have the next numbers, in the order of their names; first names come first."""
    waiting, after, inos = [(1, image.record(1))], 2, {1}
    assert image.record(1).ino == 1 and image.record(1).parent == 0 and image.record(1).name == b"/"
    while waiting:
        index, record = waiting.pop()
        children = _children(image, record)
        assert not children or record.first_child == after > index
        after += len(children)
        names = [child.name for _, child in children]
        assert names == sorted(set(names))
        for number, child in children:
            assert child.parent == record.ino and child.digest == image.digest_of(child)
            assert (child.ino == number) == (child.ino not in inos)
            inos.add(child.ino)
        waiting.extend(child for child in reversed(children) if stat.S_ISDIR(child[1].mode))
    assert after == len(image.records) + 1
    assert image.record(1).digest == image.digest_of(image.record(1))


def describe_image(bootstrap: Path, blob_dir: Path) -> dict[bytes, Entry]:
    """Return every entry of a v5 image by its path, as tests.trees.describe does of a directory."""
    image = Image5(bootstrap)
    for blob_id, facts in zip(image.blob_ids, image.blobs, strict=True):
        content = (blob_dir / blob_id).read_bytes()
        assert hashlib.sha256(content).hexdigest() == blob_id and len(content) == facts[3]
    _check_numbers(image)
    first_names: dict[int, bytes] = {}

    def entry(record: Record, path: bytes) -> Entry:
        is_file = stat.S_ISREG(record.mode)
        return Entry(
            mode=record.mode,
            uid=record.uid,
            gid=record.gid,
            size=0 if stat.S_ISDIR(record.mode) else record.size,
            mtime_ns=record.mtime_ns,
            nlink=record.nlink,
            rdev=os.makedev(record.rdev >> 8 & 0xFFF, record.rdev & 0xFF | record.rdev >> 12 & 0xFFF00),
            link_of=first_names.setdefault(record.ino, path),
            target=record.target,
            xattrs=record.xattrs,
            sha256=hashlib.sha256(image.content(record, blob_dir)).hexdigest() if is_file else "",
        )

    found = {b".": entry(image.record(1), b".")}
    waiting = [(b"", image.record(1))]
    while waiting:  # in the order of `describe`, for link_of
        folder, record = waiting.pop()
        for _, child in _children(image, record):
            path = folder + child.name
            found[path] = entry(child, path)
            if stat.S_ISDIR(child.mode):
                waiting.append((path + b"/", child))
    return found
