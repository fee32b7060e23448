/*
 * A small RAFS v6 bootstrap, made from the on-disk structs alone: the seed of tests and fuzz targets.
 *
 *   /            directory, inline        nid ROOT
 *   /crowd       directory of two blocks and a tail; its entries are all the same file
 *   /file        chunk-based, 3 chunks of 4096 and a bit, one of them a hole; attributes
 *   /inline      inline file
 *   /link        symlink, inline
 *   /null        character device
 *   /plain       a flat file in a block of its own
 */
#ifndef VHOSTFS_TESTS_SMALL_IMAGE_H
#define VHOSTFS_TESTS_SMALL_IMAGE_H
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "check.h"
#include "rafs_format.h"
#include "rafs_image.h"

#define SMALL_BLOCK 4096
#define SMALL_BLOCKS 10
#define SMALL_SIZE (SMALL_BLOCKS * SMALL_BLOCK)
#define SMALL_META_BLOCK 2 /* inodes: blocks 2 to 4 */
#define SMALL_NID(block, slot) (((block) - SMALL_META_BLOCK) * (SMALL_BLOCK / EROFS_SLOT_SIZE) + (slot))
enum {
    SMALL_ROOT = SMALL_NID(2, 2),
    SMALL_CROWD = SMALL_NID(2, 64),
    SMALL_FILE = SMALL_NID(3, 0),
    SMALL_INLINE = SMALL_NID(3, 32),
    SMALL_LINK = SMALL_NID(3, 64),
    SMALL_NULL = SMALL_NID(3, 96),
    SMALL_PLAIN = SMALL_NID(4, 0),
};
#define SMALL_FILE_SIZE (3 * SMALL_BLOCK + 100)
#define SMALL_CHUNKS 3
#define SMALL_PLAIN_BLOCK 9

static inline void *small_inode(uint8_t *image, uint64_t nid) { return image + SMALL_META_BLOCK * SMALL_BLOCK + nid * EROFS_SLOT_SIZE; }

static inline uint8_t *small_extended(uint8_t *image, uint64_t nid, mode_t mode, unsigned layout, uint64_t size, uint32_t u)
{
    struct erofs_inode_extended *inode = small_inode(image, nid);

    inode->format = (uint16_t)(layout << 1 | 1);
    inode->mode = (uint16_t)mode;
    inode->size = size;
    inode->u = u;
    inode->uid = 1000;
    inode->gid = 100000;
    inode->mtime = 1234567890;
    inode->mtime_nsec = 42;
    inode->nlink = 1;
    return (uint8_t *)(inode + 1);
}

static inline uint8_t *small_compact(uint8_t *image, uint64_t nid, mode_t mode, unsigned layout, uint32_t size, uint32_t u)
{
    struct erofs_inode_compact *inode = small_inode(image, nid);

    inode->format = (uint16_t)(layout << 1);
    inode->mode = (uint16_t)mode;
    inode->size = size;
    inode->u = u;
    inode->nlink = 1;
    return (uint8_t *)(inode + 1);
}

/* Packs sorted names into one directory block (or tail); returns its used bytes. */
static inline uint32_t small_dir_block(uint8_t *block, unsigned count, const char (*names)[32], const uint64_t *nids, const uint8_t *types)
{
    uint32_t at = count * (uint32_t)sizeof(struct erofs_dirent);

    for (unsigned i = 0; i < count; i++) {
        struct erofs_dirent dirent = { .nid = nids[i], .nameoff = (uint16_t)at, .file_type = types[i] };
        memcpy(block + i * sizeof(dirent), &dirent, sizeof(dirent));
        memcpy(block + at, names[i], strlen(names[i]));
        at += (uint32_t)strlen(names[i]);
    }
    return at;
}

