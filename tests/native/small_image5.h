/*
 * A small RAFS v5 bootstrap, made from the on-disk structs alone: the seed of tests and fuzz targets.
 *
 *   /            ino ROOT
 *   /crowd       20 entries, all names of the same file
 *   /file        3 chunks of 4096 and a bit; attributes
 *   /hard        another name of it
 *   /holes       4 chunks' room, of which the second and the last are there
 *   /link        symlink
 *   /null        character device
 */
#ifndef VHOSTFS_TESTS_SMALL_IMAGE5_H
#define VHOSTFS_TESTS_SMALL_IMAGE5_H
#include "small_image.h"

enum { SMALL5_ROOT = 1, SMALL5_CROWD, SMALL5_FILE, SMALL5_HARD, SMALL5_HOLES, SMALL5_LINK, SMALL5_NULL, SMALL5_FIRST, SMALL5_COUNT = SMALL5_FIRST + 19 };
#define SMALL5_TABLE RAFS_V5_SUPER_SIZE
#define SMALL5_PREFETCH (SMALL5_TABLE + (4 * SMALL5_COUNT + 7) / 8 * 8)
#define SMALL5_BLOBS (SMALL5_PREFETCH + 8)
#define SMALL5_EXTENDED (SMALL5_BLOBS + 72)
#define SMALL5_RECORDS (SMALL5_EXTENDED + 64)
#define SMALL5_SIZE (SMALL5_RECORDS + 5120)
#define SMALL5_FILE_SIZE (3 * 4096 + 100)
#define SMALL5_CHUNKS 4

static inline uint64_t small5_record_offset(const uint8_t *image, unsigned index)
{
    uint32_t place;

    memcpy(&place, image + SMALL5_TABLE + 4 * (index - 1), sizeof(place));
    return 8ull * place;
}

static inline struct rafs_v5_inode *small5_inode(uint8_t *image, unsigned index)
{
    return (struct rafs_v5_inode *)(image + small5_record_offset(image, index));
}

/* Writes a record at *at, and moves that behind its name; what follows is the caller's. */
static inline struct rafs_v5_inode *small5_add(uint8_t *image, uint64_t *at, unsigned index, unsigned ino, unsigned parent, const char *name, mode_t mode)
{
    struct rafs_v5_inode *inode = (struct rafs_v5_inode *)(image + *at);
    uint32_t place = (uint32_t)(*at / 8);

    memcpy(image + SMALL5_TABLE + 4 * (index - 1), &place, sizeof(place));
    *inode = (struct rafs_v5_inode){ .parent = parent, .ino = ino, .uid = 1000, .gid = 100000, .mode = mode, .nlink = 1,
                                     .mtime = 1234567890, .mtime_nsec = 42, .name_size = (uint16_t)strlen(name) };
    memcpy(inode + 1, name, strlen(name));
    *at += sizeof(*inode) + ((strlen(name) + 7) & ~7ull);
    return inode;
}

static inline void small5_chunk(uint8_t *image, uint64_t *at, uint32_t chunk, uint64_t file_offset, uint32_t size)
{
    struct rafs_chunk_record record = { .compressed_size = size, .uncompressed_size = size, .compressed_offset = chunk * 4096ull,
                                        .uncompressed_offset = chunk * 4096ull, .file_offset = file_offset, .chunk_index = chunk };

    memset(record.digest, (int)chunk + 1, sizeof(record.digest));
    memcpy(image + *at, &record, sizeof(record));
    *at += sizeof(record);
}

static inline void small5_xattrs(uint8_t *image, uint64_t *at)
{
    static const char pairs[] = "\x0e\0\0\0user.color\0red\x0e\0\0\0trusted.empty\0\x20\0\0\0security.capability\0twelve bytes";
    uint64_t size = sizeof(pairs) - 1;

    memcpy(image + *at, &size, sizeof(size));
    memcpy(image + *at + sizeof(size), pairs, size);
    *at += sizeof(size) + ((size + 7) & ~7ull);
}

