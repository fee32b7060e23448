/*
 * RAFS v5 on disk: one file of metadata whose inode records carry their own chunk records.
 *
 * As rafs_v6.h: the only declaration of these layouts, read by C and by cffi. The records of chunks
 * (struct rafs_chunk_record) and the flags are the same as in v6 and stand there. All integers are
 * little-endian, everything is 8-byte aligned. Source: RAFS format specification, section 4.
 */
#ifndef VHOSTFS_RAFS_V5_H
#define VHOSTFS_RAFS_V5_H
#include <stdint.h>
#pragma pack(push, 1)

#define RAFS_V5_SUPER_MAGIC 0x52414653
#define RAFS_V5_VERSION 0x500
#define RAFS_V5_SUPER_SIZE 8192
#define RAFS_V5_ROOT_INO 1

struct rafs_v5_super_block {
    uint32_t magic;
    uint32_t version;
    uint32_t super_size;
    uint32_t chunk_size;
    uint64_t flags; /* RAFS_FLAG_* */
    uint64_t inodes;
    uint64_t inode_table_offset;
    uint64_t prefetch_table_offset;
    uint64_t blob_table_offset;
    uint32_t inode_table_entries;
    uint32_t prefetch_table_entries;
    uint32_t blob_table_size; /* bytes */
    uint32_t extended_blob_table_entries;
    uint64_t extended_blob_table_offset;
    uint8_t reserved[8112];
};

/* The inode table is an array of uint32_t: the offset of a record divided by this. */
#define RAFS_V5_ALIGNMENT 8

/* Of the blob table; the id follows, and a NUL where another entry does. */
struct rafs_v5_blob_head {
    uint32_t prefetch_offset;
    uint32_t prefetch_size;
};

struct rafs_v5_extended_blob {
    uint32_t chunk_count;
    uint32_t features; /* RAFS_BLOB_* */
    uint64_t uncompressed_size;
    uint64_t compressed_size;
    uint8_t reserved[40];
};

#define RAFS_V5_INODE_SYMLINK 0x1
#define RAFS_V5_INODE_HARDLINK 0x2
#define RAFS_V5_INODE_XATTR 0x4
#define RAFS_V5_INODE_HAS_HOLE 0x8

/* The name follows, the target of a symlink, attributes, chunk records; each padded to 8. */
struct rafs_v5_inode {
    uint8_t digest[32];
    uint64_t parent;
    uint64_t ino;
    uint32_t uid;
    uint32_t gid;
    uint32_t project_id;
    uint32_t mode;
    uint64_t size;
    uint64_t blocks; /* of 512 bytes */
    uint64_t flags;  /* RAFS_V5_INODE_* */
    uint32_t nlink;
    uint32_t child_index; /* of the first child */
    uint32_t child_count; /* files: chunks */
    uint16_t name_size;
    uint16_t symlink_size;
    uint32_t rdev;
    uint32_t mtime_nsec;
    uint64_t mtime;
    uint8_t reserved[8];
};

#pragma pack(pop)
#endif
