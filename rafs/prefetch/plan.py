"""What to prefetch of an image, and in which order: a list of stages, each a list of runs of chunks.

The order is nydusd's (contract 5.5, specification 8.1): what a trace has seen, the files asked for or else
those of the image's prefetch table, then all the rest if that is wanted. A list that consists of "/" alone
means everything; a table that has the root among others does not, and then there is no rest either. A file is
taken once, whatever links lead to it, and so is what lies below a directory that was listed before.

`make_plan` reads the bootstrap only, and takes some 20 us a file: call it in a thread.
"""

from __future__ import annotations

import logging
import stat
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from rafs.image import Image
from rafs.prefetch.options import PrefetchOptions
from rafs.trace.format import Trace

log = logging.getLogger(__name__)

MAX_RUNS = 1 << 20
MAX_WARNINGS = 5
#: of the runs of a merged trace, the share in which a chunk has to be read to be prefetched
MIN_SHARE = 0.3


class ChunkRun(NamedTuple):
    """Chunks [first_chunk, first_chunk + chunk_count) of blob `blob_index` of the image."""

    blob_index: int
    first_chunk: int
    chunk_count: int


class Stage(NamedTuple):
    """`runs` in the order in which they are wanted. `is_learned`: they come from a trace."""

    name: str
    runs: list[ChunkRun]
    is_learned: bool = False


def make_plan(image: Image, options: PrefetchOptions, trace: Trace | None = None) -> list[Stage]:
    """The stages that have something to do. What the image lacks or has wrong is logged and left out."""
    stages = [Stage("trace", _runs(_learned(image, trace)), is_learned=True)] if trace else []
    wants_all = options.everything or options.stream
    if options.files is not None:
        paths = [path for path in options.files if path.strip("/") or path.startswith("/")]
        if [path.strip("/") for path in paths] == [""]:
            wants_all = True
        else:
            stages.append(Stage("files", _runs(_chunks_of(image, _nids_of(image, paths)))))
    else:
        table = image.prefetch_nids()
        if table == [image.root_nid]:
            wants_all = True
        else:
            stages.append(Stage("hints", _runs(_chunks_of(image, table))))
            wants_all = wants_all and image.root_nid not in table
    if wants_all:
        stages.append(Stage("all", list(_whole_blobs(image))))
    return [stage for stage in stages if stage.runs]


def _whole_blobs(image: Image) -> Iterator[ChunkRun]:
    for index in range(image.blob_count):
        count = image.blob(index).chunk_count
        if count:
            yield ChunkRun(index, 0, count)


def _nids_of(image: Image, paths: Iterable[str]) -> Iterator[int]:
    missing = []
    for path in paths:
        try:
            yield image.resolve(path.encode(errors="surrogateescape"))
        except OSError:
            missing.append(path)
    if missing:
        shown = ", ".join(missing[:MAX_WARNINGS])
        log.warning("prefetch: %d of the paths given are not in the image: %s", len(missing), shown)


def _learned(image: Image, trace: Trace) -> Iterator[tuple[int, int]]:
    """Chunks of blobs that the image has, as far as enough of the trace's runs read them."""
    of_image = {image.blob(index).blob_id: index for index in range(image.blob_count)}
    blobs = [of_image.get(blob_id) for blob_id in trace.blobs]
    for access in trace.accesses:
        blob_index = blobs[access.blob_index]
        if blob_index is not None and access.runs >= MIN_SHARE * trace.runs:
            yield blob_index, access.chunk_index


def _runs(chunks: Iterable[tuple[int, int]]) -> list[ChunkRun]:
    runs: list[ChunkRun] = []
    for blob_index, chunk in chunks:
        last = runs[-1] if runs else None
        if last and last.blob_index == blob_index and last.first_chunk + last.chunk_count == chunk:
            runs[-1] = last._replace(chunk_count=last.chunk_count + 1)
        elif len(runs) == MAX_RUNS:
            log.warning("prefetch: over %d runs of chunks; the rest is left out", MAX_RUNS)
            break
        else:
            runs.append(ChunkRun(blob_index, chunk, 1))
    return runs


def _chunks_of(image: Image, nids: Iterable[int]) -> Iterator[tuple[int, int]]:
    seen: set[int] = set()
    for nid in nids:
        try:
            yield from _below(image, nid, seen)
        except OSError as error:
            log.warning("prefetch: nid %d: %s", nid, error.strerror or error)


def _below(image: Image, top: int, seen: set[int]) -> Iterator[tuple[int, int]]:
    pending = [top]
    while pending:
        nid = pending.pop()
        if nid in seen:
            continue
        seen.add(nid)
        inode = image.inode(nid)
        if stat.S_ISDIR(inode.mode):
            entries = [entry.nid for entry in image.readdir(nid) if entry.name not in (b".", b"..")]
            pending.extend(reversed(entries))
        elif stat.S_ISREG(inode.mode) and inode.size:
            for extent in image.extents(nid, 0, inode.size):
                if extent.blob_index >= 0:
                    yield extent.blob_index, extent.chunk_index
