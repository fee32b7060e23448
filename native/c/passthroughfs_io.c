/*
 * READ and WRITE: between guest memory and the file, without a copy of ours.
 *
 * A queue thread reads with RWF_NOWAIT: what is in the page cache comes at once, the rest is
 * -EAGAIN and read again by the pool. It writes so as well where the file system can (not all say
 * so); writing the same bytes once more does no harm, except at the end of a file, so an appending
 * write is left to the pool, and so are all where RWF_NOWAIT is refused; only what lives in memory is
 * read in place without it (to write it takes the inode's lock, which a long fallocate may have).
 *
 * O_APPEND is not a flag of our descriptor: a driver also writes pages of a mapping through any
 * handle that is open for writing, and those have their offset. What the guest appends is written
 * with RWF_APPEND.
 */
#include <limits.h>
#include <sys/uio.h>

#include "passthroughfs.h"

/* A write that is copied to the page cache while the queue waits. */
#define MAX_INLINE_WRITE (128u << 10)

enum direction { READS, WRITES };

/* Whether the call may be made by this thread, and with which flags. */
static bool choose(const struct fuse_request *request, const struct open_file *file, enum direction direction, int *flags)
{
    *flags = 0;
    if (request->may_block || (direction == READS && file->inode->mount->reads_never_block))
        return true;
    if (__atomic_load_n(&file->nowait_unsupported[direction], __ATOMIC_RELAXED))
        return false;
    *flags = RWF_NOWAIT;
    return true;
}

static int64_t failed(struct open_file *file, enum direction direction, int flags)
{
    if (errno == EOPNOTSUPP && (flags & RWF_NOWAIT)) {
        __atomic_store_n(&file->nowait_unsupported[direction], true, __ATOMIC_RELAXED);
        return -EAGAIN;
    }
    return errno == EFAULT ? -EIO : -errno; /* EFAULT: the guest's memory went away */
}

static int64_t read_file(struct fuse_request *request, struct open_file *file, uint64_t offset, uint64_t size)
{
    uint64_t done = 0;
    int flags;

    if (!choose(request, file, READS, &flags))
        return -EAGAIN;
    while (done < size) {
        uint32_t count = fuse_iov_slice(request->writable, request->writable_count, sizeof(struct fuse_out_header) + done,
                                        fuse_piece(request, size - done), request->scratch);
        ssize_t n = preadv2(file->fd, request->scratch, (int)(count < IOV_MAX ? count : IOV_MAX), (off_t)(offset + done), flags);
        if (n == 0)
            break;
        if (n > 0)
            done += (uint64_t)n;
        else if (errno != EINTR)
            return failed(file, READS, flags);
    }
    return (int64_t)done;
}

int64_t passthroughfs_read(struct passthroughfs *pt, struct fuse_request *request, struct host_inode *inode)
{
    const struct fuse_read_in *in = (const struct fuse_read_in *)request->args;
    struct open_file *file = open_file_get(&pt->files, in->fh, inode);
    int64_t result;

    if (!file)
        return -EBADF;
    if (in->offset > INT64_MAX - FUSE_MAX_IO || request->writable_size < sizeof(struct fuse_out_header))
        result = -EINVAL;
    else
        result = read_file(request, file, in->offset, fuse_reply_room(request, in->size < FUSE_MAX_IO ? in->size : FUSE_MAX_IO));
    open_file_put(&pt->files, file);
    return result;
}

/* Writes what the request carries behind its arguments. A count, or a negative errno if nothing was. What
 * is appended goes in one piece: another writer's must not come in between. */
static int64_t write_file(struct fuse_request *request, struct open_file *file, const struct fuse_write_in *in, int flags)
{
    uint64_t done = 0;

    while (done < in->size) {
        uint64_t left = in->size - done;
        uint32_t count = fuse_iov_slice(request->readable, request->readable_count, sizeof(request->in) + sizeof(*in) + done,
                                        flags & RWF_APPEND ? left : fuse_piece(request, left), request->scratch);
        ssize_t n = pwritev2(file->fd, request->scratch, (int)(count < IOV_MAX ? count : IOV_MAX), (off_t)(in->offset + done), flags);
        if (n == 0)
            break;
        if (n > 0)
            done += (uint64_t)n;
        else if (errno == EINTR)
            continue;
        else if (done == 0 || (flags & RWF_NOWAIT)) /* the pool writes all of it again */
            return failed(file, WRITES, flags);
        else
            break; /* the driver asks for the rest, and hears why not */
    }
    return (int64_t)done;
}

static int64_t write_as_asked(struct fuse_request *request, struct open_file *file, const struct fuse_write_in *in)
{
    bool appends = file->appends && !(in->write_flags & FUSE_WRITE_CACHE), kills = in->write_flags & FUSE_WRITE_KILL_SUIDGID;
    int64_t result;
    int flags;

    if (!request->may_block && (appends || kills || file->is_synchronous || in->size > MAX_INLINE_WRITE))
        return -EAGAIN;
    if (!choose(request, file, WRITES, &flags))
        return -EAGAIN;
    result = kills ? caller_drop_fsetid(-1) : 0;
    if (result)
        return result;
    open_file_changed(file);
    result = write_file(request, file, in, flags | (appends ? RWF_APPEND : 0));
    if (kills)
        caller_restore_fsetid(-1);
    return result;
}

int64_t passthroughfs_write(struct passthroughfs *pt, struct fuse_request *request, struct host_inode *inode)
{
    const struct fuse_write_in *in = (const struct fuse_write_in *)request->args;
    struct open_file *file = open_file_get(&pt->files, in->fh, inode);
    struct fuse_write_out out = { 0 };
    int64_t result;

    if (!file)
        return -EBADF;
    if (in->size > FUSE_MAX_IO || in->size > request->in.len - sizeof(request->in) - sizeof(*in) || in->offset > INT64_MAX - FUSE_MAX_IO)
        result = -EINVAL;
    else if (!file->is_writable)
        result = -EBADF;
    else if (request->writable_size < sizeof(struct fuse_out_header) + sizeof(out))
        result = -EINVAL; /* before anything is written */
    else
        result = write_as_asked(request, file, in);
    open_file_put(&pt->files, file);
    if (result < 0)
        return result;
    out.size = (uint32_t)result;
    return fuse_reply(request, &out, sizeof(out));
}
