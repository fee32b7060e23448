"""Our own reader, the C one, and our own blob code see in a built image what is in the source."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path

import pytest

from rafs.blob_meta import BlobMeta, unpack_section
from rafs.blob_record import CI_HEADER_SIZE, BlobRecord
from rafs.build import BuildOptions, build_image
from rafs.build.bootstrap import encode_rdev
from rafs.codec import decode_chunk, verify_chunk
from rafs.codes import Compressor
from rafs.image import Image, Inode
from rafs.toc import parse_toc, toc_range
from tests.trees import Entry


def seen(image: Image, path: bytes, inode: Inode, entry: Entry) -> list[str]:
    """What the reader says otherwise than `entry`, but for the content."""
    facts = {
        "mode": (inode.mode, entry.mode),
        "owner": ((inode.uid, inode.gid), (entry.uid, entry.gid)),
        "size": (0 if stat.S_ISDIR(inode.mode) else inode.size, entry.size),
        "mtime": (inode.mtime * 10**9 + inode.mtime_nsec, entry.mtime_ns % (10**9 << 64)),
        "nlink": (inode.nlink, entry.nlink),
        "rdev": (inode.rdev, encode_rdev(entry.rdev)),
        "xattrs": (image.xattrs(inode.nid), entry.xattrs),
        "target": (image.readlink(inode.nid) if stat.S_ISLNK(inode.mode) else b"", entry.target),
    }
    return [f"{path!r}: {what} {got!r}, not {want!r}" for what, (got, want) in facts.items() if got != want]


@pytest.mark.parametrize(
    ("compressor", "digester"), [("none", "sha256"), ("lz4_block", "blake3"), ("zstd", "blake3")]
)
@pytest.mark.parametrize("chunk_size", [4096, 1 << 20])
def test_our_reader_sees_the_source(
    nasty_tree: Path,
    nasty_entries: dict[bytes, Entry],
    tmp_path: Path,
    compressor: str,
    digester: str,
    chunk_size: int,
) -> None:
    result = build_image(
        nasty_tree, tmp_path / "boot", tmp_path, BuildOptions(compressor, digester, chunk_size)
    )
    assert result.blob_path is not None
    content = result.blob_path.read_bytes()
    image = Image(result.bootstrap_path)

    # the blob, by the code that serves it
    record = BlobRecord.parse(image.blob_record(0))
    offset, _ = toc_range(len(content), record.toc_size)
    toc = parse_toc(content[offset:], len(content), toc_size=record.toc_size, toc_digest=record.toc_digest)
    assert toc.is_authentic
    section = content[record.ci_offset : record.ci_offset + record.ci_compressed_size + CI_HEADER_SIZE]
    ci, _ = unpack_section(record, section)
    meta = BlobMeta(record, lambda at, length: ci[at : at + length])
    meta.check_all()
    digests_at = toc.find("blob.digest")
    table = image.chunk_digests(0)
    assert digests_at is not None and len(table) == len(meta)
    chunks = []
    for index, chunk in enumerate(meta.chunks(0, len(meta))):
        stored = content[chunk.compressed_offset : chunk.compressed_end]
        codec = record.compressor if chunk.is_compressed else Compressor.NONE
        plain = decode_chunk(stored, compressor=codec, size=chunk.uncompressed_size)
        verify_chunk(plain, record.digester, table[index])
        at = digests_at.offset + 32 * index
        assert content[at : at + 32] == table[index]
        chunks.append(plain)

    # the tree, by the code that serves it
    nids: dict[bytes, int] = {}
    wrong = []
    for path, inode in image.walk():
        name = path[1:] or b"."
        nids[name] = inode.nid
        entry = nasty_entries[name]
        wrong += seen(image, path, inode, entry)
        if stat.S_ISREG(inode.mode):
            digest = hashlib.sha256()
            for extent in image.extents(inode.nid, 0, inode.size):
                part = chunks[extent.chunk_index][extent.offset_in_chunk :][: extent.length]
                assert extent.blob_index == 0 and len(part) == extent.length
                digest.update(part)
            if digest.hexdigest() != entry.sha256:
                wrong.append(f"{path!r}: other content")
    assert wrong == []
    assert nids.keys() == nasty_entries.keys()
    assert all(nids[name] == nids[entry.link_of] for name, entry in nasty_entries.items())
    image.close()
