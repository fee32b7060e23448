/*
 * Extended attributes and ACLs, all names as they are: trusted.overlay.* is what overlayfs in a
 * guest lives by.
 *
 * The calls for O_PATH descriptors are those by name in /proc/self/fd, with that directory as the
 * thread's own working directory. Files and directories are opened instead, which is cheaper.
 */
#include <fcntl.h>
#include <linux/limits.h>
#include <linux/xattr.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "passthroughfs.h"

#ifndef FUSE_SETXATTR_ACL_KILL_SGID
#define FUSE_SETXATTR_ACL_KILL_SGID (1 << 0)
#endif
#define SETXATTR_FLAGS (XATTR_CREATE | XATTR_REPLACE)

/* Where to make the call: on a real descriptor, or by a name in the working directory. */
struct target {
    struct host_path path;
    bool is_real;
    char name[16];
};

static int aim(struct passthroughfs *pt, struct host_inode *inode, bool may_block, struct target *target)
{
    int fd, err;

    target->is_real = inode->type == S_IFREG || inode->type == S_IFDIR;
    if (target->is_real) {
        fd = inode_open(&pt->inodes, inode, O_RDONLY | O_NONBLOCK, may_block);
        target->path = (struct host_path){ .fd = fd, .is_ours = true };
        return fd < 0 ? fd : 0;
    }
    err = inode_path(&pt->inodes, inode, may_block, &target->path);
    if (err)
        return err;
    snprintf(target->name, sizeof(target->name), "%d", target->path.fd);
    err = host_enter(pt->proc_fd);
    if (err)
        host_path_close(&target->path);
    return err;
}

static ssize_t get(const struct target *target, const char *name, void *value, size_t size)
{
    ssize_t got = target->is_real ? fgetxattr(target->path.fd, name, value, size) : getxattr(target->name, name, value, size);

    return got < 0 ? -errno : got;
}

static ssize_t list(const struct target *target, char *names, size_t size)
{
    ssize_t got = target->is_real ? flistxattr(target->path.fd, names, size) : listxattr(target->name, names, size);

    return got < 0 ? -errno : got;
}

static int set(const struct target *target, const char *name, const void *value, size_t size, int flags)
{
    int set = target->is_real ? fsetxattr(target->path.fd, name, value, size, flags)
                              : setxattr(target->name, name, value, size, flags);

    return set < 0 ? -errno : 0;
}

/* The attribute's name at `at`. Names of other lengths the host refuses itself. */
static int attribute_name(const struct fuse_request *request, uint32_t at, const char **name, uint32_t *end)
{
    size_t room = request->args_size - at, length;

    *name = (const char *)request->args + at;
    length = strnlen(*name, room);
    *end = at + (uint32_t)length + 1;
    return length == 0 || length == room ? -EINVAL : length > XATTR_NAME_MAX ? -ERANGE : 0;
}

/* Asks for the size, or for bytes: GETXATTR with a name, LISTXATTR with NULL. */
static int64_t fetch(struct fuse_request *request, const struct target *target, const char *name, uint32_t wanted)
{
    size_t size = fuse_reply_room(request, wanted < XATTR_SIZE_MAX ? wanted : XATTR_SIZE_MAX);
    struct fuse_getxattr_out out = { 0 };
    char *bytes = wanted ? malloc(size ? size : 1) : NULL;
    int64_t got;

    if (wanted && !bytes)
        return -ENOMEM;
    if (wanted && size == 0)
        got = -EINVAL; /* the driver left no room; size 0 would ask for something else */
    else
        got = name ? get(target, name, bytes, size) : list(target, bytes, size);
    if (got >= 0 && wanted) {
        got = fuse_reply(request, bytes, (size_t)got);
    } else if (got >= 0) {
        out.size = (uint32_t)got;
        got = fuse_reply(request, &out, sizeof(out));
    }
    free(bytes);
    return got;
}

/* A queue thread may ask for attributes that were asked for lately: they are in memory. */
static bool are_warm(const struct host_inode *inode)
{
    uint32_t used = __atomic_load_n(&inode->xattrs_used_s, __ATOMIC_RELAXED);

    return used && inode_is_warm(inode) && host_now_s() - used <= INODE_WARM_S;
}

/* A guest's kernel that enforces ACLs lets nobody in where it cannot tell whether there is one; where
 * the host has none for a whole file system, none is what there is. */
static int64_t no_acl(const char *name, int64_t result)
{
    bool is_acl = name && (!strcmp(name, XATTR_NAME_POSIX_ACL_ACCESS) || !strcmp(name, XATTR_NAME_POSIX_ACL_DEFAULT));

    return is_acl && result == -EOPNOTSUPP ? -ENODATA : result;
}

