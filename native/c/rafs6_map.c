/* v6: file range to where its bytes lie: metadata only, no data is read here. See rafs_image.h. */
#include <errno.h>

#include "rafs6.h"

static int map_chunk(const struct rafs_image *image, const struct rafs_inode *inode, uint64_t offset, uint64_t length,
                     struct rafs_extent *extent)
{
    uint64_t number = offset >> image->chunk_bits;
    const struct erofs_chunk_index *index = rafs_at(image, inode->payload_offset + number * sizeof(*index), sizeof(*index));
    uint64_t left;

    if (!index)
        return -EUCLEAN;
    extent->offset_in_chunk = (uint32_t)(offset & (image->chunk_size - 1));
    left = image->chunk_size - extent->offset_in_chunk;
    extent->length = length < left ? length : left;
    if (index->blkaddr == EROFS_NULL_ADDR) {
        extent->kind = RAFS_EXTENT_HOLE;
        return 0;
    }
    if (index->device_id == 0 || index->device_id > image->blob_count)
        return -EUCLEAN;
    extent->kind = RAFS_EXTENT_CHUNK;
    extent->blob_index = index->device_id - 1;
    extent->chunk_index = index->ci_index_low | (uint32_t)index->ci_index_high << 16;
    extent->blob_offset = (uint64_t)index->blkaddr << image->blkszbits;
    return extent->chunk_index < image->blobs[extent->blob_index].chunk_count ? 0 : -EUCLEAN;
}

int rafs6_map(const struct rafs_image *image, const struct rafs_inode *inode, uint64_t offset, uint64_t length,
              struct rafs_extent *extent)
{
    if (length == 0 || offset >= inode->size || length > inode->size - offset)
        return -EINVAL;
    if (inode->layout == EROFS_LAYOUT_CHUNK_BASED)
        return map_chunk(image, inode, offset, length, extent);
    extent->kind = RAFS_EXTENT_INLINE;
    extent->length = length;
    return rafs6_inode_flat(image, inode, offset, &extent->inline_data, &extent->length);
}

const struct rafs_reader rafs6_reader = {
    .offset = rafs6_inode_offset,
    .inode = rafs6_inode_read,
    .flat = rafs6_inode_flat,
    .lookup = rafs6_lookup,
    .dir_entry = rafs6_dir_entry,
    .xattr_entry = rafs6_xattr_entry,
    .map = rafs6_map,
};
