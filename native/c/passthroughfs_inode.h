/*
 * The inodes and mounts of the host that a guest has looked up.
 *
 * An inode is kept as a file handle: no descriptor, so that a hundred thousand of them cost memory
 * only, nothing of the host is held busy, and an inode that was deleted and made anew is another
 * one. Where a file system has no handles (overlayfs, FUSE), an O_PATH descriptor is kept instead,
 * counted by host_take_fd; that does hold its mount busy.
 *
 * A handle is opened through a descriptor on its mount. Kata unmounts a container's snapshot
 * directory while the guest still remembers inodes in it, and deletes recursively what it believes
 * is unmounted then; so no descriptor of a mount inside the share is kept, save while the guest has
 * files open on it, which hold it busy in any case. Otherwise each request walks to the mount:
 * open the directory that it is mounted on, open the name, compare the mount id. A mount that is
 * gone, or that another one covers, is -ESTALE, at which a guest's kernel looks the path up anew.
 * The source's own mount is held for ever.
 *
 * Locks: one a shard of inodes, one for the list of mounts, one a mount. None is held over a call
 * that may block, and no file system of another kind ever takes one.
 */
#ifndef VHOSTFS_PASSTHROUGHFS_INODE_H
#define VHOSTFS_PASSTHROUGHFS_INODE_H
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "passthroughfs_host.h"

#define INODE_SHARD_BITS 6
#define INODE_SHARDS (1u << INODE_SHARD_BITS)
#define HOST_MOUNT_BUCKETS 64

struct inode_table;
struct host_inode;

/* A mount of the host, as long as inodes of it are remembered. */
struct host_mount {
    struct host_mount *next; /* under inode_table.mounts_lock, as refs is */
    unsigned refs;
    uint64_t mnt_id, dev, root_ino; /* before Linux 6.8 the next mount gets the id of one that is gone */
    uint16_t root_type;        /* S_IFMT bits: a file can be mounted, too */
    struct host_inode *parent; /* it is mounted on `name` in this one; NULL: the source's own */
    bool is_local;             /* what is in the kernel's caches is served without blocking */
    bool reads_never_block;    /* it lives in memory */
    bool copies_at_open;       /* to open a file for writing may copy all of it */
    bool clones;               /* copies share their blocks, and take no time */
    bool has_handles;
    pthread_mutex_t lock;
    int fd;              /* -1: closed; open for real, as open_by_handle_at wants */
    unsigned users;      /* requests that use fd */
    unsigned open_files; /* of the guest */
    char name[];
};

struct host_inode {
    struct host_inode *next_by_id, *next_by_key; /* in the shard */
    uint64_t id;
    uint64_t nlookup; /* under the shard's lock; while it is not 0 the table has one reference */
    unsigned refs;    /* atomic */
    uint32_t hash;    /* of the key: mount, and handle or device and number */
    uint32_t used_s, xattrs_used_s; /* atomic: when it was last in the kernel's caches for sure */
    uint16_t type;    /* S_IFMT bits; an inode never changes them */
    bool is_mounted_file; /* the root of a mount, and no directory: reached by walking there */
    int path_fd;          /* O_PATH; -1: by handle or by walking */
    struct host_mount *mount;
    uint64_t dev, ino;    /* the key where there is no handle */
    struct host_handle handle; /* allocated to its size; size 0: none */
};

/* A descriptor for one request. */
struct host_path {
    int fd;
    bool is_ours; /* to be closed */
};

struct inode_shard {
    pthread_mutex_t lock;
    uint32_t count, buckets;
    struct host_inode **by_id, **by_key;
};

struct inode_table {
    int proc_fd;
    bool handles_wanted, handles_required;
    struct host_inode *root;
    uint64_t next_serial; /* atomic */
    struct inode_shard shards[INODE_SHARDS];
    pthread_mutex_t mounts_lock;
    struct host_mount *mounts[HOST_MOUNT_BUCKETS];
};

struct inode_counts {
    uint64_t inodes, path_fds, mounts, mount_fds;
};

