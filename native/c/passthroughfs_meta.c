/* Names and attributes. See passthroughfs.h. */
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "passthroughfs.h"

#define NS_IN_S 1000000000ull

int passthroughfs_name(const struct fuse_request *request, uint32_t *at, const char **name)
{
    uint32_t room = request->args_size - *at; /* every caller has checked its fixed part */
    size_t length;

    *name = (const char *)request->args + *at;
    length = strnlen(*name, room);
    if (length == 0 || length == room || memchr(*name, '/', length) || !strcmp(*name, ".") || !strcmp(*name, ".."))
        return -EINVAL;
    *at += (uint32_t)length + 1;
    return length > FUSE_NAME_LIMIT ? -ENAMETOOLONG : 0;
}

void passthroughfs_fill_attr(struct passthroughfs *pt, const struct statx *stat, struct fuse_attr *attr)
{
    *attr = (struct fuse_attr){
        .ino = fuse_nodeid(&pt->fs, ino_map_number(&pt->inos, host_dev(stat), stat->stx_ino)),
        .size = stat->stx_size,
        .blocks = stat->stx_blocks,
        .atime = (uint64_t)stat->stx_atime.tv_sec,
        .mtime = (uint64_t)stat->stx_mtime.tv_sec,
        .ctime = (uint64_t)stat->stx_ctime.tv_sec,
        .atimensec = stat->stx_atime.tv_nsec,
        .mtimensec = stat->stx_mtime.tv_nsec,
        .ctimensec = stat->stx_ctime.tv_nsec,
        .mode = stat->stx_mode,
        .nlink = stat->stx_nlink,
        .uid = stat->stx_uid,
        .gid = stat->stx_gid,
        .rdev = host_pack_rdev(stat),
        .blksize = stat->stx_blksize,
    };
}

void passthroughfs_fill_entry(struct passthroughfs *pt, const struct host_inode *parent, const struct host_inode *inode,
                              const struct statx *stat, struct fuse_entry_out *entry)
{
    *entry = (struct fuse_entry_out){
        .nodeid = fuse_nodeid(&pt->fs, inode->id),
        .entry_valid = pt->options.entry_valid_ns / NS_IN_S,
        .entry_valid_nsec = (uint32_t)(pt->options.entry_valid_ns % NS_IN_S),
        .attr_valid = pt->options.attr_valid_ns / NS_IN_S,
        .attr_valid_nsec = (uint32_t)(pt->options.attr_valid_ns % NS_IN_S),
    };
    passthroughfs_fill_attr(pt, stat, &entry->attr);
    if (parent->mount != inode->mount && S_ISDIR(stat->stx_mode) && (pt->options.flags & VFS_DIRECTORY_SUBMOUNTS) &&
        (pt->server->flags & FUSE_SUBMOUNTS))
        entry->attr.flags = FUSE_ATTR_SUBMOUNT;
}

int passthroughfs_describe(struct passthroughfs *pt, const struct fuse_request *request, struct host_inode *parent,
                           const char *name, int fd, struct host_inode **inode, struct fuse_entry_out *entry)
{
    bool may_wait = passthroughfs_may_wait_for_others(request);
    struct statx stat;
    int err = may_wait ? host_stat(fd, &stat) : host_stat_nowait(fd, &stat);

    if (!err)
        err = inode_remember(&pt->inodes, parent, name, fd, &stat, may_wait, inode);
    if (err == -EAGAIN && stat.stx_mnt_id != parent->mount->mnt_id)
        err = -EREMOTE;
    if (err)
        return err;
    inode_used(*inode);
    passthroughfs_fill_entry(pt, parent, *inode, &stat, entry);
    return 0;
}

static int64_t reply_entry(struct passthroughfs *pt, struct fuse_request *request, struct host_inode *inode, const struct fuse_entry_out *entry)
{
    int64_t result = fuse_reply(request, entry, sizeof(*entry));

    if (result < 0) /* the guest has not heard of it */
        inode_forget(&pt->inodes, inode->id, 1);
    inode_put(&pt->inodes, inode);
    return result;
}

int64_t passthroughfs_reply_child(struct passthroughfs *pt, struct fuse_request *request, struct host_inode *parent, const char *name)
{
    struct fuse_entry_out entry;
    struct host_inode *inode;
    struct host_path path;
    int fd, err = inode_path(&pt->inodes, parent, request->may_block, &path);

    if (err)
        return err;
    fd = host_open_child(path.fd, name, O_PATH, request->may_block);
    host_path_close(&path);
    if (fd < 0)
        return fd;
    err = passthroughfs_describe(pt, request, parent, name, fd, &inode, &entry);
    close(fd);
    return err ? err : reply_entry(pt, request, inode, &entry);
}

