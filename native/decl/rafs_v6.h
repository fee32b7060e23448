/*
 * RAFS v6 on disk: an EROFS image plus the RAFS tables, and the blob's own metadata.
 *
 * This file is the only declaration of these layouts. The C reader includes it; cffi reads it
 * too (native/build_dataplane.py drops the preprocessor lines that are not plain #defines), and
 * native/records.py derives the Python packers from it. So keep to what both understand:
 * fixed-width types, arrays with literal sizes, #defines with literal numbers.
 *
 * All integers are little-endian; offsets are bytes unless a name says otherwise. Sizes are
 * pinned in native/c/rafs_format.h. Sources: RAFS format specification, sections 1 to 3.
 */
#ifndef VHOSTFS_RAFS_V6_H
#define VHOSTFS_RAFS_V6_H
#include <stdint.h>
#pragma pack(push, 1)

#define EROFS_SUPER_OFFSET 1024
#define EROFS_SUPER_MAGIC 0xE0F5E1E2
#define EROFS_COMPAT_RAFS_V6 0x40000000
#define EROFS_INCOMPAT_CHUNKED_FILE 0x4
#define EROFS_INCOMPAT_DEVICE_TABLE 0x8
#define EROFS_SLOT_SIZE 32 /* one nid counts this many bytes */

struct erofs_super_block {
    uint32_t magic;
    uint32_t checksum;       /* 0 in RAFS */
    uint32_t feature_compat; /* has EROFS_COMPAT_RAFS_V6 */
    uint8_t blkszbits;       /* 12; 9 in tarfs mode */
    uint8_t extslots;
    uint16_t root_nid;
    uint64_t inos;
    uint64_t build_time;
    uint32_t build_time_nsec;
    uint32_t blocks;
    uint32_t meta_blkaddr; /* nid 0 lies at this block */
    uint32_t xattr_blkaddr;
    uint8_t uuid[16];
    uint8_t volume_name[16];
    uint32_t feature_incompat;
    uint16_t available_compr_algs;
    uint16_t extra_devices; /* number of blobs */
    uint16_t devt_slotoff;  /* in units of 128 bytes */
    uint8_t reserved[38];
};

#define RAFS_V6_SUPER_OFFSET 1152
#define RAFS_FLAG_COMPRESS_NONE 0x1
#define RAFS_FLAG_COMPRESS_LZ4 0x2
#define RAFS_FLAG_DIGEST_BLAKE3 0x4
#define RAFS_FLAG_DIGEST_SHA256 0x8
#define RAFS_FLAG_EXPLICIT_UIDGID 0x10
#define RAFS_FLAG_HAS_XATTR 0x20
#define RAFS_FLAG_COMPRESS_GZIP 0x40
#define RAFS_FLAG_COMPRESS_ZSTD 0x80
#define RAFS_FLAG_INLINED_CHUNK_DIGEST 0x100
#define RAFS_FLAG_TARFS 0x200
#define RAFS_FLAG_ENCRYPTION_NONE 0x1000000
#define RAFS_FLAG_ENCRYPTION_AES 0x2000000
#define RAFS_FLAG_RESERVED_COMPAT 0xFC000000

struct rafs_v6_super_block {
    uint64_t flags;
    uint64_t blob_table_offset;
    uint32_t blob_table_size;
    uint32_t chunk_size;
    uint64_t chunk_table_offset;
    uint64_t chunk_table_size;
    uint64_t prefetch_table_offset;
    uint32_t prefetch_table_size; /* bytes */
    uint32_t padding;
    uint8_t reserved[200];
};

struct erofs_device_slot {
    uint8_t tag[64]; /* blob id, NUL padded */
    uint32_t blocks;
    uint32_t mapped_blkaddr;
    uint8_t reserved[56];
};

#define RAFS_CODEC_NONE 0
#define RAFS_CODEC_LZ4 1
#define RAFS_CODEC_GZIP 2
#define RAFS_CODEC_ZSTD 3
#define RAFS_DIGEST_BLAKE3 0
#define RAFS_DIGEST_SHA256 1

#define RAFS_BLOB_ALIGNED 0x1
#define RAFS_BLOB_INLINED_FS_META 0x2
#define RAFS_BLOB_CHUNK_INFO_V2 0x4
#define RAFS_BLOB_ZRAN 0x8
#define RAFS_BLOB_SEPARATE 0x10
#define RAFS_BLOB_INLINED_CHUNK_DIGEST 0x20
#define RAFS_BLOB_TARFS 0x40
#define RAFS_BLOB_BATCH 0x80
#define RAFS_BLOB_ENCRYPTED 0x100
#define RAFS_BLOB_CHUNKDICT_GENERATED 0x200
#define RAFS_BLOB_SEPARATED_PREFETCH 0x400
#define RAFS_BLOB_EXTERNAL 0x800
#define RAFS_BLOB_HAS_TAR_HEADER 0x10000000
#define RAFS_BLOB_HAS_TOC 0x20000000
#define RAFS_BLOB_CAP_TAR_TOC 0x40000000

struct rafs_v6_blob {
    uint8_t blob_id[64];
    uint32_t blob_index;
    uint32_t chunk_size;
    uint32_t chunk_count;
    uint32_t compression_algo;
    uint32_t digest_algo;
    uint32_t features;
    uint64_t compressed_size;
    uint64_t uncompressed_size;
    uint32_t toc_size; /* TOC entries and their tar header; 0 unknown */
    uint32_t ci_compressor;
    uint64_t ci_offset;
    uint64_t ci_compressed_size;
    uint64_t ci_uncompressed_size;
    uint8_t toc_digest[32];
    uint8_t meta_digest[32]; /* or the AES key of an encrypted blob */
    uint64_t meta_size;
    uint64_t cipher_iv_high;
    uint32_t cipher_algo;
    uint8_t reserved[36];
};