/* Takes over source_fd (open for real on a directory) if it returns 0. */
int inode_table_init(struct inode_table *table, int source_fd, int proc_fd, bool handles_wanted, bool handles_required);
void inode_table_destroy(struct inode_table *table);
void inode_table_count(struct inode_table *table, struct inode_counts *counts);

/* The inode with number `id`, and a reference; NULL: the guest has none of that number. */
struct host_inode *inode_get(struct inode_table *table, uint64_t id);
void inode_put(struct inode_table *table, struct host_inode *inode);
/* passthroughfs_remember.c, from here to inode_find_parent.
 * Finds or makes the inode that `fd` (O_PATH or not) is open on, which is `name` in `parent`, and
 * counts one look-up of it. `stat` is its. Returns it with a reference. -EAGAIN: may_block is false
 * and the inode is on a mount not seen before, or not a local one. */
int inode_remember(struct inode_table *table, struct host_inode *parent, const char *name, int fd,
                   const struct statx *stat, bool may_block, struct host_inode **out);
/* The same of one that is probably remembered, in two system calls by name instead of four by
 * descriptor, and without a mount between; may block. -ENOENT: not so. The name may be given to another
 * inode between the two calls, so what they say must fit what is remembered of it: then the node id is
 * that of the handle, as ever, and the attributes are at worst those of its successor of the same number. */
int inode_remember_again(struct inode_table *table, struct host_inode *parent, int parent_fd, const char *name,
                         struct statx *stat, struct host_inode **out);
/* Inodes that are new from now on have greater numbers. */
uint64_t inode_last_id(struct inode_table *table);
/* The directory that `fd` is open on, which is the ".." of `child`, if it is remembered; else -ENOENT.
 * No look-up is counted. */
int inode_find_parent(struct inode_table *table, const struct host_inode *child, int fd, const struct statx *stat, struct host_inode **out);
/* Counts another look-up. False: the guest has just forgotten it. */
bool inode_look_up_again(struct inode_table *table, struct host_inode *inode);
void inode_forget(struct inode_table *table, uint64_t id, uint64_t nlookup);
void inode_forget_all(struct inode_table *table);

/* passthroughfs_path.c: descriptors of inodes. -EAGAIN where it might block, and must not. */
int inode_path(struct inode_table *table, struct host_inode *inode, bool may_block, struct host_path *path);
void host_path_close(struct host_path *path);
/* Opens a regular file or a directory for real. Others are -ENXIO, a symlink -ELOOP: only the guest
 * opens devices and pipes, its own. */
int inode_open(struct inode_table *table, struct host_inode *inode, int flags, bool may_block);
/* Whether it was used so lately that its metadata is in the kernel's caches. */
bool inode_is_warm(const struct host_inode *inode);
void inode_used(struct host_inode *inode);
uint32_t host_now_s(void);
/* What was used this lately is still in the kernel's caches: a request for it need not go to the
 * pool. Where that is wrong (memory was very short) the queue waits for one read of the disk. */
#define INODE_WARM_S 10

/* passthroughfs_mount.c */
int host_mount_new_source(struct inode_table *table, int source_fd, const struct statx *stat, struct host_mount **out);
/* The mount that `stat` tells of, another one than the parent's, which begins at `name` in it; with a reference. */
int host_mount_find(struct inode_table *table, struct host_inode *parent, const char *name, int fd,
                    const struct statx *stat, bool may_block, struct host_mount **out);
void host_mount_get(struct inode_table *table, struct host_mount *mount);
void host_mount_put(struct inode_table *table, struct host_mount *mount);
/* Opens `name` on the mount's parent with `flags`, and checks that it is still this mount. */
int host_mount_walk(struct inode_table *table, struct host_mount *mount, int flags, bool may_block);
/* A descriptor for open_by_handle_at, until host_mount_leave. */
int host_mount_enter(struct inode_table *table, struct host_mount *mount, bool may_block);
void host_mount_leave(struct host_mount *mount);
void host_mount_file_opened(struct host_mount *mount);
void host_mount_file_closed(struct host_mount *mount);
/* Writes all file systems that the guest has met to their disks. */
int host_mounts_sync(struct inode_table *table);
#endif