/* "." and "..": for a guest that opens a file handle. Only what it knows already can be meant. */
static int64_t reply_dots(struct passthroughfs *pt, struct fuse_request *request, struct host_inode *inode, bool is_parent)
{
    struct host_inode *found = NULL;
    struct fuse_entry_out entry;
    struct host_path path;
    struct statx stat;
    int fd, err;

    if (!request->may_block)
        return -EAGAIN;
    err = inode_path(&pt->inodes, inode, true, &path);
    if (err)
        return err;
    fd = openat(path.fd, is_parent && inode != pt->inodes.root ? ".." : ".", O_PATH | O_CLOEXEC);
    if (fd < 0 && !is_parent && errno == ENOTDIR)
        fd = host_reopen(pt->proc_fd, path.fd, O_PATH);
    err = fd < 0 ? -errno : host_stat(fd, &stat);
    host_path_close(&path);
    if (!err && !is_parent)
        found = inode_get(&pt->inodes, inode->id);
    else if (!err)
        err = inode_find_parent(&pt->inodes, inode, fd, &stat, &found);
    if (!err && (!found || !inode_look_up_again(&pt->inodes, found)))
        err = -ESTALE;
    if (fd >= 0)
        close(fd);
    if (err) {
        if (found)
            inode_put(&pt->inodes, found);
        return err == -ENOENT ? -ESTALE : err;
    }
    passthroughfs_fill_entry(pt, found, found, &stat, &entry);
    return reply_entry(pt, request, found, &entry);
}

int64_t passthroughfs_lookup(struct passthroughfs *pt, struct fuse_request *request, struct host_inode *inode)
{
    const char *name = (const char *)request->args;
    uint32_t at = 0;
    int err;

    if (request->args_size == 2 && !memcmp(name, ".", 2))
        return reply_dots(pt, request, inode, false);
    if (request->args_size == 3 && !memcmp(name, "..", 3))
        return reply_dots(pt, request, inode, true);
    err = passthroughfs_name(request, &at, &name);
    return err ? err : passthroughfs_reply_child(pt, request, inode, name);
}

/* By the open file, if the request names one. */
static int stat_inode(struct passthroughfs *pt, struct fuse_request *request, struct host_inode *inode, bool has_fh, uint64_t fh, struct statx *stat)
{
    struct open_file *file = has_fh ? open_file_get(&pt->files, fh, inode) : NULL;
    struct host_path path;
    int err;

    if (file) {
        err = request->may_block || inode->mount->is_local ? host_stat(file->fd, stat) : -EAGAIN;
        open_file_put(&pt->files, file);
        return err;
    }
    err = inode_path(&pt->inodes, inode, request->may_block, &path);
    if (!err) {
        err = host_stat(path.fd, stat);
        host_path_close(&path);
    }
    return err;
}

int64_t passthroughfs_reply_attr(struct passthroughfs *pt, const struct fuse_request *request, const struct statx *stat)
{
    struct fuse_attr_out out = {
        .attr_valid = pt->options.attr_valid_ns / NS_IN_S,
        .attr_valid_nsec = (uint32_t)(pt->options.attr_valid_ns % NS_IN_S),
    };

    passthroughfs_fill_attr(pt, stat, &out.attr);
    return fuse_reply(request, &out, sizeof(out));
}

int64_t passthroughfs_getattr(struct passthroughfs *pt, struct fuse_request *request, struct host_inode *inode)
{
    const struct fuse_getattr_in *in = (const struct fuse_getattr_in *)request->args;
    struct statx stat;
    int err = stat_inode(pt, request, inode, in->getattr_flags & FUSE_GETATTR_FH, in->fh, &stat);

    return err ? err : passthroughfs_reply_attr(pt, request, &stat);
}

static struct fuse_sx_time sx_time(const struct statx_timestamp *time)
{
    return (struct fuse_sx_time){ .tv_sec = time->tv_sec, .tv_nsec = time->tv_nsec };
}