static int64_t ask(struct passthroughfs *pt, struct fuse_request *request, struct host_inode *inode, const char *name)
{
    const struct fuse_getxattr_in *in = (const struct fuse_getxattr_in *)request->args;
    struct target target;
    int64_t result;
    int err;

    if (!request->may_block && !are_warm(inode))
        return -EAGAIN;
    err = aim(pt, inode, request->may_block, &target);
    if (err)
        return err;
    result = no_acl(name, fetch(request, &target, name, in->size));
    __atomic_store_n(&inode->xattrs_used_s, host_now_s(), __ATOMIC_RELAXED);
    host_path_close(&target.path);
    return result;
}

int64_t passthroughfs_getxattr(struct passthroughfs *pt, struct fuse_request *request, struct host_inode *inode)
{
    const char *name;
    uint32_t end;
    int err = attribute_name(request, sizeof(struct fuse_getxattr_in), &name, &end);

    return err ? err : ask(pt, request, inode, name);
}

int64_t passthroughfs_listxattr(struct passthroughfs *pt, struct fuse_request *request, struct host_inode *inode)
{
    return ask(pt, request, inode, NULL);
}

/* An ACL set by one who is not in the file's group takes its set-group-id bit: let the host do that. */
static int set_as_asked(const struct fuse_request *request, const struct target *target, const char *name, const void *value,
                        const struct fuse_setxattr_in *in)
{
    int err;

    if (!(in->setxattr_flags & FUSE_SETXATTR_ACL_KILL_SGID))
        return set(target, name, value, in->size, (int)in->flags);
    err = caller_drop_fsetid(request->in.gid);
    if (!err) {
        err = set(target, name, value, in->size, (int)in->flags);
        caller_restore_fsetid(request->in.gid);
    }
    return err;
}

int64_t passthroughfs_setxattr(struct passthroughfs *pt, struct fuse_request *request, struct host_inode *inode)
{
    uint32_t fixed = pt->server->flags & FUSE_SETXATTR_EXT ? sizeof(struct fuse_setxattr_in) : FUSE_COMPAT_SETXATTR_IN_SIZE, end;
    struct fuse_setxattr_in in = { 0 };
    struct target target;
    const char *name;
    void *value;
    int err;

    if (request->args_size <= fixed)
        return -EINVAL;
    memcpy(&in, request->args, fixed);
    err = attribute_name(request, fixed, &name, &end);
    if (err)
        return err;
    if (in.size > XATTR_SIZE_MAX)
        return -E2BIG;
    if (in.size > request->in.len - sizeof(request->in) - end || (in.flags & ~(uint32_t)SETXATTR_FLAGS))
        return -EINVAL;
    value = malloc(in.size ? in.size : 1);
    if (!value)
        return -ENOMEM;
    fuse_iov_read(request->readable, request->readable_count, sizeof(request->in) + end, value, in.size);
    err = aim(pt, inode, true, &target);
    if (!err) {
        err = set_as_asked(request, &target, name, value, &in);
        host_path_close(&target.path);
    }
    free(value);
    return err;
}

int64_t passthroughfs_removexattr(struct passthroughfs *pt, struct fuse_request *request, struct host_inode *inode)
{
    struct target target;
    const char *name;
    uint32_t end;
    int removed, err = attribute_name(request, 0, &name, &end);

    if (!err)
        err = aim(pt, inode, true, &target);
    if (err)
        return err;
    removed = target.is_real ? fremovexattr(target.path.fd, name) : removexattr(target.name, name);
    err = removed < 0 ? -errno : 0;
    host_path_close(&target.path);
    return err;
}

int passthroughfs_label(struct passthroughfs *pt, int fd, const struct caller_extensions *extensions)
{
    struct target target = { .path.fd = fd };
    const char *name = extensions->label_name;
    int err;

    if (!name)
        return 0;
    err = host_enter(pt->proc_fd); /* fd may be O_PATH */
    snprintf(target.name, sizeof(target.name), "%d", fd);
    if (!err)
        err = set(&target, name, extensions->label, extensions->label_size, 0);
    /* A file system that keeps no labels says so to GETXATTR as well, and the guest's security module
     * has a rule for that. It would not be a help to its users that nothing can be made there. */
    return err == -EOPNOTSUPP && !strncmp(name, XATTR_SECURITY_PREFIX, XATTR_SECURITY_PREFIX_LEN) ? 0 : err;
}
