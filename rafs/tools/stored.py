"""The chunks behind a tree that was loaded for building (`rafs.build.load`), out of the image's blobs."""

from __future__ import annotations

from rafs.blob_meta import Chunk
from rafs.blob_reader import BlobReader
from rafs.build.chunks import ChunkStore, chunk_key
from rafs.build.codecs import DIGESTERS, Digester
from rafs.build.errors import BuildError
from rafs.codes import DIGEST_SIZE, Buffer
from rafs.errors import ImageCorrupt
from rafs.filesystem import Filesystem


class StoredChunks:
    """Chunks by their row in `loaded`, which was filled from `filesystem`. For many threads."""

    def __init__(self, filesystem: Filesystem, loaded: ChunkStore) -> None:
        self._filesystem = filesystem
        self._loaded = loaded
        self.chunk_size = filesystem.image.chunk_size
        blobs = range(filesystem.image.blob_count)
        self._indexes = {filesystem.image.blob(index).blob_id: index for index in blobs}

    @property
    def digester(self) -> Digester:
        """That of the image. Raises BuildError if its blobs differ."""
        image = self._filesystem.image
        codes = {int(image.blob(index).digester) for index in range(image.blob_count)}
        if len(codes) > 1:
            raise BuildError("the blobs of the image have different digesters; build it with one")
        return next(one for one in DIGESTERS.values() if one.code in codes or not codes)

    def reader(self, row: int) -> BlobReader:
        """What reads the blob of a chunk."""
        facts = self._loaded.facts(self._loaded.blob(row))
        return self._filesystem.blob(self._indexes[facts.blob_id])

    def chunk(self, row: int) -> Chunk:
        """The record of a chunk, as its blob has it."""
        reader = self.reader(row)
        chunk = reader.chunk(self._loaded.index(row))
        if chunk.uncompressed_size.to_bytes(4, "little") != self._loaded.key(row)[32:]:
            raise ImageCorrupt(
                f"blob {reader.record.blob_id}: chunk {chunk.chunk_idx} has {chunk.uncompressed_size} bytes, "
                f"the chunk table says otherwise"
            )
        return chunk

    def key(self, row: int) -> bytes:
        """Its chunk_key(); where the image has no digest of it, the bytes are read and digested."""
        key = self._loaded.key(row)
        if any(key[:DIGEST_SIZE]):
            return key
        plain = self.plain(row)
        return chunk_key(self.digester.digest(bytes(plain)), len(plain))

    def plain(self, row: int) -> Buffer:
        """Its plain bytes, verified."""
        return self.reader(row).plain(self.chunk(row))

    def stored(self, row: int) -> tuple[Chunk, bytes]:
        """Its bytes as the blob has them; they were decoded and verified."""
        reader, chunk = self.reader(row), self.chunk(row)
        stored = reader.stored(chunk)
        reader.decode(chunk, stored)
        return chunk, stored
