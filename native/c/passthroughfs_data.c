/* What else is done to the data of an open file. See passthroughfs.h. */
#include <fcntl.h>
#include <unistd.h>

#include "passthroughfs.h"

/* One COPY_FILE_RANGE. The guest's copy asks again for the rest; a pool thread comes free between. */
#define MAX_COPY (64u << 20)

/* FALLOCATE and COPY_FILE_RANGE change a file as WRITE does, and have no flag to tell that its set-id
 * bits must go; the driver leaves them to us all the same (FUSE_HANDLE_KILLPRIV_V2). Whoever is not
 * root gets what the kernel does for such a one. */
static bool kills_set_id(const struct fuse_request *request) { return request->in.uid != 0; }

int64_t passthroughfs_fsync(struct passthroughfs *pt, struct fuse_request *request, struct host_inode *inode)
{
    const struct fuse_fsync_in *in = (const struct fuse_fsync_in *)request->args;
    struct open_file *file = open_file_get(&pt->files, in->fh, inode);
    int err;

    if (!file)
        return -EBADF;
    err = (in->fsync_flags & FUSE_FSYNC_FDATASYNC ? fdatasync(file->fd) : fsync(file->fd)) < 0 ? -errno : 0;
    open_file_put(&pt->files, file);
    return err;
}

int64_t passthroughfs_fallocate(struct passthroughfs *pt, struct fuse_request *request, struct host_inode *inode)
{
    const struct fuse_fallocate_in *in = (const struct fuse_fallocate_in *)request->args;
    struct open_file *file = open_file_get(&pt->files, in->fh, inode);
    int err;

    if (!file)
        return -EBADF;
    if (in->offset > INT64_MAX || in->length > INT64_MAX || in->mode > INT32_MAX)
        err = -EINVAL;
    else
        err = kills_set_id(request) ? caller_drop_fsetid(-1) : 0;
    if (!err) {
        open_file_changed(file);
        err = fallocate(file->fd, (int)in->mode, (off_t)in->offset, (off_t)in->length) < 0 ? -errno : 0;
        if (kills_set_id(request))
            caller_restore_fsetid(-1);
    }
    open_file_put(&pt->files, file);
    return err;
}

int64_t passthroughfs_lseek(struct passthroughfs *pt, struct fuse_request *request, struct host_inode *inode)
{
    const struct fuse_lseek_in *in = (const struct fuse_lseek_in *)request->args;
    struct fuse_lseek_out out = { 0 };
    struct open_file *file;
    off_t at;
    int err;

    if ((in->whence != SEEK_DATA && in->whence != SEEK_HOLE) || in->offset > INT64_MAX)
        return -EINVAL; /* the driver knows the others */
    file = open_file_get(&pt->files, in->fh, inode);
    if (!file)
        return -EBADF;
    at = lseek(file->fd, (off_t)in->offset, (int)in->whence); /* the position itself is of no meaning */
    err = at < 0 ? -errno : 0;
    open_file_put(&pt->files, file);
    out.offset = (uint64_t)at;
    return err ? err : fuse_reply(request, &out, sizeof(out));
}

/* A count, or a negative errno if nothing was copied. */
static int64_t copy(const struct fuse_request *request, const struct open_file *from, const struct open_file *to,
                    const struct fuse_copy_file_range_in *in)
{
    off_t from_at = (off_t)in->off_in, to_at = (off_t)in->off_out;
    uint64_t wanted = in->len < MAX_COPY ? in->len : MAX_COPY, done = 0;

    while (done < wanted) {
        uint64_t size = to->inode->mount->clones ? wanted - done : fuse_piece(request, wanted - done);
        ssize_t n = copy_file_range(from->fd, &from_at, to->fd, &to_at, size, (unsigned)in->flags);
        if (n < 0 && done == 0)
            return -errno;
        if (n <= 0)
            break; /* the driver asks for the rest, and hears why not */
        done += (uint64_t)n;
    }
    return (int64_t)done;
}

int64_t passthroughfs_copy_file_range(struct passthroughfs *pt, struct fuse_request *request, struct host_inode *inode)
{
    const struct fuse_copy_file_range_in *in = (const struct fuse_copy_file_range_in *)request->args;
    struct open_file *from, *to;
    struct host_inode *other;
    struct fuse_write_out out = { 0 };
    int64_t copied;
    int err;

    if (in->off_in > INT64_MAX || in->off_out > INT64_MAX || in->flags > UINT32_MAX ||
        request->writable_size < sizeof(struct fuse_out_header) + sizeof(out))
        return -EINVAL;
    err = passthroughfs_other_inode(pt, in->nodeid_out, &other);
    if (err)
        return err;
    from = open_file_get(&pt->files, in->fh_in, inode);
    to = open_file_get(&pt->files, in->fh_out, other);
    inode_put(&pt->inodes, other);
    err = !from || !to ? -EBADF : kills_set_id(request) ? caller_drop_fsetid(-1) : 0;
    if (!err) {
        open_file_changed(to);
        copied = copy(request, from, to, in);
        err = copied < 0 ? (int)copied : 0;
        out.size = err ? 0 : (uint32_t)copied;
        if (kills_set_id(request))
            caller_restore_fsetid(-1);
    }
    if (from)
        open_file_put(&pt->files, from);
    if (to)
        open_file_put(&pt->files, to);
    return err ? err : fuse_reply(request, &out, sizeof(out));
}
