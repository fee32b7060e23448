/*
 * A RAFS bootstrap in memory, v6 or v5, and everything that can be asked of it.
 *
 * The bootstrap is hostile: every offset is checked against the image before it is followed, at
 * each access, and every loop is bounded by the image's size. Errors: -EUCLEAN the image lies,
 * -EOPNOTSUPP we do not know this, -ENOENT no such name or attribute. On-disk types end here: the
 * callers see rafs_inode, rafs_dirent and rafs_extent, and cannot tell the versions apart.
 *
 * A nid names an inode. v6: its place in units of 32 bytes. v5: its number, which is the index of
 * its first name in the inode table.
 *
 * Reading order: rafs_image.c (opening), then for either version rafs6_super.c / rafs5_super.c (super
 * block, tables), ..._inode.c, ..._dir.c, ..._xattr.c, and ..._map.c (file range to chunks; no data is
 * read there). rafs5_chunks.c gathers a blob's chunk records, which v5 keeps with the inodes.
 */
#ifndef VHOSTFS_RAFS_IMAGE_H
#define VHOSTFS_RAFS_IMAGE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "rafs_format.h"

struct rafs_reader;

struct rafs_image {
    const struct rafs_reader *reader; /* of its version */
    const uint8_t *base; /* a private copy: nobody can truncate it under us */
    uint64_t size;
    uint64_t root_nid;
    uint64_t last_nid; /* no inode has a larger one */
    uint64_t inos;     /* v6: names, v5: unique inodes */
    uint64_t flags; /* RAFS_FLAG_* */
    uint32_t chunk_size;
    uint8_t version; /* 6 or 5 */
    uint8_t chunk_bits;
    uint16_t blob_count;
    uid_t default_uid; /* shown where the image carries no owners */
    gid_t default_gid;
    const struct rafs_v6_blob *blobs; /* blob_count of them */
    const uint8_t *prefetch_table;    /* le32 nids, unaligned */
    uint32_t prefetch_count;

    /* v6 */
    uint64_t meta_offset; /* of nid 0 */
    uint8_t blkszbits;
    const struct rafs_chunk_record *chunk_table;
    uint64_t chunk_table_count;

    /* v5 */
    const uint8_t *inode_table; /* le32, unaligned: last_nid of them */
    struct rafs_v6_blob *made_blobs; /* what `blobs` points at: ours to free */
};

/* Checks the super blocks and tables of `size` bytes at `base`, which stay the caller's. On failure a
 * sentence is in `why`. What it allocates goes with rafs_image_drop. */
int rafs_image_parse(struct rafs_image *image, const void *base, uint64_t size, char *why, size_t why_size);
void rafs_image_drop(struct rafs_image *image);
/* Reads `fd` whole and parses it; rafs_image_close frees the copy too. */
int rafs_image_open(struct rafs_image *image, int fd, char *why, size_t why_size);
void rafs_image_close(struct rafs_image *image);

/* Pointer to `length` bytes at `offset`, or NULL when they are not all in the image. */
static inline const void *rafs_at(const struct rafs_image *image, uint64_t offset, uint64_t length)
{
    return offset <= image->size && length <= image->size - offset ? image->base + offset : NULL;
}

/* Made for every request, so it is kept small. */
struct rafs_inode {
    uint64_t nid;
    uint64_t size;
    uint64_t mtime;
    uint32_t mtime_nsec;
    uint32_t uid, gid;
    uint32_t nlink;
    uint32_t u; /* rdev of a device; v6: block address or chunk format, by type; v5: first child */
    uint16_t mode;
    uint8_t layout;          /* EROFS_LAYOUT_* */
    bool has_holes;          /* v5: the chunks do not stand in a row */
    uint64_t xattr_offset;
    uint32_t xattr_size;     /* v6: header included; 0: none */
    uint32_t count;          /* v5: children of a directory, chunks of a file */
    uint64_t payload_offset; /* inline tail, or chunk indexes; v5: target, or chunk records */
};

struct rafs_dirent {
    uint64_t nid;
    const char *name; /* in the image, not terminated */
    uint16_t name_length;
    uint8_t file_type; /* EROFS file types, 1 regular ... 7 symlink */
};