#define EROFS_LAYOUT_FLAT_PLAIN 0
#define EROFS_LAYOUT_FLAT_INLINE 2
#define EROFS_LAYOUT_CHUNK_BASED 4
#define EROFS_CHUNK_FORMAT_INDEXES 0x20
#define EROFS_NULL_ADDR 0xFFFFFFFF

struct erofs_inode_compact {
    uint16_t format;
    uint16_t xattr_icount;
    uint16_t mode;
    uint16_t nlink;
    uint32_t size;
    uint32_t reserved;
    uint32_t u; /* block address, rdev or chunk format */
    uint32_t ino;
    uint16_t uid;
    uint16_t gid;
    uint32_t reserved2;
};

struct erofs_inode_extended {
    uint16_t format;
    uint16_t xattr_icount;
    uint16_t mode;
    uint16_t reserved;
    uint64_t size;
    uint32_t u; /* block address, rdev or chunk format */
    uint32_t ino;
    uint32_t uid;
    uint32_t gid;
    uint64_t mtime;
    uint32_t mtime_nsec;
    uint32_t nlink;
    uint8_t reserved2[16];
};

struct erofs_xattr_ibody_header {
    uint32_t reserved;
    uint8_t shared_count;
    uint8_t reserved2[7];
};

#define EROFS_XATTR_USER 1
#define EROFS_XATTR_POSIX_ACL_ACCESS 2
#define EROFS_XATTR_POSIX_ACL_DEFAULT 3
#define EROFS_XATTR_TRUSTED 4
#define EROFS_XATTR_SECURITY 6

struct erofs_xattr_entry {
    uint8_t name_len; /* of the suffix */
    uint8_t name_index;
    uint16_t value_size;
};

struct erofs_chunk_index {
    uint16_t ci_index_low;
    uint8_t device_id; /* blob index + 1 */
    uint8_t ci_index_high;
    uint32_t blkaddr;
};

struct erofs_dirent {
    uint64_t nid;
    uint16_t nameoff;
    uint8_t file_type;
    uint8_t reserved;
};

#define RAFS_CHUNK_COMPRESSED 0x1
#define RAFS_CHUNK_HOLE 0x2
#define RAFS_CHUNK_ENCRYPTED 0x4
#define RAFS_CHUNK_BATCH 0x8
#define RAFS_CHUNK_HAS_CRC32C 0x10

/* The chunk table of a v6 bootstrap, and the chunk records of a v5 inode. */
struct rafs_chunk_record {
    uint8_t digest[32];
    uint32_t blob_index;
    uint32_t flags;
    uint32_t compressed_size;
    uint32_t uncompressed_size;
    uint64_t compressed_offset;
    uint64_t uncompressed_offset;
    uint64_t file_offset;
    uint32_t chunk_index;
    uint32_t crc32c;
};

#define RAFS_CI_MAGIC 0xB10BB10B

/* blob.meta: the compression-information records, zero padded to 4096, then this header. */
struct rafs_ci_header {
    uint32_t magic;
    uint32_t features;
    uint32_t compressor;
    uint32_t entries;
    uint64_t offset;
    uint64_t compressed_size;
    uint64_t uncompressed_size;
    uint64_t context_offset;
    uint64_t context_size;
    uint32_t context_count;
    uint8_t reserved[4032];
    uint32_t magic2;
};

#define RAFS_CI_V2_COMPRESSED 0x01
#define RAFS_CI_V2_ZRAN 0x02
#define RAFS_CI_V2_BATCH 0x04
#define RAFS_CI_V2_ENCRYPTED 0x08
#define RAFS_CI_V2_HAS_CRC32C 0x10

struct rafs_ci_v1 {
    uint64_t uncompressed; /* size-1 high nibble 8-11, offset 12-43, size-1 low 44-63 */
    uint64_t compressed;   /* offset 0-39, size-1 high nibble 40-43, size-1 low 44-63 */
};

struct rafs_ci_v2 {
    uint64_t uncompressed; /* offset>>12 0-31, size-1 32-55, flags 56-63 */
    uint64_t compressed;   /* offset 0-39, size 40-63 */
    uint64_t attachment;   /* CRC32C, ZRAN or batch position */
};

#define RAFS_TOC_STORED 0x1
#define RAFS_TOC_ZSTD 0x2
#define RAFS_TOC_LZ4 0x4

struct rafs_toc_entry {
    uint32_t flags;
    uint32_t reserved;
    uint8_t name[16];
    uint8_t digest[32]; /* SHA-256 of the uncompressed content */
    uint64_t offset;
    uint64_t stored_size;
    uint64_t uncompressed_size;
    uint8_t reserved2[48];
};

#define RAFS_CHUNK_MAP_MAGIC 0x424D4150
#define RAFS_CHUNK_MAP_MAGIC2 0x434D4150
#define RAFS_CHUNK_MAP_ALL_READY 0x4D4D4150
#define RAFS_CHUNK_MAP_HEADER_SIZE 4096

struct rafs_chunk_map_header {
    uint32_t magic;
    uint32_t version;
    uint32_t magic2;
    uint32_t all_ready;
    uint64_t eviction_generation; /* ours, in what the format reserves: chunk_area.h. Others read past it */
    uint8_t reserved[4072];
};

#pragma pack(pop)
#endif
