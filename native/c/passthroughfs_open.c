/* Files and directories are opened, made and opened, and closed. See passthroughfs.h. */
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "passthroughfs.h"

#ifndef FOPEN_PARALLEL_DIRECT_WRITES
#define FOPEN_PARALLEL_DIRECT_WRITES (1 << 6)
#endif

/* Of the guest's flags, those that mean something to us. O_DIRECT stays with the guest (its memory
 * need not be aligned as our disk wants), and so does O_APPEND: see passthroughfs_io.c. */
#define HONOURED_FLAGS (O_ACCMODE | O_TRUNC | O_DSYNC | O_SYNC | O_NOATIME)

static bool is_writeback(const struct passthroughfs *pt) { return pt->server->flags & FUSE_WRITEBACK_CACHE; }

/* A guest that gathers writes reads pages that it will write in part, and knows the end of the file. */
static int host_flags(const struct passthroughfs *pt, uint32_t flags)
{
    int wanted = (int)(flags & HONOURED_FLAGS);

    if (is_writeback(pt) && (wanted & O_ACCMODE) == O_WRONLY)
        wanted = (wanted & ~O_ACCMODE) | O_RDWR;
    return wanted;
}

static uint32_t reply_flags(const struct passthroughfs *pt, bool is_directory)
{
    switch (pt->options.cache) {
    case VFS_CACHE_NEVER:
        return is_directory ? 0 : FOPEN_DIRECT_IO | (pt->server->minor >= 38 ? FOPEN_PARALLEL_DIRECT_WRITES : 0);
    case VFS_CACHE_ALWAYS:
        return FOPEN_KEEP_CACHE | (is_directory ? FOPEN_CACHE_DIR : 0);
    default:
        return 0;
    }
}

/* Hands a descriptor to the guest. Takes it over, whatever it returns. */
static int give(struct passthroughfs *pt, struct host_inode *inode, int fd, uint32_t flags, struct fuse_open_out *out)
{
    bool is_directory = inode->type == S_IFDIR;
    int kept = host_flags(pt, flags) | (is_writeback(pt) ? 0 : (int)flags & O_APPEND);

    *out = (struct fuse_open_out){ .open_flags = reply_flags(pt, is_directory) };
    return open_file_add(&pt->files, inode, fd, kept, &out->fh);
}

static int64_t reply_open(struct passthroughfs *pt, struct fuse_request *request, struct host_inode *inode, int fd, uint32_t flags)
{
    struct fuse_open_out out;
    struct open_file *file;
    int64_t result = give(pt, inode, fd, flags, &out);

    if (!result)
        result = fuse_reply(request, &out, sizeof(out));
    else
        return result;
    if (result < 0) {
        file = open_file_remove(&pt->files, out.fh);
        if (file)
            open_file_put(&pt->files, file);
    }
    return result;
}

/* Opens a known inode as OPEN and CREATE want it. */
static int open_known(struct passthroughfs *pt, struct host_inode *inode, uint32_t flags, uint32_t open_flags, bool may_block)
{
    bool kills = (flags & O_TRUNC) && (open_flags & FUSE_OPEN_KILL_SUIDGID);
    /* O_NONBLOCK: a queue thread does not wait for a lease to be broken. A file takes no notice after. */
    int wanted = host_flags(pt, flags) | (may_block ? 0 : O_NONBLOCK), fd;
    int err = kills ? caller_drop_fsetid(-1) : 0;

    if (err)
        return err;
    fd = inode_open(&pt->inodes, inode, wanted, may_block);
    if (kills)
        caller_restore_fsetid(-1);
    return fd;
}

