/* The v5 reader's functions, which its table gathers; rafs_image.h says what each is for. */
#ifndef VHOSTFS_RAFS5_H
#define VHOSTFS_RAFS5_H
#include "rafs_image.h"
#include "rafs_parse.h"

/* A record of the inode table: `index` counts from 1. The names that a hard link has beside its first
 * have records of their own, and the first one's ino. */
struct rafs5_record {
    const struct rafs_v5_inode *inode;
    const char *name; /* not terminated; inode->name_size bytes */
    uint64_t target_offset; /* of what follows the name */
};

/* -EUCLEAN: there is no such index, or its record is not whole in the image. */
int rafs5_record(const struct rafs_image *image, uint64_t index, struct rafs5_record *record);

static inline uint64_t rafs5_pad(uint64_t size) { return (size + RAFS_V5_ALIGNMENT - 1) & ~(RAFS_V5_ALIGNMENT - 1ull); }

/* Calls `visit` for each chunk record of each file. Ends with what that returns if it is not 0: then the
 * reason names the inode. */
int rafs5_each_chunk(const struct rafs_image *image, int (*visit)(void *context, const struct rafs_chunk_record *chunk), void *context,
                     struct reason why);

int64_t rafs5_inode_offset(const struct rafs_image *image, uint64_t nid);
int rafs5_inode_read(const struct rafs_image *image, uint64_t nid, struct rafs_inode *inode);
int rafs5_inode_flat(const struct rafs_image *image, const struct rafs_inode *inode, uint64_t offset, const uint8_t **data, uint64_t *length);
int rafs5_lookup(const struct rafs_image *image, const struct rafs_inode *dir, const char *name, size_t length, uint64_t *nid);
int rafs5_dir_entry(const struct rafs_image *image, const struct rafs_inode *dir, uint64_t cookie, struct rafs_dirent *entry, uint64_t *next);
int rafs5_xattr_entry(const struct rafs_image *image, const struct rafs_inode *inode, uint32_t offset, struct rafs_xattr *xattr, uint32_t *next);
int rafs5_map(const struct rafs_image *image, const struct rafs_inode *inode, uint64_t offset, uint64_t length, struct rafs_extent *extent);
#endif
