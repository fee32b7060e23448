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

int inode_key_make(const struct host_mount *mount, bool by_handle, int fd, const struct statx *stat, struct inode_key *key);
bool inode_has_key(const struct host_inode *inode, const struct inode_key *key);
#endif