int64_t passthroughfs_open(struct passthroughfs *pt, struct fuse_request *request, struct host_inode *inode)
{
    const struct fuse_open_in *in = (const struct fuse_open_in *)request->args;
    bool writes;
    int fd;

    if (inode->type == S_IFDIR)
        return -EISDIR;
    writes = (in->flags & O_ACCMODE) != O_RDONLY;
    if (!request->may_block && ((in->flags & O_TRUNC) || (writes && inode->mount->copies_at_open)))
        return -EAGAIN;
    fd = open_known(pt, inode, in->flags, in->open_flags, request->may_block);
    return fd < 0 ? fd : reply_open(pt, request, inode, fd, in->flags);
}

int64_t passthroughfs_opendir(struct passthroughfs *pt, struct fuse_request *request, struct host_inode *inode)
{
    int fd = inode_open(&pt->inodes, inode, O_RDONLY | O_DIRECTORY, request->may_block);

    if (fd == -ENXIO || fd == -ELOOP)
        return -ENOTDIR;
    return fd < 0 ? fd : reply_open(pt, request, inode, fd, O_RDONLY);
}

/* Replies an entry and an open file; the reference to `inode` and `fd` are given up here. */
static int64_t reply_created(struct passthroughfs *pt, struct fuse_request *request, struct host_inode *inode,
                             const struct fuse_entry_out *entry, int fd, uint32_t flags)
{
    struct {
        struct fuse_entry_out entry;
        struct fuse_open_out open;
    } out = { .entry = *entry };
    struct open_file *file;
    int64_t result = give(pt, inode, fd, flags, &out.open);

    if (!result) {
        result = fuse_reply(request, &out, sizeof(out));
        file = result < 0 ? open_file_remove(&pt->files, out.open.fh) : NULL;
        if (file)
            open_file_put(&pt->files, file);
    }
    if (result < 0)
        inode_forget(&pt->inodes, inode->id, 1);
    inode_put(&pt->inodes, inode);
    return result;
}

/* The name is there already: as LOOKUP and OPEN together. */
static int64_t open_existing(struct passthroughfs *pt, struct fuse_request *request, struct host_inode *parent, const char *name, int parent_fd)
{
    const struct fuse_create_in *in = (const struct fuse_create_in *)request->args;
    struct fuse_entry_out entry;
    struct host_inode *inode;
    int err, fd = host_open_child(parent_fd, name, O_PATH, true);

    if (fd < 0)
        return fd;
    err = passthroughfs_describe(pt, request, parent, name, fd, &inode, &entry);
    close(fd);
    if (err)
        return err;
    fd = inode->type == S_IFDIR ? -EISDIR : open_known(pt, inode, in->flags, in->open_flags, true);
    if (fd >= 0)
        return reply_created(pt, request, inode, &entry, fd, in->flags);
    inode_forget(&pt->inodes, inode->id, 1);
    inode_put(&pt->inodes, inode);
    return fd;
}

/* CREATE and TMPFILE: a new file in `parent_fd`, under `name` or none (O_TMPFILE). */
static int64_t make(struct passthroughfs *pt, struct fuse_request *request, struct host_inode *parent, const char *name,
                    int parent_fd, int how, const struct caller_extensions *extensions)
{
    const struct fuse_create_in *in = (const struct fuse_create_in *)request->args;
    struct fuse_entry_out entry;
    struct host_inode *inode;
    int fd, err = caller_begin(pt->server, request, extensions, in->umask);

    if (err)
        return err;
    fd = openat(parent_fd, name, (host_flags(pt, in->flags) & ~O_TRUNC) | how | O_NOFOLLOW | O_CLOEXEC, in->mode & 07777);
    err = fd < 0 ? -errno : 0;
    caller_end(request);
    if (err)
        return err;
    err = passthroughfs_label(pt, fd, extensions);
    if (!err)
        err = passthroughfs_describe(pt, request, parent, name, fd, &inode, &entry);
    if (!err)
        return reply_created(pt, request, inode, &entry, fd, in->flags);
    close(fd);
    if (how & O_CREAT) /* the guest hears that there is none */
        unlinkat(parent_fd, name, 0);
    return err;
}