static inline void small_crowd(uint8_t *image)
{
    enum { EACH = 100, BLOCKS = 2 };
    static char names[EACH][32];
    static uint64_t nids[EACH];
    static uint8_t types[EACH];
    uint8_t *data = image + 5 * SMALL_BLOCK, *tail = small_extended(image, SMALL_CROWD, S_IFDIR | 0755, EROFS_LAYOUT_FLAT_INLINE, 0, 5);
    unsigned number = 0;
    uint32_t used = 0;

    for (unsigned block = 0; block <= BLOCKS; block++) {
        unsigned count = block < BLOCKS ? EACH : 10;
        for (unsigned i = 0; i < count; i++, number++) {
            const char *dots = number == 0 ? "." : number == 1 ? ".." : NULL;
            if (dots)
                strcpy(names[i], dots);
            else
                snprintf(names[i], sizeof(names[i]), "entry-%05u", number);
            nids[i] = number == 0 ? SMALL_CROWD : number == 1 ? SMALL_ROOT : SMALL_INLINE;
            types[i] = dots ? 2 : 1;
        }
        used = small_dir_block(block < BLOCKS ? data + block * SMALL_BLOCK : tail, count, (const char(*)[32])names, nids, types);
    }
    ((struct erofs_inode_extended *)small_inode(image, SMALL_CROWD))->size = BLOCKS * SMALL_BLOCK + used;
}

static inline void small_root(uint8_t *image)
{
    static const char names[][32] = { ".", "..", "crowd", "file", "inline", "link", "null", "plain" };
    static const uint64_t nids[] = { SMALL_ROOT, SMALL_ROOT, SMALL_CROWD, SMALL_FILE, SMALL_INLINE, SMALL_LINK, SMALL_NULL, SMALL_PLAIN };
    static const uint8_t types[] = { 2, 2, 2, 1, 1, 7, 3, 1 };
    uint8_t *tail = small_extended(image, SMALL_ROOT, S_IFDIR | 0755, EROFS_LAYOUT_FLAT_INLINE, 0, 0);

    ((struct erofs_inode_extended *)small_inode(image, SMALL_ROOT))->size = small_dir_block(tail, 8, names, nids, types);
}

static inline uint8_t *small_xattr(uint8_t *at, uint8_t index, const char *name, const char *value)
{
    struct erofs_xattr_entry entry = { .name_len = (uint8_t)strlen(name), .name_index = index, .value_size = (uint16_t)strlen(value) };
    size_t size = sizeof(entry) + entry.name_len + entry.value_size;

    memcpy(at, &entry, sizeof(entry));
    memcpy(at + sizeof(entry), name, entry.name_len);
    memcpy(at + sizeof(entry) + entry.name_len, value, entry.value_size);
    return at + ((size + 3) & ~3ul);
}

static inline void small_files(uint8_t *image)
{
    static const struct erofs_chunk_index chunks[4] = {
        { 2, 1, 0, 2 }, { 0, 1, 0, 0 }, { 0, 0, 0, EROFS_NULL_ADDR }, { 1, 1, 0, 1 }, /* chunk 2, 0, a hole, 1 */
    };
    uint8_t *start = small_extended(image, SMALL_FILE, S_IFREG | 0644, EROFS_LAYOUT_CHUNK_BASED, SMALL_FILE_SIZE, EROFS_CHUNK_FORMAT_INDEXES);
    uint8_t *end = start + sizeof(struct erofs_xattr_ibody_header);

    end = small_xattr(end, EROFS_XATTR_USER, "color", "red");
    end = small_xattr(end, EROFS_XATTR_TRUSTED, "empty", "");
    end = small_xattr(end, EROFS_XATTR_SECURITY, "capability", "twelve bytes");
    ((struct erofs_inode_extended *)small_inode(image, SMALL_FILE))->xattr_icount = (uint16_t)((end - start - 12) / 4 + 1);
    memcpy((uint8_t *)small_inode(image, 0) + ((size_t)(end - (uint8_t *)small_inode(image, 0) + 7) & ~7ul), chunks, sizeof(chunks));
    strcpy((char *)small_compact(image, SMALL_INLINE, S_IFREG | 0600, EROFS_LAYOUT_FLAT_INLINE, 12, 0), "hello, guest");
    strcpy((char *)small_extended(image, SMALL_LINK, S_IFLNK | 0777, EROFS_LAYOUT_FLAT_INLINE, 9, 0), "../a/file");
    small_compact(image, SMALL_NULL, S_IFCHR | 0666, EROFS_LAYOUT_FLAT_PLAIN, 0, 1 << 8 | 3);
    small_compact(image, SMALL_PLAIN, S_IFREG | 0400, EROFS_LAYOUT_FLAT_PLAIN, 3000, SMALL_PLAIN_BLOCK);
    memset(image + SMALL_PLAIN_BLOCK * SMALL_BLOCK, 'p', 3000);
}

