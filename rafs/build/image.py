"""Building an image, the whole path: read the source, pack chunks into the blob, write the bootstrap.

The blob gets its name before the bootstrap does, so a bootstrap that exists has its blob.
"""

from __future__ import annotations

import os
from collections.abc import Container, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from native.rafs_v6 import RAFS_FLAG_EXPLICIT_UIDGID
from rafs.build.blob import BlobWriter
from rafs.build.blob_facts import BlobFacts
from rafs.build.chunker import Packer, Piece, map_in_order
from rafs.build.chunks import OWN, ChunkStore
from rafs.build.codecs import COMPRESSORS, DIGESTERS, Compressor, Digester
from rafs.build.directory import DirectorySource
from rafs.build.errors import BuildError
from rafs.build.load import ChunkDictionary, check_alike, load_tree, opened
from rafs.build.output import PendingFile
from rafs.build.overlay import Whiteouts, stack
from rafs.build.pack import pack_image
from rafs.build.prefetch import PrefetchPolicy, select
from rafs.build.tree import Tree
from rafs.build.v5 import V5BlobWriter

MIN_CHUNK_SIZE = 4096
MAX_CHUNK_SIZE = 16 << 20


class Progress(Protocol):
    """Told how far the build is. Called from the thread that builds."""

    def scanned(self, entries: int) -> None:
        """`entries` of the source are known so far."""

    def packed(self, done: int, total: int | None) -> None:
        """`done` of `total` bytes of file data are read; None: nobody knows how many there are."""


class Source(Protocol):
    """Where files come from. `data_size` is in bytes, None while it cannot be known."""

    data_size: int | None

    def units(self, chunk_size: int) -> Iterator[list[Piece]]:
        """Yield all file data once, cut into units of work."""
        ...

    def tree(self) -> Tree:
        """The tree whose files had that data; asked for after `units` is used up."""
        ...


class NoProgress:
    def scanned(self, entries: int) -> None:
        pass

    def packed(self, done: int, total: int | None) -> None:
        pass


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """`chunk_size` in bytes, a power of two, 4096 to 16 MiB; `jobs` threads, None for one a core.

    `whiteouts` says which files of the source are markers that remove something, and no files of the image.
    `parent` is the bootstrap of the layers below. Chunks of `parent` and of `chunk_dict`, both bootstraps,
    are referred to and not stored again. `prefetch` are paths in the image.
    """

    compressor: str = "lz4_block"
    digester: str = "blake3"
    chunk_size: int = 1 << 20
    jobs: int | None = None
    whiteouts: Whiteouts = Whiteouts.NONE
    parent: Path | None = None
    chunk_dict: Path | None = None
    prefetch: tuple[bytes, ...] = ()
    prefetch_policy: PrefetchPolicy = PrefetchPolicy.NONE
    fs_version: int = 6

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
        if self.fs_version not in (5, 6):
            raise BuildError(f"no RAFS v{self.fs_version}; choose 5 or 6")
        if self.jobs is not None and self.jobs < 1:
            raise BuildError(f"{self.jobs} jobs cannot build anything; use 1 or more")


@dataclass(frozen=True, slots=True)
class BuildResult:
    """What was built. `blob` and `blob_path` are None if no new blob is needed; sizes in bytes."""

    bootstrap_path: Path
    bootstrap_size: int
    blob: BlobFacts | None
    blob_path: Path | None
    blob_ids: tuple[str, ...]  # of all blobs that the image needs, in the order of its blob table
    entry_count: int
    inode_count: int
    data_size: int  # of all files, hard links once
    distinct_size: int  # the same, repeated chunks once
    chunk_count: int  # chunks of all files, repeated ones too; blob.chunk_count are the distinct ones
    warnings: tuple[str, ...]


def build_image(
    source: str | bytes | os.PathLike[str] | Source,
    bootstrap: Path,
    blob_dir: Path,
    options: BuildOptions | None = None,
    progress: Progress | None = None,
) -> BuildResult:
    """Build `source`, a directory or another Source, into the file `bootstrap` and one blob in `blob_dir`.

    The blob is named by its SHA-256. The same source and options give the same bytes, whatever `jobs` is.
    Existing files are replaced at the end, by complete ones. Raises BuildError.
    """
    options = options or BuildOptions()
    options.validate()
    progress = progress or NoProgress()
    if bootstrap.is_dir():
        raise BuildError(f"--bootstrap {str(bootstrap)!r} is a directory; name a file")
    if isinstance(source, str | bytes | os.PathLike):
        root = os.fsencode(source)
        _refuse_inside(root, bootstrap.parent, "--bootstrap")
        _refuse_inside(root, blob_dir, "--blob-dir")
        first = options.prefetch if options.prefetch_policy is not PrefetchPolicy.NONE else ()
        source = DirectorySource(root, first, progress.scanned)
    return _Build(options, progress).run(source, bootstrap, blob_dir)