int64_t passthroughfs_create(struct passthroughfs *pt, struct fuse_request *request, struct host_inode *inode)
{
    const struct fuse_create_in *in = (const struct fuse_create_in *)request->args;
    uint32_t at = sizeof(*in);
    struct caller_extensions extensions;
    struct host_path path;
    const char *name;
    int64_t result = passthroughfs_name(request, &at, &name);

    if (!result)
        result = caller_parse_extensions(pt->server, request, at, &extensions);
    if (!result)
        result = inode_path(&pt->inodes, inode, true, &path);
    if (result)
        return result;
    /* Exclusively first: what is there already may be a device or a pipe, which we never open. */
    result = make(pt, request, inode, name, path.fd, O_CREAT | O_EXCL, &extensions);
    if (result == -EEXIST && !(in->flags & O_EXCL))
        result = open_existing(pt, request, inode, name, path.fd);
    host_path_close(&path);
    return result;
}

int64_t passthroughfs_tmpfile(struct passthroughfs *pt, struct fuse_request *request, struct host_inode *inode)
{
    const struct fuse_create_in *in = (const struct fuse_create_in *)request->args;
    uint32_t at = sizeof(*in);
    struct caller_extensions extensions;
    struct host_path path;
    int64_t result;

    at += (uint32_t)strnlen((const char *)request->args + at, request->args_size - at) + 1; /* a name of no meaning */
    if (at > request->args_size)
        return -EINVAL;
    result = caller_parse_extensions(pt->server, request, at, &extensions);
    if (!result)
        result = inode_path(&pt->inodes, inode, true, &path);
    if (result)
        return result;
    result = make(pt, request, inode, ".", path.fd, O_TMPFILE | ((int)in->flags & O_EXCL), &extensions);
    host_path_close(&path);
    return result == -EISDIR ? -EOPNOTSUPP : result; /* a file system without it takes "." for a file to open */
}

/* Closing the last descriptor of a deleted file deletes it, of a written one may start to write it. */
static bool close_may_block(const struct open_file *file)
{
    struct statx stat;

    return __atomic_load_n(&file->was_changed, __ATOMIC_RELAXED) || host_stat(file->fd, &stat) < 0 || stat.stx_nlink == 0;
}

int64_t passthroughfs_release(struct passthroughfs *pt, struct fuse_request *request, struct host_inode *inode)
{
    const struct fuse_release_in *in = (const struct fuse_release_in *)request->args;
    struct open_file *file = open_file_get(&pt->files, in->fh, NULL);
    bool now, is_local;

    if (!file)
        return -EBADF;
    is_local = file->inode->mount->is_local;
    now = is_local ? request->may_block || !close_may_block(file) : passthroughfs_may_wait_for_others(request);
    open_file_put(&pt->files, file);
    if (!now)
        return is_local ? -EAGAIN : -EREMOTE;
    file = open_file_remove(&pt->files, in->fh);
    if (file) /* else it was released twice at once */
        open_file_put(&pt->files, file);
    return 0;
}

/* One descriptor of the guest's was closed, of however many share the file. */
int64_t passthroughfs_flush(struct passthroughfs *pt, struct fuse_request *request, struct host_inode *inode)
{
    const struct fuse_flush_in *in = (const struct fuse_flush_in *)request->args;
    struct open_file *file = open_file_get(&pt->files, in->fh, inode);
    int err = 0;

    if (!file)
        return -EBADF;
    if (file->is_writable && !inode->mount->is_local) {
        /* A network file system says here whether the data arrived. */
        int copy = request->may_block ? fcntl(file->fd, F_DUPFD_CLOEXEC, 0) : -1;
        err = !request->may_block ? -EAGAIN : copy < 0 || close(copy) < 0 ? -errno : 0;
    }
    if (err != -EAGAIN)
        lock_table_release(&pt->locks, inode->id, in->lock_owner);
    open_file_put(&pt->files, file);
    return err;
}