static inline void small_image_fill(uint8_t image[SMALL_SIZE])
{
    struct erofs_super_block *sb = (struct erofs_super_block *)(image + EROFS_SUPER_OFFSET);
    struct rafs_v6_super_block *ext = (struct rafs_v6_super_block *)(image + RAFS_V6_SUPER_OFFSET);
    struct erofs_device_slot *slot = (struct erofs_device_slot *)(image + 1408);
    struct rafs_v6_blob *blob = (struct rafs_v6_blob *)(image + SMALL_BLOCK);

    memset(image, 0, SMALL_SIZE);
    *sb = (struct erofs_super_block){ .magic = EROFS_SUPER_MAGIC, .feature_compat = EROFS_COMPAT_RAFS_V6, .blkszbits = 12,
                                      .root_nid = SMALL_ROOT, .inos = 7, .blocks = SMALL_BLOCKS, .meta_blkaddr = SMALL_META_BLOCK,
                                      .feature_incompat = EROFS_INCOMPAT_CHUNKED_FILE | EROFS_INCOMPAT_DEVICE_TABLE,
                                      .extra_devices = 1, .devt_slotoff = 1408 / 128 };
    *ext = (struct rafs_v6_super_block){ .flags = RAFS_FLAG_COMPRESS_NONE | RAFS_FLAG_DIGEST_SHA256 | RAFS_FLAG_EXPLICIT_UIDGID | RAFS_FLAG_HAS_XATTR,
                                         .blob_table_offset = SMALL_BLOCK, .blob_table_size = sizeof(*blob), .chunk_size = 4096,
                                         .chunk_table_offset = SMALL_BLOCK + 512, .chunk_table_size = SMALL_CHUNKS * sizeof(struct rafs_chunk_record),
                                         .prefetch_table_offset = SMALL_BLOCK + 1024, .prefetch_table_size = 8 };
    *blob = (struct rafs_v6_blob){ .chunk_size = 4096, .chunk_count = SMALL_CHUNKS, .digest_algo = RAFS_DIGEST_SHA256, .features = RAFS_BLOB_ALIGNED,
                                   .compressed_size = SMALL_CHUNKS * 4096, .uncompressed_size = SMALL_CHUNKS * 4096 };
    memset(blob->blob_id, 'b', sizeof(blob->blob_id));
    memset(slot->tag, 'b', sizeof(slot->tag));
    slot->blocks = SMALL_CHUNKS;
    small_root(image);
    small_crowd(image);
    small_files(image);
}

/* Parses a copy of `size` bytes that ASan guards at both ends. `why` has 256 bytes. */
static inline int small_image_open(struct rafs_image *image, const uint8_t *bytes, size_t size, char *why)
{
    uint8_t *copy = malloc(size);
    int err;

    CHECK(copy);
    memcpy(copy, bytes, size);
    err = rafs_image_parse(image, copy, size, why, 256);
    if (err)
        free(copy);
    return err;
}

static inline void small_image_close(struct rafs_image *image)
{
    rafs_image_drop(image);
    free((void *)image->base);
}
#endif
