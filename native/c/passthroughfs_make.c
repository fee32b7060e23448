/* New names: nodes, directories, symlinks and links. See passthroughfs.h. */
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "passthroughfs.h"

/* What is to be made under `name`. */
struct wanted {
    uint32_t mode; /* with the type */
    uint32_t rdev; /* FUSE's coding */
    uint32_t umask;
    const char *name;
    const char *target; /* of a symlink */
};

static int make_node(int parent_fd, const struct wanted *wanted)
{
    dev_t rdev = makedev(wanted->rdev >> 8 & 0xFFF, (wanted->rdev & 0xFF) | (wanted->rdev >> 12 & 0xFFF00));
    int made;

    if (wanted->target)
        made = symlinkat(wanted->target, parent_fd, wanted->name);
    else if (S_ISDIR(wanted->mode))
        made = mkdirat(parent_fd, wanted->name, wanted->mode & 07777);
    else
        made = mknodat(parent_fd, wanted->name, wanted->mode & (S_IFMT | 07777), rdev);
    return made < 0 ? -errno : 0;
}

/* The label of what was just made; without it the guest hears that nothing was. */
static int label(struct passthroughfs *pt, int parent_fd, const struct wanted *wanted, const struct caller_extensions *extensions)
{
    int err, fd;

    if (!extensions->label_name)
        return 0;
    fd = host_open_child(parent_fd, wanted->name, O_PATH, true);
    err = fd < 0 ? fd : passthroughfs_label(pt, fd, extensions);
    if (fd >= 0)
        close(fd);
    if (err)
        unlinkat(parent_fd, wanted->name, S_ISDIR(wanted->mode) ? AT_REMOVEDIR : 0);
    return err;
}

/* `at` is where the extensions begin. */
static int64_t make(struct passthroughfs *pt, struct fuse_request *request, struct host_inode *parent, const struct wanted *wanted, uint32_t at)
{
    struct caller_extensions extensions;
    struct host_path path;
    int err = caller_parse_extensions(pt->server, request, at, &extensions);

    if (!err && request->writable_size < sizeof(struct fuse_out_header) + sizeof(struct fuse_entry_out))
        err = -EINVAL; /* before anything is made */
    if (!err)
        err = inode_path(&pt->inodes, parent, true, &path);
    if (err)
        return err;
    err = caller_begin(pt->server, request, &extensions, wanted->umask);
    if (!err) {
        err = make_node(path.fd, wanted);
        caller_end(request);
    }
    if (!err)
        err = label(pt, path.fd, wanted, &extensions);
    host_path_close(&path);
    return err ? err : passthroughfs_reply_child(pt, request, parent, wanted->name);
}

int64_t passthroughfs_mknod(struct passthroughfs *pt, struct fuse_request *request, struct host_inode *inode)
{
    const struct fuse_mknod_in *in = (const struct fuse_mknod_in *)request->args;
    struct wanted wanted = { .mode = in->mode, .rdev = in->rdev, .umask = in->umask };
    uint32_t at = sizeof(*in);
    int err = passthroughfs_name(request, &at, &wanted.name);

    if (!err && (S_ISDIR(in->mode) || S_ISLNK(in->mode)))
        err = -EINVAL;
    return err ? err : make(pt, request, inode, &wanted, at);
}

int64_t passthroughfs_mkdir(struct passthroughfs *pt, struct fuse_request *request, struct host_inode *inode)
{
    const struct fuse_mkdir_in *in = (const struct fuse_mkdir_in *)request->args;
    struct wanted wanted = { .mode = S_IFDIR | (in->mode & 07777), .umask = in->umask };
    uint32_t at = sizeof(*in);
    int err = passthroughfs_name(request, &at, &wanted.name);

    return err ? err : make(pt, request, inode, &wanted, at);
}

int64_t passthroughfs_symlink(struct passthroughfs *pt, struct fuse_request *request, struct host_inode *inode)
{
    struct wanted wanted = { .mode = S_IFLNK };
    uint32_t at = 0;
    size_t length;
    int err = passthroughfs_name(request, &at, &wanted.name);

    if (err)
        return err;
    wanted.target = (const char *)request->args + at;
    length = strnlen(wanted.target, request->args_size - at);
    if (length == request->args_size - at)
        return length >= PATH_MAX ? -ENAMETOOLONG : -EINVAL;
    return make(pt, request, inode, &wanted, at + (uint32_t)length + 1);
}

int64_t passthroughfs_link(struct passthroughfs *pt, struct fuse_request *request, struct host_inode *inode)
{
    const struct fuse_link_in *in = (const struct fuse_link_in *)request->args;
    struct host_path old_path, path;
    struct host_inode *old;
    uint32_t at = sizeof(*in);
    const char *name;
    int err = passthroughfs_name(request, &at, &name);

    if (!err && request->writable_size < sizeof(struct fuse_out_header) + sizeof(struct fuse_entry_out))
        err = -EINVAL;
    if (!err)
        err = passthroughfs_other_inode(pt, in->oldnodeid, &old);
    if (err)
        return err;
    err = inode_path(&pt->inodes, old, true, &old_path);
    if (!err) {
        err = inode_path(&pt->inodes, inode, true, &path);
        if (!err) {
            err = linkat(old_path.fd, "", path.fd, name, AT_EMPTY_PATH) < 0 ? -errno : 0;
            host_path_close(&path);
        }
        host_path_close(&old_path);
    }
    inode_put(&pt->inodes, old);
    return err ? err : passthroughfs_reply_child(pt, request, inode, name);
}