class _Build:
    def __init__(self, options: BuildOptions, progress: Progress) -> None:
        self._options = options
        self._progress = progress
        self._compressor: Compressor = COMPRESSORS[options.compressor]
        self._digester: Digester = DIGESTERS[options.digester]
        self._writer = V5BlobWriter if options.fs_version == 5 else BlobWriter
        self._chunks = ChunkStore(self._writer.alignment)

    def run(self, source: Source, bootstrap: Path, blob_dir: Path) -> BuildResult:
        options, chunks = self._options, self._chunks
        blob_path: Path | None = None
        blob: BlobFacts | None = None
        with ExitStack() as scope:
            images = []
            for path in filter(None, (options.chunk_dict, options.parent)):
                image = scope.enter_context(opened(path))
                check_alike(image, path, options.fs_version, options.chunk_size)
                images.append(image)
            blob_file = scope.enter_context(PendingFile(blob_dir, "blob"))
            bootstrap_file = scope.enter_context(PendingFile(bootstrap.parent, "bootstrap"))
            writer = self._writer(blob_file, self._compressor, self._digester)
            self._pack_files(source, ChunkDictionary(images, self._digester.code), writer)
            if chunks.own_count:
                blob = writer.finish(chunks)
                chunks.finish_own(blob)
            tree = source.tree()
            distinct_size = chunks.data_size
            warnings = list(tree.warnings)
            layers = [tree]
            if options.parent is not None:
                layers.insert(0, load_tree(images[-1], options.parent, chunks))
            if len(layers) > 1 or options.whiteouts is not Whiteouts.NONE:
                tree = stack(layers, options.whiteouts)
            wanted, missing = select(tree, options.prefetch)
            table = chunks.used(inode.chunks for inode in tree.inodes)
            content = pack_image(
                tree,
                chunks,
                table,
                fs_version=options.fs_version,
                flags=self._compressor.filesystem_flag
                | self._digester.filesystem_flag
                | RAFS_FLAG_EXPLICIT_UIDGID,
                chunk_size=options.chunk_size,
                prefetch=wanted if options.prefetch_policy is PrefetchPolicy.FS else (),
            )
            bootstrap_file.write(content)
            if blob and OWN in table.places:
                blob_path = blob_file.commit(blob.blob_id)
            else:
                blob = None  # whatever it has was replaced by later entries
            bootstrap_path = bootstrap_file.commit(bootstrap.name)
        files = [inode for inode in tree.inodes if inode.is_regular]
        return BuildResult(
            bootstrap_path=bootstrap_path,
            bootstrap_size=len(content),
            blob=blob,
            blob_path=blob_path,
            blob_ids=tuple(one.blob_id for one in table.facts),
            entry_count=tree.entry_count,
            inode_count=len(tree.inodes),
            data_size=sum(inode.size for inode in files),
            distinct_size=distinct_size,
            chunk_count=sum(len(inode.chunks) for inode in files),
            warnings=(*warnings, *missing),
        )

    def _pack_files(self, source: Source, shared: ChunkDictionary, writer: BlobWriter) -> None:
        """Read every file, and append to the blob the chunks that neither it nor `shared` has yet."""
        options, chunks = self._options, self._chunks
        packer = Packer(
            self._compressor, self._digester, options.chunk_size, _Either(chunks.keys, shared.keys)
        )
        jobs = options.jobs or len(os.sched_getaffinity(0))
        done = 0
        for unit, packed in map_in_order(packer.pack, source.units(options.chunk_size), jobs):
            for piece, piece_chunks in zip(unit, packed, strict=True):
                for key, size, file_offset, stored in piece_chunks:
                    chunk = chunks.find(key)
                    if chunk is None:
                        chunk = shared.enter(key, chunks)
                    if chunk is None:
                        assert stored is not None  # only a chunk that was known is left out
                        chunk = chunks.add(key, size, writer.append(stored), len(stored), file_offset)
                    piece.inode.chunks.append(chunk)
                done += piece.end - piece.offset
            self._progress.packed(done, source.data_size)


class _Either:
    """The keys in one container or the other."""

    def __init__(self, first: Container[bytes], second: Container[bytes]) -> None:
        self._first = first
        self._second = second

    def __contains__(self, key: object) -> bool:
        return key in self._first or key in self._second


def _refuse_inside(source: bytes, folder: Path, option: str) -> None:
    root = os.path.realpath(source)
    if os.path.commonpath([root, os.path.realpath(os.fsencode(folder))]) == root:
        raise BuildError(
            f"{option} lies in the source {os.fsdecode(source)!r}; write the image somewhere else"
        )