int64_t passthroughfs_statx(struct passthroughfs *pt, struct fuse_request *request, struct host_inode *inode)
{
    const struct fuse_statx_in *in = (const struct fuse_statx_in *)request->args;
    struct fuse_statx_out out = {
        .attr_valid = pt->options.attr_valid_ns / NS_IN_S,
        .attr_valid_nsec = (uint32_t)(pt->options.attr_valid_ns % NS_IN_S),
    };
    struct fuse_attr attr;
    struct statx stat;
    int err = stat_inode(pt, request, inode, in->getattr_flags & FUSE_GETATTR_FH, in->fh, &stat);

    if (err)
        return err;
    passthroughfs_fill_attr(pt, &stat, &attr);
    out.stat = (struct fuse_statx){
        .mask = stat.stx_mask & (STATX_BASIC_STATS | STATX_BTIME),
        .blksize = stat.stx_blksize,
        .attributes = stat.stx_attributes,
        .attributes_mask = stat.stx_attributes_mask,
        .nlink = stat.stx_nlink,
        .uid = stat.stx_uid,
        .gid = stat.stx_gid,
        .mode = stat.stx_mode,
        .ino = attr.ino,
        .size = stat.stx_size,
        .blocks = stat.stx_blocks,
        .atime = sx_time(&stat.stx_atime),
        .btime = sx_time(&stat.stx_btime),
        .ctime = sx_time(&stat.stx_ctime),
        .mtime = sx_time(&stat.stx_mtime),
        .rdev_major = stat.stx_rdev_major,
        .rdev_minor = stat.stx_rdev_minor,
    };
    return fuse_reply(request, &out, sizeof(out));
}

int64_t passthroughfs_readlink(struct passthroughfs *pt, struct fuse_request *request, struct host_inode *inode)
{
    char target[PATH_MAX];
    struct host_path path;
    ssize_t length;
    int err;

    if (inode->type != S_IFLNK)
        return -EINVAL;
    err = inode_path(&pt->inodes, inode, request->may_block, &path);
    if (err)
        return err;
    length = readlinkat(path.fd, "", target, sizeof(target));
    err = length < 0 ? -errno : 0;
    host_path_close(&path);
    if (err)
        return err;
    return (uint64_t)length > fuse_reply_room(request, sizeof(target)) ? -ENAMETOOLONG : fuse_reply(request, target, (size_t)length);
}

int64_t passthroughfs_statfs(struct passthroughfs *pt, struct fuse_request *request, struct host_inode *inode)
{
    struct fuse_statfs_out out = { 0 };
    struct host_path path;
    struct statfs fs;
    int err = inode_path(&pt->inodes, inode, request->may_block, &path);

    if (err)
        return err;
    err = fstatfs(path.fd, &fs) < 0 ? -errno : 0;
    host_path_close(&path);
    if (err)
        return err;
    out.st = (struct fuse_kstatfs){
        .blocks = fs.f_blocks,
        .bfree = fs.f_bfree,
        .bavail = fs.f_bavail,
        .files = fs.f_files,
        .ffree = fs.f_ffree,
        .bsize = (uint32_t)fs.f_bsize,
        .namelen = (uint32_t)(fs.f_namelen < FUSE_NAME_LIMIT ? fs.f_namelen : FUSE_NAME_LIMIT),
        .frsize = (uint32_t)fs.f_frsize,
    };
    return fuse_reply(request, &out, sizeof(out));
}

/* A Linux driver decides by itself; this answers one that asks. */
int64_t passthroughfs_access(struct passthroughfs *pt, struct fuse_request *request, struct host_inode *inode)
{
    const struct fuse_access_in *in = (const struct fuse_access_in *)request->args;
    struct host_path path;
    int err;

    if (in->mask & ~(uint32_t)(R_OK | W_OK | X_OK))
        return -EINVAL;
    err = inode_path(&pt->inodes, inode, request->may_block, &path);
    if (err)
        return err;
    err = caller_begin(pt->server, request, NULL, 0);
    if (!err) {
        err = syscall(SYS_faccessat2, path.fd, "", in->mask, AT_EACCESS | AT_EMPTY_PATH) < 0 ? -errno : 0;
        caller_end(request);
    }
    host_path_close(&path);
    return err;
}

int passthroughfs_other_inode(struct passthroughfs *pt, uint64_t nodeid, struct host_inode **out)
{
    if (nodeid >> FUSE_ID_BITS != pt->fs.index)
        return -EXDEV;
    *out = inode_get(&pt->inodes, nodeid & FUSE_ID_MASK);
    return *out ? 0 : -ESTALE;
}