struct rafs_xattr {
    const char *prefix; /* static string such as "user.", or "" */
    const char *suffix; /* in the image, not terminated */
    uint8_t suffix_length;
    uint32_t value_size;
    const uint8_t *value;
};

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

/* What a version does in its own way; the functions below say what each is for. */
struct rafs_reader {
    int64_t (*offset)(const struct rafs_image *image, uint64_t nid);
    int (*inode)(const struct rafs_image *image, uint64_t nid, struct rafs_inode *inode);
    int (*flat)(const struct rafs_image *image, const struct rafs_inode *inode, uint64_t offset, const uint8_t **data, uint64_t *length);
    int (*lookup)(const struct rafs_image *image, const struct rafs_inode *dir, const char *name, size_t length, uint64_t *nid);
    int (*dir_entry)(const struct rafs_image *image, const struct rafs_inode *dir, uint64_t cookie, struct rafs_dirent *entry, uint64_t *next);
    int (*xattr_entry)(const struct rafs_image *image, const struct rafs_inode *inode, uint32_t offset, struct rafs_xattr *xattr, uint32_t *next);
    int (*map)(const struct rafs_image *image, const struct rafs_inode *inode, uint64_t offset, uint64_t length, struct rafs_extent *extent);
};

/* Where in the image the record of an inode stands that rafs_inode_read takes. */
static inline int64_t rafs_inode_offset(const struct rafs_image *image, uint64_t nid) { return image->reader->offset(image, nid); }

static inline int rafs_inode_read(const struct rafs_image *image, uint64_t nid, struct rafs_inode *inode)
{
    return image->reader->inode(image, nid, inode);
}

/* The stored bytes of a flat inode (v6: plain or inline; v5: symlinks) at `offset`: sets *data to at most
 * `*length` contiguous bytes and *length to how many. */
static inline int rafs_inode_flat(const struct rafs_image *image, const struct rafs_inode *inode, uint64_t offset,
                                  const uint8_t **data, uint64_t *length)
{
    return image->reader->flat(image, inode, offset, data, length);
}

static inline int rafs_lookup(const struct rafs_image *image, const struct rafs_inode *dir, const char *name, size_t length,
                              uint64_t *nid)
{
    return image->reader->lookup(image, dir, name, length, nid);
}

/* The entry at `cookie` (0 for the first), and the cookie of its successor. 1: an entry; 0: end. A cookie
 * stays valid for ever, as the image never changes, so a guest may resume anywhere without an open handle. */
static inline int rafs_dir_entry(const struct rafs_image *image, const struct rafs_inode *dir, uint64_t cookie,
                                 struct rafs_dirent *entry, uint64_t *next)
{
    return image->reader->dir_entry(image, dir, cookie, entry, next);
}

/* The attribute at `offset` in the inode's xattr area (start with 0), and its successor's.
 * 1: an attribute; 0: end. */
static inline int rafs_xattr_entry(const struct rafs_image *image, const struct rafs_inode *inode, uint32_t offset,
                                   struct rafs_xattr *xattr, uint32_t *next)
{
    return image->reader->xattr_entry(image, inode, offset, xattr, next);
}

/* Maps the start of [offset, offset+length), which must lie inside a regular file. An extent ends where the
 * range does or at a chunk's border, so a range has at most one for each chunk that it touches. */
static inline int rafs_map(const struct rafs_image *image, const struct rafs_inode *inode, uint64_t offset, uint64_t length,
                           struct rafs_extent *extent)
{
    return image->reader->map(image, inode, offset, length, extent);
}

int rafs_xattr_find(const struct rafs_image *image, const struct rafs_inode *inode, const char *name, size_t length,
                    struct rafs_xattr *xattr);

/* A v5 blob's chunks, out of the inodes: *records are allocated, *count of them, each once, by index, in the
 * form of chunk_table.h. -EUCLEAN: two files contradict each other, or one names a chunk that cannot be. */
int rafs5_chunks(const struct rafs_image *image, uint32_t blob_index, struct rafs_chunk_record **records, uint32_t *count,
                 char *why, size_t why_size);
#endif
