/*
 * A RAFS v6 bootstrap in memory, and everything that can be asked of it.
 *
 * The bootstrap is hostile: every offset is checked against the image before it is followed, at
 * each access, and every loop is bounded by the image's size. Errors: -EUCLEAN the image lies,
 * -EOPNOTSUPP we do not know this, -ENOENT no such name or attribute. On-disk types end here: the
 * callers see rafs_inode, rafs_dirent and rafs_extent.
 *
 * Reading order: rafs_image.c (super block, tables), rafs_inode.c, rafs_dir.c, rafs_xattr.c, and
 * rafs_map.c (file range to chunks; no data is read there).
 */
#ifndef VHOSTFS_RAFS_IMAGE_H
#define VHOSTFS_RAFS_IMAGE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "rafs_format.h"

struct rafs_image {
    const uint8_t *base; /* a private copy: nobody can truncate it under us */
    uint64_t size;
    uint64_t meta_offset; /* of nid 0 */
    uint64_t root_nid;
    uint64_t inos;
    uint64_t flags; /* RAFS_FLAG_* */
    uint32_t chunk_size;
    uint8_t blkszbits;
    uint8_t chunk_bits;
    uint16_t blob_count;
    uid_t default_uid; /* shown where the image carries no owners */
    gid_t default_gid;
    const struct rafs_v6_blob *blobs; /* blob_count of them */
    const uint8_t *prefetch_table;    /* le32 nids, unaligned */
    uint32_t prefetch_count;
    const struct rafs_chunk_record *chunk_table;
    uint64_t chunk_table_count;
};

/* Checks the super blocks and tables of `size` bytes at `base`, which stay the caller's. On failure a
 * sentence is in `why`. */
int rafs_image_parse(struct rafs_image *image, const void *base, uint64_t size, char *why, size_t why_size);
/* Reads `fd` whole and parses it; rafs_image_close frees the copy. */
int rafs_image_open(struct rafs_image *image, int fd, char *why, size_t why_size);
void rafs_image_close(struct rafs_image *image);

/* Pointer to `length` bytes at `offset`, or NULL when they are not all in the image. */
static inline const void *rafs_at(const struct rafs_image *image, uint64_t offset, uint64_t length)
{
    return offset <= image->size && length <= image->size - offset ? image->base + offset : NULL;
}

struct rafs_inode {
    uint64_t nid;
    uint64_t size;
    uint64_t mtime;
    uint32_t mtime_nsec;
    uint32_t uid, gid;
    uint32_t nlink;
    uint32_t u; /* block address, rdev or chunk format, by type */
    uint16_t mode;
    uint8_t layout; /* EROFS_LAYOUT_* */
    uint64_t xattr_offset;
    uint32_t xattr_size;     /* header included; 0: none */
    uint64_t payload_offset; /* inline tail, or chunk indexes */
};

int rafs_inode_read(const struct rafs_image *image, uint64_t nid, struct rafs_inode *inode);
/* The stored bytes of a flat (plain or inline) inode at `offset`: sets *data to at most `*length`
 * contiguous bytes and *length to how many. */
int rafs_inode_flat(const struct rafs_image *image, const struct rafs_inode *inode, uint64_t offset,
                    const uint8_t **data, uint64_t *length);

struct rafs_dirent {
    uint64_t nid;
    const char *name; /* in the image, not terminated */
    uint16_t name_length;
    uint8_t file_type; /* EROFS file types, 1 regular ... 7 symlink */
};

int rafs_lookup(const struct rafs_image *image, const struct rafs_inode *dir, const char *name, size_t length,
                uint64_t *nid);
/* The entry at `cookie` (0 for the first), and the cookie of its successor. 1: an entry; 0: end. */
int rafs_dir_entry(const struct rafs_image *image, const struct rafs_inode *dir, uint64_t cookie,
                   struct rafs_dirent *entry, uint64_t *next);

struct rafs_xattr {
    const char *prefix; /* static string such as "user." */
    const char *suffix; /* in the image, not terminated */
    uint8_t suffix_length;
    uint16_t value_size;
    const uint8_t *value;
};

/* The attribute at `offset` in the inode's xattr area (start with 0), and its successor's.
 * 1: an attribute; 0: end. */
int rafs_xattr_entry(const struct rafs_image *image, const struct rafs_inode *inode, uint32_t offset,
                     struct rafs_xattr *xattr, uint32_t *next);
int rafs_xattr_find(const struct rafs_image *image, const struct rafs_inode *inode, const char *name, size_t length,
                    struct rafs_xattr *xattr);

enum rafs_extent_kind { RAFS_EXTENT_CHUNK, RAFS_EXTENT_INLINE, RAFS_EXTENT_HOLE };

/* A piece of a file that lies in one place. */
struct rafs_extent {
    enum rafs_extent_kind kind;
    uint16_t blob_index;
    uint32_t chunk_index;     /* in the blob */
    uint32_t offset_in_chunk;
    uint64_t length;
    uint64_t blob_offset;     /* of the chunk's first byte, in the uncompressed blob */
    const uint8_t *inline_data;
};

/* Maps the start of [offset, offset+length), which must lie inside a regular file. */
int rafs_map(const struct rafs_image *image, const struct rafs_inode *inode, uint64_t offset, uint64_t length,
             struct rafs_extent *extent);
#endif
