/* The table of what a RAFS mount can do, and its life. See rafsfs.h. */
#include "rafsfs.h"

#include <stdlib.h>
#include <string.h>

/* In a session of images only, a driver that hears ENOSYS once does not ask again, and there is
 * nothing to flush. Where it is shared with a host directory, ENOSYS would speak for that too. */
static int64_t flush(struct fuse_server *server, struct fuse_request *request)
{
    return server->profile == FUSE_PROFILE_IMMUTABLE ? -ENOSYS : 0;
}

static int describe_root(struct fuse_fs *fs, bool may_block, struct fuse_entry_out *entry)
{
    const struct rafsfs *rafsfs = (const struct rafsfs *)fs;
    struct rafs_inode inode;
    int err = rafsfs_inode(rafsfs, FUSE_ROOT_ID, &inode);

    if (!err)
        rafsfs_fill_entry(rafsfs, &inode, fuse_nodeid(fs, FUSE_ROOT_ID), entry);
    return err;
}

static void free_rafsfs(struct fuse_fs *fs)
{
    free(((struct rafsfs *)fs)->blobs);
    free(fs);
}

static const struct fuse_fs_type rafsfs_type = {
    .name = "rafs",
    .describe_root = describe_root,
    .free = free_rafsfs,
    .handlers = {
        [FUSE_LOOKUP] = rafsfs_lookup,
        [FUSE_GETATTR] = rafsfs_getattr,
        [FUSE_STATX] = rafsfs_statx,
        [FUSE_READLINK] = rafsfs_readlink,
        [FUSE_OPEN] = rafsfs_open,
        [FUSE_READ] = rafsfs_read,
        [FUSE_RELEASE] = fuse_nothing_to_do,
        [FUSE_OPENDIR] = rafsfs_opendir,
        [FUSE_READDIR] = rafsfs_readdir,
        [FUSE_READDIRPLUS] = rafsfs_readdirplus,
        [FUSE_RELEASEDIR] = fuse_nothing_to_do,
        [FUSE_STATFS] = rafsfs_statfs,
        [FUSE_GETXATTR] = rafsfs_getxattr,
        [FUSE_LISTXATTR] = rafsfs_listxattr,
        [FUSE_ACCESS] = rafsfs_access,
        [FUSE_LSEEK] = rafsfs_lseek,
        [FUSE_FLUSH] = flush,
        [FUSE_FSYNC] = fuse_nothing_to_do,
        [FUSE_FSYNCDIR] = fuse_nothing_to_do,
        [FUSE_SYNCFS] = fuse_nothing_to_do,
        [FUSE_GETLK] = fuse_no_locks,
        [FUSE_SETLK] = fuse_no_locks,
        [FUSE_SETLKW] = fuse_no_locks,
        [FUSE_IOCTL] = fuse_no_ioctl,
        [FUSE_SETATTR] = fuse_read_only,
        [FUSE_SYMLINK] = fuse_read_only,
        [FUSE_MKNOD] = fuse_read_only,
        [FUSE_MKDIR] = fuse_read_only,
        [FUSE_UNLINK] = fuse_read_only,
        [FUSE_RMDIR] = fuse_read_only,
        [FUSE_RENAME] = fuse_read_only,
        [FUSE_RENAME2] = fuse_read_only,
        [FUSE_LINK] = fuse_read_only,
        [FUSE_WRITE] = fuse_read_only,
        [FUSE_SETXATTR] = fuse_read_only,
        [FUSE_REMOVEXATTR] = fuse_read_only,
        [FUSE_CREATE] = fuse_read_only,
        [FUSE_TMPFILE] = fuse_read_only,
        [FUSE_FALLOCATE] = fuse_read_only,
        [FUSE_COPY_FILE_RANGE] = fuse_read_only,
    },
};

struct rafsfs *rafsfs_of_fs(struct fuse_fs *fs) { return fs->type == &rafsfs_type ? (struct rafsfs *)fs : NULL; }

struct fuse_fs *rafsfs_new(const struct rafs_image *image, struct blob *const *blobs)
{
    struct rafsfs *rafsfs = calloc(1, sizeof(*rafsfs));
    struct blob **copy = calloc(image->blob_count + 1, sizeof(*copy));

    if (!rafsfs || !copy) {
        free(rafsfs);
        free(copy);
        return NULL;
    }
    memcpy(copy, blobs, image->blob_count * sizeof(*copy));
    *rafsfs = (struct rafsfs){ .fs.type = &rafsfs_type, .image = image, .blobs = copy };
    return &rafsfs->fs;
}
