/*
 * A directory of the host as a mounted file system, read and write.
 *
 * A guest reaches what can be reached from that directory by names: mounts below it are entered,
 * symlinks are the guest's to follow, ".." ends at the directory. What a guest may do inside is
 * its own kernel's decision (default_permissions); we act with our rights, save that what is made
 * belongs to the caller (passthroughfs_caller.h).
 *
 * A queue thread must not wait for a disk: passthroughfs.c says for each operation whether it may
 * run there. One that may returns -EAGAIN when it would block, before it has done anything, and is
 * run again by the pool.
 */
#ifndef VHOSTFS_PASSTHROUGHFS_H
#define VHOSTFS_PASSTHROUGHFS_H
#include "dataplane.h"
#include "fuse_server.h"
#include "passthroughfs_caller.h"
#include "passthroughfs_file.h"
#include "passthroughfs_ino.h"
#include "passthroughfs_inode.h"
#include "passthroughfs_lock.h"

struct passthroughfs {
    struct fuse_fs fs;
    struct fuse_server *server;
    struct vfs_directory_options options;
    int proc_fd; /* /proc/self/fd; the device's */
    struct inode_table inodes;
    struct open_file_table files;
    struct ino_map inos;
    struct lock_table locks;
};

/* Takes over source_fd (any descriptor of a directory) if it returns 0. proc_fd must outlive it.
 * -EOPNOTSUPP: file handles are required, and the file system has none or we may not open them. */
int passthroughfs_new(struct fuse_server *server, int source_fd, int proc_fd, const struct vfs_directory_options *options,
                      struct fuse_fs **out);
/* -EINVAL: `fs` is of another kind. */
int passthroughfs_facts(struct fuse_fs *fs, struct vfs_directory_facts *facts);

/* An operation on an inode that the guest has looked up; the reference is the caller's. */
typedef int64_t passthrough_op(struct passthroughfs *pt, struct fuse_request *request, struct host_inode *inode);

/* passthroughfs_meta.c */
passthrough_op passthroughfs_lookup, passthroughfs_getattr, passthroughfs_statx, passthroughfs_readlink;
passthrough_op passthroughfs_statfs, passthroughfs_access;
passthrough_op passthroughfs_setattr;                                            /* passthroughfs_setattr.c */
passthrough_op passthroughfs_open, passthroughfs_opendir, passthroughfs_create;  /* passthroughfs_open.c */
passthrough_op passthroughfs_tmpfile, passthroughfs_flush;
passthrough_op passthroughfs_release; /* inode is NULL: FORGET may come first, by another queue */
passthrough_op passthroughfs_read, passthroughfs_write;                          /* passthroughfs_io.c */
passthrough_op passthroughfs_fsync, passthroughfs_fallocate, passthroughfs_lseek, passthroughfs_copy_file_range; /* passthroughfs_data.c */
passthrough_op passthroughfs_readdir, passthroughfs_readdirplus;                 /* passthroughfs_dir.c */
passthrough_op passthroughfs_mknod, passthroughfs_mkdir, passthroughfs_symlink;  /* passthroughfs_make.c */
passthrough_op passthroughfs_link;
passthrough_op passthroughfs_unlink, passthroughfs_rmdir, passthroughfs_rename, passthroughfs_rename2; /* passthroughfs_rename.c */
passthrough_op passthroughfs_getxattr, passthroughfs_listxattr, passthroughfs_setxattr, passthroughfs_removexattr; /* passthroughfs_xattr.c */
passthrough_op passthroughfs_getlk, passthroughfs_setlk, passthroughfs_setlkw;   /* passthroughfs_lock.c */

/* A thread of the pool that is there for what may never answer. */
static inline bool passthroughfs_may_wait_for_others(const struct fuse_request *request)
{
    return request->may_block && request->wait == FUSE_WAIT_REMOTE;
}

/* What several of these use (passthroughfs_meta.c). */

/* The name at `*at` of the arguments, which `*at` is moved behind. -EINVAL for one that cannot be
 * made or removed: empty, ".", "..", with a '/' or without its NUL; -ENAMETOOLONG. */
int passthroughfs_name(const struct fuse_request *request, uint32_t *at, const char **name);
void passthroughfs_fill_attr(struct passthroughfs *pt, const struct statx *stat, struct fuse_attr *attr);
void passthroughfs_fill_entry(struct passthroughfs *pt, const struct host_inode *parent, const struct host_inode *inode,
                              const struct statx *stat, struct fuse_entry_out *entry);
/* Makes the inode that `fd` is open on, `name` in `parent`, known to the guest: one look-up. Returns
 * it with a reference, and the entry that says so. -EREMOTE: it is on another mount than the parent,
 * which is not known to answer soon, and this thread does not wait for such. */
int passthroughfs_describe(struct passthroughfs *pt, const struct fuse_request *request, struct host_inode *parent,
                           const char *name, int fd, struct host_inode **inode, struct fuse_entry_out *entry);
/* Opens `name` in `parent` as O_PATH and describes it; what LOOKUP answers. */
int64_t passthroughfs_reply_child(struct passthroughfs *pt, struct fuse_request *request, struct host_inode *parent, const char *name);
int64_t passthroughfs_reply_attr(struct passthroughfs *pt, const struct fuse_request *request, const struct statx *stat);
/* Gives what `fd` is open on the label that the caller sent, if any, and if the host can keep labels
 * there (passthroughfs_xattr.c). */
int passthroughfs_label(struct passthroughfs *pt, int fd, const struct caller_extensions *extensions);

/* The inode of this mount that another node id in the arguments names; -EXDEV: it is of another mount. */
int passthroughfs_other_inode(struct passthroughfs *pt, uint64_t nodeid, struct host_inode **out);
#endif
