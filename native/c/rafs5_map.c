/* v5: file range to where its bytes lie: metadata only, no data is read here. See rafs_image.h. */
#include <sys/stat.h>

#include "rafs5.h"

/* Where files have holes, the last chunk that starts at `offset` or before; NULL: there is none. */
static const struct rafs_chunk_record *find_chunk(const struct rafs_chunk_record *chunks, uint32_t count, uint64_t offset,
                                                  uint64_t *next_start)
{
    uint32_t low = 0, high = count;

    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        if (chunks[mid].file_offset <= offset)
            low = mid + 1;
        else
            high = mid;
    }
    if (low < count)
        *next_start = chunks[low].file_offset;
    return low ? &chunks[low - 1] : NULL;
}

static int map_hole(uint64_t length, struct rafs_extent *extent)
{
    extent->kind = RAFS_EXTENT_HOLE;
    extent->length = length;
    return 0;
}

static uint64_t least(uint64_t a, uint64_t b) { return a < b ? a : b; }

int rafs5_map(const struct rafs_image *image, const struct rafs_inode *inode, uint64_t offset, uint64_t length,
              struct rafs_extent *extent)
{
    const struct rafs_chunk_record *chunks, *chunk;
    uint64_t end, in_chunk;

    if (length == 0 || offset >= inode->size || length > inode->size - offset)
        return -EINVAL;
    if (inode->layout != EROFS_LAYOUT_CHUNK_BASED) {
        extent->kind = RAFS_EXTENT_INLINE;
        extent->length = length;
        return rafs5_inode_flat(image, inode, offset, &extent->inline_data, &extent->length);
    }
    end = offset + length;
    chunks = rafs_at(image, inode->payload_offset, (uint64_t)inode->count * sizeof(*chunks)); /* checked with the inode */
    chunk = inode->has_holes ? find_chunk(chunks, inode->count, offset, &end) : &chunks[offset >> image->chunk_bits];
    if (!chunk || (inode->has_holes && offset - chunk->file_offset >= image->chunk_size))
        return map_hole(least(end, offset + length) - offset, extent);
    /* Whole chunks at their borders only: so a range has no more extents than chunks. */
    in_chunk = offset & (image->chunk_size - 1);
    if (chunk->file_offset != offset - in_chunk || chunk->uncompressed_size != least(image->chunk_size, inode->size - chunk->file_offset))
        return -EUCLEAN;
    extent->length = least(length, chunk->uncompressed_size - in_chunk);
    if (chunk->flags & RAFS_CHUNK_HOLE)
        return map_hole(extent->length, extent);
    if (chunk->flags & (RAFS_CHUNK_ENCRYPTED | RAFS_CHUNK_BATCH))
        return -EOPNOTSUPP;
    if (chunk->blob_index >= image->blob_count || chunk->chunk_index >= image->blobs[chunk->blob_index].chunk_count)
        return -EUCLEAN;
    extent->kind = RAFS_EXTENT_CHUNK;
    extent->blob_index = (uint16_t)chunk->blob_index;
    extent->chunk_index = chunk->chunk_index;
    extent->offset_in_chunk = (uint32_t)in_chunk;
    extent->blob_offset = chunk->uncompressed_offset;
    return 0;
}

const struct rafs_reader rafs5_reader = {
    .offset = rafs5_inode_offset,
    .inode = rafs5_inode_read,
    .flat = rafs5_inode_flat,
    .lookup = rafs5_lookup,
    .dir_entry = rafs5_dir_entry,
    .xattr_entry = rafs5_xattr_entry,
    .map = rafs5_map,
};
