/* What tells one inode of a share from another: its mount, and its handle or its device and number. */
#ifndef VHOSTFS_PASSTHROUGHFS_KEY_H
#define VHOSTFS_PASSTHROUGHFS_KEY_H
#include "passthroughfs_inode.h"

struct inode_key {
    const struct host_mount *mount;
    struct host_handle handle; /* size 0: by device and number, which an open descriptor keeps valid */
    uint64_t dev, ino;
    uint32_t hash;
};

/* Of `name` in the directory `fd`, or of `fd` where the name is "". */
int inode_key_make(const struct host_mount *mount, bool by_handle, int fd, const char *name, const struct statx *stat,
                   struct inode_key *key);
bool inode_has_key(const struct host_inode *inode, const struct inode_key *key);

/* passthroughfs_inode.c: finds the inode of `key`, or puts `fresh` (or NULL) there, and counts a look-up;
 * with a reference for the caller. -ENOENT: neither. Peeking counts nothing; NULL: there is none. */
int inode_table_find(struct inode_table *table, const struct inode_key *key, struct host_inode *fresh, struct host_inode **out);
struct host_inode *inode_table_peek(struct inode_table *table, const struct inode_key *key);
#endif
