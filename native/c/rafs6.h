/* The v6 reader's functions, which its table gathers; rafs_image.h says what each is for. */
#ifndef VHOSTFS_RAFS6_H
#define VHOSTFS_RAFS6_H
#include "rafs_image.h"
#include "rafs_parse.h"

int64_t rafs6_inode_offset(const struct rafs_image *image, uint64_t nid);
int rafs6_inode_read(const struct rafs_image *image, uint64_t nid, struct rafs_inode *inode);
int rafs6_inode_flat(const struct rafs_image *image, const struct rafs_inode *inode, uint64_t offset, const uint8_t **data, uint64_t *length);
int rafs6_lookup(const struct rafs_image *image, const struct rafs_inode *dir, const char *name, size_t length, uint64_t *nid);
int rafs6_dir_entry(const struct rafs_image *image, const struct rafs_inode *dir, uint64_t cookie, struct rafs_dirent *entry, uint64_t *next);
int rafs6_xattr_entry(const struct rafs_image *image, const struct rafs_inode *inode, uint32_t offset, struct rafs_xattr *xattr, uint32_t *next);
int rafs6_map(const struct rafs_image *image, const struct rafs_inode *inode, uint64_t offset, uint64_t length, struct rafs_extent *extent);
#endif
