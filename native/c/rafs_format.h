/* The on-disk structs with their sizes pinned; decl/rafs_v6.h and decl/rafs_v5.h declare them. */
#ifndef VHOSTFS_RAFS_FORMAT_H
#define VHOSTFS_RAFS_FORMAT_H
#include "rafs_v5.h"
#include "rafs_v6.h"

#define PIN(name, size) _Static_assert(sizeof(struct name) == (size), "struct " #name)
PIN(erofs_super_block, 128);
PIN(rafs_v6_super_block, 256);
PIN(erofs_device_slot, 128);
PIN(rafs_v6_blob, 256);
PIN(erofs_inode_compact, 32);
PIN(erofs_inode_extended, 64);
PIN(erofs_xattr_ibody_header, 12);
PIN(erofs_xattr_entry, 4);
PIN(erofs_chunk_index, 8);
PIN(erofs_dirent, 12);
PIN(rafs_chunk_record, 80);
PIN(rafs_ci_header, 4096);
PIN(rafs_ci_v1, 16);
PIN(rafs_ci_v2, 24);
PIN(rafs_toc_entry, 128);
PIN(rafs_chunk_map_header, 4096);
PIN(rafs_v5_super_block, RAFS_V5_SUPER_SIZE);
PIN(rafs_v5_blob_head, 8);
PIN(rafs_v5_extended_blob, 64);
PIN(rafs_v5_inode, 128);
#undef PIN

#define RAFS_BLOCK_SIZE 4096
#define RAFS_MAX_BOOTSTRAP (1u << 30) /* of metadata, kept in memory: several million files */
#define RAFS_MAX_BLOBS 255 /* v6: device ids have eight bits, 0 is the bootstrap itself */
#define RAFS_V5_MAX_BLOBS 1024 /* ours: each is several descriptors */
#define RAFS_MIN_CHUNK_SIZE 4096
#define RAFS_MAX_CHUNK_SIZE (16u << 20)
#define RAFS_MAX_CHUNKS (1u << 24) /* of one blob */
/* Of chunk `index` in its byte of a chunk map (specification 6.3). */
static inline uint8_t rafs_chunk_bit(uint32_t index) { return (uint8_t)(0x80 >> (index & 7)); }
#define RAFS_MAX_NAME 255
#define RAFS_MAX_SYMLINK 4096
#define RAFS_MAX_COMPRESSED (1ull << 40) /* of one blob */
#define RAFS_MAX_UNCOMPRESSED (1ull << 44)
#endif
