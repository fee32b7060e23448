/*
 * v6: directories, blocks of sorted dirents, each block followed by its names (specification 2.9).
 *
 * A cookie is block << 16 | index in block.
 */
#include <errno.h>
#include <string.h>

#include "rafs6.h"

struct dir_block {
    const uint8_t *data;
    uint32_t size; /* used bytes */
    uint32_t count;
};

static int read_block(const struct rafs_image *image, const struct rafs_inode *dir, uint64_t index, struct dir_block *block)
{
    uint64_t offset = index * RAFS_BLOCK_SIZE, length = RAFS_BLOCK_SIZE;
    const struct erofs_dirent *first;
    int err = rafs6_inode_flat(image, dir, offset, &block->data, &length);

    if (err)
        return err;
    block->size = (uint32_t)length;
    first = (const struct erofs_dirent *)block->data;
    if (length < sizeof(*first) || first->nameoff < sizeof(*first) || first->nameoff % sizeof(*first) || first->nameoff >= length)
        return -EUCLEAN;
    block->count = first->nameoff / sizeof(*first);
    return 0;
}

static int read_entry(const struct dir_block *block, uint32_t index, struct rafs_dirent *entry)
{
    const struct erofs_dirent *de = (const struct erofs_dirent *)block->data + index;
    uint32_t start = de->nameoff, end = index + 1 < block->count ? de[1].nameoff : block->size;

    if (start < block->count * sizeof(*de) || end > block->size || start >= end)
        return -EUCLEAN;
    entry->name = (const char *)block->data + start;
    entry->name_length = (uint16_t)strnlen(entry->name, end - start);
    if (index + 1 < block->count && entry->name_length != end - start)
        return -EUCLEAN; /* only the last name of a block may be padded */
    if (entry->name_length == 0 || entry->name_length > RAFS_MAX_NAME || memchr(entry->name, '/', entry->name_length))
        return -EUCLEAN;
    entry->nid = de->nid;
    entry->file_type = de->file_type;
    return 0;
}

static uint64_t block_count(const struct rafs_inode *dir) { return (dir->size + RAFS_BLOCK_SIZE - 1) / RAFS_BLOCK_SIZE; }

static int compare(const char *name, size_t length, const struct rafs_dirent *entry)
{
    size_t shared = length < entry->name_length ? length : entry->name_length;
    int order = memcmp(name, entry->name, shared);

    return order ? order : (length > entry->name_length) - (length < entry->name_length);
}

/* The last block whose first name is not after `name`. */
static int find_block(const struct rafs_image *image, const struct rafs_inode *dir, const char *name, size_t length,
                      struct dir_block *block)
{
    uint64_t low = 0, high = block_count(dir);
    struct dir_block candidate;
    struct rafs_dirent entry;
    int err = -ENOENT;

    while (low < high) {
        uint64_t mid = low + (high - low) / 2;
        int bad = read_block(image, dir, mid, &candidate);
        if (!bad)
            bad = read_entry(&candidate, 0, &entry);
        if (bad)
            return bad;
        if (compare(name, length, &entry) >= 0) {
            *block = candidate;
            err = 0;
            low = mid + 1;
        } else {
            high = mid;
        }
    }
    return err;
}

int rafs6_lookup(const struct rafs_image *image, const struct rafs_inode *dir, const char *name, size_t length,
                 uint64_t *nid)
{
    struct dir_block block;
    struct rafs_dirent entry;
    int err = find_block(image, dir, name, length, &block);
    uint32_t low = 0, high = err ? 0 : block.count;

    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        int order;
        err = read_entry(&block, mid, &entry);
        if (err)
            return err;
        order = compare(name, length, &entry);
        if (order == 0) {
            *nid = entry.nid;
            return 0;
        }
        if (order < 0)
            high = mid;
        else
            low = mid + 1;
    }
    return err ? err : -ENOENT;
}

int rafs6_dir_entry(const struct rafs_image *image, const struct rafs_inode *dir, uint64_t cookie,
                    struct rafs_dirent *entry, uint64_t *next)
{
    uint64_t index = cookie >> 16;
    uint32_t at = cookie & 0xFFFF;
    struct dir_block block;
    int err;

    if (index >= block_count(dir))
        return 0;
    err = read_block(image, dir, index, &block);
    if (err)
        return err;
    if (at >= block.count)
        return 0; /* a cookie that we never gave */
    err = read_entry(&block, at, entry);
    if (err)
        return err;
    *next = at + 1 < block.count ? cookie + 1 : (index + 1) << 16;
    return 1;
}
