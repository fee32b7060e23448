/*
 * SETATTR: owner, then mode (a change of owner clears set-user-id bits), then size, then times
 * (a change of size sets them).
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "passthroughfs.h"

#ifndef FATTR_KILL_SUIDGID
#define FATTR_KILL_SUIDGID (1 << 11)
#endif

static int result(int returned) { return returned < 0 ? -errno : 0; }

static int set_owner(int fd, const struct fuse_setattr_in *in)
{
    uid_t uid = in->valid & FATTR_UID ? in->uid : (uid_t)-1;
    gid_t gid = in->valid & FATTR_GID ? in->gid : (gid_t)-1;

    return result(fchownat(fd, "", uid, gid, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW));
}

static int set_mode(struct passthroughfs *pt, int fd, const struct fuse_setattr_in *in)
{
    char name[16];

    snprintf(name, sizeof(name), "%d", fd); /* fchmod refuses O_PATH; the link leads to the inode itself */
    return result(fchmodat(pt->proc_fd, name, in->mode & 07777, 0));
}

static int set_size(struct passthroughfs *pt, struct host_inode *inode, struct open_file *file, const struct fuse_setattr_in *in)
{
    bool kills = in->valid & FATTR_KILL_SUIDGID;
    int fd, err;

    if (in->size > INT64_MAX)
        return -EFBIG;
    if (inode->type != S_IFREG)
        return inode->type == S_IFDIR ? -EISDIR : -EINVAL;
    fd = file && file->is_writable ? file->fd : inode_open(&pt->inodes, inode, O_WRONLY | O_NONBLOCK, true);
    if (fd < 0)
        return fd;
    if (file)
        open_file_changed(file);
    err = kills ? caller_drop_fsetid(-1) : 0;
    if (!err) {
        err = result(ftruncate(fd, (off_t)in->size));
        if (kills)
            caller_restore_fsetid(-1);
    }
    if (!file || fd != file->fd)
        close(fd);
    return err;
}

static struct timespec wanted_time(uint32_t valid, uint32_t set, uint32_t now, uint64_t s, uint32_t ns)
{
    if (valid & now)
        return (struct timespec){ .tv_nsec = UTIME_NOW };
    if (valid & set)
        return (struct timespec){ .tv_sec = (time_t)s, .tv_nsec = ns };
    return (struct timespec){ .tv_nsec = UTIME_OMIT };
}

static int set_times(int fd, const struct fuse_setattr_in *in)
{
    const struct timespec times[2] = {
        wanted_time(in->valid, FATTR_ATIME, FATTR_ATIME_NOW, in->atime, in->atimensec),
        wanted_time(in->valid, FATTR_MTIME, FATTR_MTIME_NOW, in->mtime, in->mtimensec),
    };

    if (in->atimensec >= 1000000000 || in->mtimensec >= 1000000000) /* UTIME_NOW and UTIME_OMIT are such */
        return -EINVAL;
    return result(utimensat(fd, "", times, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW));
}

/* overlayfs ends a copy-up by setting, as root, the owner and the size that the copy has already. The
 * host would take away capabilities and set-id bits that were copied before; so what root sets to
 * what it is, is left alone. */
static bool is_owner_already(const struct statx *stat, const struct fuse_setattr_in *in)
{
    return (!(in->valid & FATTR_UID) || in->uid == stat->stx_uid) && (!(in->valid & FATTR_GID) || in->gid == stat->stx_gid);
}

static bool is_size_already(const struct statx *stat, const struct fuse_setattr_in *in)
{
    return in->size == stat->stx_size && !(in->valid & FATTR_KILL_SUIDGID) && S_ISREG(stat->stx_mode);
}

static int change(struct passthroughfs *pt, struct host_inode *inode, struct open_file *file, int fd,
                  const struct fuse_setattr_in *in, bool is_root)
{
    struct statx stat = { 0 };
    bool asks = is_root && (in->valid & (FATTR_UID | FATTR_GID | FATTR_SIZE));
    int err = asks ? host_stat(fd, &stat) : 0;

    if (!err && (in->valid & (FATTR_UID | FATTR_GID)) && !(asks && is_owner_already(&stat, in)))
        err = set_owner(fd, in);
    if (!err && (in->valid & FATTR_MODE))
        err = set_mode(pt, fd, in);
    if (!err && (in->valid & FATTR_SIZE) && asks && is_size_already(&stat, in)) /* setting it would set the time */
        err = result(utimensat(fd, "", (struct timespec[]){ { .tv_nsec = UTIME_OMIT }, { .tv_nsec = UTIME_NOW } },
                               AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW));
    else if (!err && (in->valid & FATTR_SIZE))
        err = set_size(pt, inode, file, in);
    if (!err && (in->valid & (FATTR_ATIME | FATTR_MTIME | FATTR_ATIME_NOW | FATTR_MTIME_NOW)))
        err = set_times(fd, in);
    return err; /* a change time cannot be set: FATTR_CTIME is the host's own */
}

int64_t passthroughfs_setattr(struct passthroughfs *pt, struct fuse_request *request, struct host_inode *inode)
{
    const struct fuse_setattr_in *in = (const struct fuse_setattr_in *)request->args;
    struct open_file *file = in->valid & FATTR_FH ? open_file_get(&pt->files, in->fh, inode) : NULL;
    struct host_path path;
    struct statx stat;
    int err;

    if ((in->valid & FATTR_FH) && !file)
        return -EBADF;
    err = inode_path(&pt->inodes, inode, request->may_block, &path);
    if (!err) {
        err = change(pt, inode, file, path.fd, in, request->in.uid == 0);
        if (!err)
            err = host_stat(path.fd, &stat);
        host_path_close(&path);
    }
    if (file)
        open_file_put(&pt->files, file);
    return err ? err : passthroughfs_reply_attr(pt, request, &stat);
}