static inline void small5_file_data(uint8_t *image, uint64_t *at, struct rafs_v5_inode *inode)
{
    inode->size = SMALL5_FILE_SIZE;
    inode->child_count = 4;
    inode->nlink = 22;
    inode->flags = RAFS_V5_INODE_XATTR | RAFS_V5_INODE_HARDLINK;
    small5_xattrs(image, at);
    small5_chunk(image, at, 2, 0, 4096);
    small5_chunk(image, at, 0, 4096, 4096);
    small5_chunk(image, at, 2, 8192, 4096);
    small5_chunk(image, at, 3, 12288, 100);
}

static inline void small5_entries(uint8_t *image, uint64_t at)
{
    struct rafs_v5_inode *inode = small5_add(image, &at, SMALL5_ROOT, SMALL5_ROOT, 0, "/", S_IFDIR | 0755);

    inode->child_index = SMALL5_CROWD;
    inode->child_count = 6;
    inode = small5_add(image, &at, SMALL5_CROWD, SMALL5_CROWD, SMALL5_ROOT, "crowd", S_IFDIR | 0755);
    inode->child_index = SMALL5_FIRST;
    inode->child_count = 20;
    small5_file_data(image, &at, small5_add(image, &at, SMALL5_FILE, SMALL5_FILE, SMALL5_ROOT, "file", S_IFREG | 0644));
    small5_add(image, &at, SMALL5_HARD, SMALL5_FILE, SMALL5_ROOT, "hard", S_IFREG | 0644);
    inode = small5_add(image, &at, SMALL5_HOLES, SMALL5_HOLES, SMALL5_ROOT, "holes", S_IFREG | 0644);
    inode->size = 4 * 4096;
    inode->child_count = 2;
    inode->flags = RAFS_V5_INODE_HAS_HOLE;
    small5_chunk(image, &at, 1, 4096, 4096);
    small5_chunk(image, &at, 0, 12288, 4096);
    inode = small5_add(image, &at, SMALL5_LINK, SMALL5_LINK, SMALL5_ROOT, "link", S_IFLNK | 0777);
    inode->symlink_size = 9;
    inode->flags = RAFS_V5_INODE_SYMLINK;
    memcpy(image + at, "../a/file", 9);
    at += 16;
    inode = small5_add(image, &at, SMALL5_NULL, SMALL5_NULL, SMALL5_ROOT, "null", S_IFCHR | 0666);
    inode->rdev = 1 << 8 | 3;
    for (unsigned i = 0; i < 20; i++) {
        char name[16];
        snprintf(name, sizeof(name), "entry-%05u", i);
        small5_add(image, &at, SMALL5_FIRST + i, SMALL5_FILE, SMALL5_CROWD, name, S_IFREG | 0644);
    }
    CHECK(at <= SMALL5_SIZE);
}

static inline void small_image5_fill(uint8_t image[SMALL5_SIZE])
{
    struct rafs_v5_super_block *sb = (struct rafs_v5_super_block *)image;
    struct rafs_v5_extended_blob *extended = (struct rafs_v5_extended_blob *)(image + SMALL5_EXTENDED);

    memset(image, 0, SMALL5_SIZE);
    *sb = (struct rafs_v5_super_block){ .magic = RAFS_V5_SUPER_MAGIC, .version = RAFS_V5_VERSION, .super_size = RAFS_V5_SUPER_SIZE,
                                        .chunk_size = 4096, .flags = RAFS_FLAG_COMPRESS_NONE | RAFS_FLAG_DIGEST_BLAKE3 | RAFS_FLAG_EXPLICIT_UIDGID,
                                        .inodes = 6, .inode_table_offset = SMALL5_TABLE, .inode_table_entries = SMALL5_COUNT,
                                        .prefetch_table_offset = SMALL5_PREFETCH, .prefetch_table_entries = 2,
                                        .blob_table_offset = SMALL5_BLOBS, .blob_table_size = 72,
                                        .extended_blob_table_offset = SMALL5_EXTENDED, .extended_blob_table_entries = 1 };
    image[SMALL5_PREFETCH] = SMALL5_CROWD;
    memset(image + SMALL5_BLOBS + 8, 'b', 64);
    *extended = (struct rafs_v5_extended_blob){ .chunk_count = SMALL5_CHUNKS, .uncompressed_size = SMALL5_CHUNKS * 4096, .compressed_size = SMALL5_CHUNKS * 4096 };
    small5_entries(image, SMALL5_RECORDS);
}
#endif
