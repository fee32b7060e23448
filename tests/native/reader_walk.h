/* Asks an image everything that a driver could ask, and touches each byte that comes back. */
#ifndef VHOSTFS_TESTS_READER_WALK_H
#define VHOSTFS_TESTS_READER_WALK_H
#include <stdlib.h>
#include <sys/stat.h>

#include "chunk_table.h"
#include "rafs_image.h"

static volatile uint64_t walk_sum; /* so that no read is left out */

static inline void walk_touch(const void *data, size_t size)
{
    for (size_t i = 0; i < size; i++)
        walk_sum += ((const uint8_t *)data)[i];
}

static inline void walk_directory(const struct rafs_image *image, const struct rafs_inode *inode, unsigned limit)
{
    struct rafs_dirent entry;
    struct rafs_inode child;
    uint64_t cookie = 0, next, nid;

    for (; limit && rafs_dir_entry(image, inode, cookie, &entry, &next) > 0; cookie = next, limit--) {
        walk_touch(entry.name, entry.name_length);
        rafs_lookup(image, inode, entry.name, entry.name_length, &nid);
        rafs_inode_read(image, entry.nid, &child);
    }
    for (cookie = 1; cookie; cookie <<= 1)
        rafs_dir_entry(image, inode, cookie, &entry, &next);
    rafs_lookup(image, inode, "", 0, &nid);
    rafs_lookup(image, inode, "entry-00050", 11, &nid);
    rafs_lookup(image, inode, "\xff\xff", 2, &nid);
}

static inline void walk_data(const struct rafs_image *image, const struct rafs_inode *inode, unsigned limit)
{
    struct rafs_extent extent;
    const uint8_t *data;

    for (uint64_t at = 0; limit && at < inode->size; at += extent.length, limit--) {
        if (rafs_map(image, inode, at, inode->size - at, &extent))
            break;
        if (extent.kind == RAFS_EXTENT_INLINE)
            walk_touch(extent.inline_data, extent.length < 65536 ? extent.length : 65536);
    }
    for (uint64_t at = 1; at; at <<= 1) { /* sizes are a lie until proven */
        uint64_t length = 4096;
        if (at < inode->size)
            rafs_map(image, inode, at, inode->size - at, &extent);
        if (!rafs_inode_flat(image, inode, at, &data, &length))
            walk_touch(data, length);
    }
}

static inline void walk_inode(const struct rafs_image *image, uint64_t nid, unsigned limit)
{
    struct rafs_inode inode;
    struct rafs_xattr xattr;
    uint32_t offset = 0, next;

    if (rafs_inode_read(image, nid, &inode))
        return;
    for (; limit && rafs_xattr_entry(image, &inode, offset, &xattr, &next) > 0; offset = next) {
        walk_touch(xattr.prefix, 1);
        walk_touch(xattr.suffix, xattr.suffix_length);
        walk_touch(xattr.value, xattr.value_size);
    }
    for (offset = 1; offset; offset <<= 1)
        rafs_xattr_entry(image, &inode, offset, &xattr, &next);
    rafs_xattr_find(image, &inode, "user.color", 10, &xattr);
    if (S_ISDIR(inode.mode))
        walk_directory(image, &inode, limit);
    walk_data(image, &inode, limit);
}

/* v5: the lists of chunks. */
static inline void walk_chunks(const struct rafs_image *image)
{
    char why[256];

    for (unsigned i = 0; image->version == 5 && i < image->blob_count; i++) {
        const struct rafs_v6_blob *blob = &image->blobs[i];
        struct chunk_bounds bounds = { blob->chunk_count, image->chunk_size, blob->compressed_size, blob->uncompressed_size };
        struct rafs_chunk_record *list;
        uint32_t count, fault;
        if (rafs5_chunks(image, i, &list, &count, why, sizeof(why)))
            continue;
        walk_sum += (unsigned)chunk_list_check(list, count, &bounds, &fault);
        free(list);
    }
}

/* Every nid of the image, and some behind it. */
static inline void walk_image(const struct rafs_image *image, unsigned limit)
{
    /* v5: so many entries of the inode table may lead to a record as they want */
    uint64_t last = image->last_nid < 100000 ? image->last_nid : 100000;

    for (uint64_t nid = 0; nid <= last + 2; nid++)
        walk_inode(image, nid, limit);
    walk_inode(image, UINT64_MAX, limit);
    walk_inode(image, 1ull << 59, limit);
    walk_chunks(image);
    walk_touch(image->blobs, image->blob_count * sizeof(*image->blobs));
    walk_touch(image->prefetch_table, 4ull * image->prefetch_count);
    walk_touch(image->chunk_table, image->chunk_table_count * sizeof(*image->chunk_table));
}
#endif
