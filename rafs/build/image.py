"""Building an image, the whole path: scan, pack chunks into the blob, write the bootstrap.

The blob gets its name before the bootstrap does, so a bootstrap that exists has its blob.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rafs.build.blob import BlobFacts, BlobWriter
from rafs.build.bootstrap import pack_bootstrap
from rafs.build.chunker import Packer, map_in_order, units
from rafs.build.chunks import ChunkStore
from rafs.build.codecs import COMPRESSORS, DIGESTERS
from rafs.build.errors import BuildError
from rafs.build.output import PendingFile
from rafs.build.source import scan_directory
from rafs.build.tree import Tree

MIN_CHUNK_SIZE = 4096
MAX_CHUNK_SIZE = 16 << 20


class Progress(Protocol):
    """Told how far the build is. Called from the thread that builds."""

    def scanned(self, entries: int) -> None:
        """`entries` of the source are known so far."""

    def packed(self, done: int, total: int) -> None:
        """`done` of `total` bytes of file data are read."""


class _NoProgress:
    def scanned(self, entries: int) -> None:
        pass

    def packed(self, done: int, total: int) -> None:
        pass


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """`chunk_size` in bytes, a power of two, 4096 to 16 MiB; `jobs` threads, None for one a core."""

    compressor: str = "lz4_block"
    digester: str = "blake3"
    chunk_size: int = 1 << 20
    jobs: int | None = None

    def validate(self) -> None:
        """Raise BuildError when a value is not one that the builder knows."""
        for what, value, choices in (
            ("compressor", self.compressor, COMPRESSORS),
            ("digester", self.digester, DIGESTERS),
        ):
            if value not in choices:
                raise BuildError(f"no {what} {value!r}; choose one of {', '.join(choices)}")
        size = self.chunk_size
        if not MIN_CHUNK_SIZE <= size <= MAX_CHUNK_SIZE or size & (size - 1):
            raise BuildError(f"chunk size {size} is not a power of two from 4096 to {MAX_CHUNK_SIZE}")
        if self.jobs is not None and self.jobs < 1:
            raise BuildError(f"{self.jobs} jobs cannot build anything; use 1 or more")


@dataclass(frozen=True, slots=True)
class BuildResult:
    """What was built. `blob` and `blob_path` are None for a tree without file data; sizes in bytes."""

    bootstrap_path: Path
    bootstrap_size: int
    blob: BlobFacts | None
    blob_path: Path | None
    entry_count: int
    inode_count: int
    data_size: int  # of all files, hard links once
    distinct_size: int  # the same, repeated chunks once
    chunk_count: int  # chunks of all files, repeated ones too; blob.chunk_count are the distinct ones
    warnings: tuple[str, ...]


def build_image(
    source: str | bytes | os.PathLike[str],
    bootstrap: Path,
    blob_dir: Path,
    options: BuildOptions | None = None,
    progress: Progress | None = None,
) -> BuildResult:
    """Build directory `source` into the file `bootstrap` and one blob in `blob_dir`, named by its SHA-256.

    The same tree and options give the same bytes, whatever `jobs` is. Existing files are replaced at the
    end, by complete ones. Raises BuildError.
    """
    options = options or BuildOptions()
    options.validate()
    progress = progress or _NoProgress()
    root = os.fsencode(source)
    _refuse_inside(root, bootstrap.parent, "--bootstrap")
    _refuse_inside(root, blob_dir, "--blob-dir")
    if bootstrap.is_dir():
        raise BuildError(f"--bootstrap {str(bootstrap)!r} is a directory; name a file")
    compressor, digester = COMPRESSORS[options.compressor], DIGESTERS[options.digester]

    tree = scan_directory(root, progress.scanned)
    chunks = ChunkStore()
    blob_path: Path | None = None
    blob: BlobFacts | None = None
    with (
        PendingFile(blob_dir, "blob") as blob_file,
        PendingFile(bootstrap.parent, "bootstrap") as bootstrap_file,
    ):
        writer = BlobWriter(blob_file, compressor)
        packer = Packer(compressor, digester, options.chunk_size, chunks.keys)
        _pack_files(tree, packer, chunks, writer, options, progress)
        if len(chunks):
            blob = writer.finish(chunks)
        image = pack_bootstrap(tree, chunks, blob, compressor, digester, options.chunk_size)
        bootstrap_file.write(image)
        if blob:
            blob_path = blob_file.commit(blob.blob_id)
        bootstrap_path = bootstrap_file.commit(bootstrap.name)
    files = [inode for inode in tree.inodes if inode.is_regular]
    return BuildResult(
        bootstrap_path=bootstrap_path,
        bootstrap_size=len(image),
        blob=blob,
        blob_path=blob_path,
        entry_count=tree.entry_count,
        inode_count=len(tree.inodes),
        data_size=sum(inode.size for inode in files),
        distinct_size=chunks.data_size,
        chunk_count=sum(len(inode.chunks) for inode in files),
        warnings=tuple(tree.warnings),
    )


def _refuse_inside(source: bytes, folder: Path, option: str) -> None:
    root = os.path.realpath(source)
    if os.path.commonpath([root, os.path.realpath(os.fsencode(folder))]) == root:
        raise BuildError(
            f"{option} lies in the source {os.fsdecode(source)!r}; write the image somewhere else"
        )


def _pack_files(
    tree: Tree,
    packer: Packer,
    chunks: ChunkStore,
    writer: BlobWriter,
    options: BuildOptions,
    progress: Progress,
) -> None:
    """Read every file, and append to the blob the chunks that it does not have yet."""
    total = sum(inode.size for inode in tree.inodes if inode.is_regular)
    jobs = options.jobs or len(os.sched_getaffinity(0))
    done = 0
    for unit, packed in map_in_order(packer.pack, units(tree.inodes, options.chunk_size), jobs):
        for piece, piece_chunks in zip(unit, packed, strict=True):
            for key, size, file_offset, stored in piece_chunks:
                chunk = chunks.find(key)
                if chunk is None:
                    assert stored is not None  # only a chunk that the store had is left out
                    chunk = chunks.add(key, size, writer.append(stored), len(stored), file_offset)
                piece.inode.chunks.append(chunk)
            done += piece.end - piece.offset
        progress.packed(done, total)
