/* Names go away or move. See passthroughfs.h. */
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <unistd.h>

#include "passthroughfs.h"

static int64_t remove_name(struct passthroughfs *pt, struct fuse_request *request, struct host_inode *inode, int flags)
{
    struct host_path path;
    uint32_t at = 0;
    const char *name;
    int err = passthroughfs_name(request, &at, &name);

    if (!err)
        err = inode_path(&pt->inodes, inode, true, &path);
    if (err)
        return err;
    err = unlinkat(path.fd, name, flags) < 0 ? -errno : 0;
    host_path_close(&path);
    return err;
}

int64_t passthroughfs_unlink(struct passthroughfs *pt, struct fuse_request *request, struct host_inode *inode)
{
    return remove_name(pt, request, inode, 0);
}

int64_t passthroughfs_rmdir(struct passthroughfs *pt, struct fuse_request *request, struct host_inode *inode)
{
    return remove_name(pt, request, inode, AT_REMOVEDIR);
}

static int64_t rename_to(struct passthroughfs *pt, struct fuse_request *request, struct host_inode *inode, uint64_t new_nodeid,
                         uint32_t flags, uint32_t at)
{
    struct host_path path, new_path;
    struct host_inode *new_parent;
    const char *name, *new_name;
    int err = passthroughfs_name(request, &at, &name);

    if (!err)
        err = passthroughfs_name(request, &at, &new_name);
    if (!err && (flags & ~(uint32_t)(RENAME_NOREPLACE | RENAME_EXCHANGE | RENAME_WHITEOUT)))
        err = -EINVAL;
    if (!err)
        err = passthroughfs_other_inode(pt, new_nodeid, &new_parent);
    if (err)
        return err;
    err = inode_path(&pt->inodes, inode, true, &path);
    if (!err) {
        err = inode_path(&pt->inodes, new_parent, true, &new_path);
        if (!err) {
            err = renameat2(path.fd, name, new_path.fd, new_name, flags) < 0 ? -errno : 0;
            host_path_close(&new_path);
        }
        host_path_close(&path);
    }
    inode_put(&pt->inodes, new_parent);
    return err;
}

int64_t passthroughfs_rename(struct passthroughfs *pt, struct fuse_request *request, struct host_inode *inode)
{
    const struct fuse_rename_in *in = (const struct fuse_rename_in *)request->args;

    return rename_to(pt, request, inode, in->newdir, 0, sizeof(*in));
}

int64_t passthroughfs_rename2(struct passthroughfs *pt, struct fuse_request *request, struct host_inode *inode)
{
    const struct fuse_rename2_in *in = (const struct fuse_rename2_in *)request->args;

    return rename_to(pt, request, inode, in->newdir, in->flags, sizeof(*in));
}
