/* GETXATTR and LISTXATTR: with size 0 the driver asks how much room it needs. */
#include <string.h>

#include "rafsfs.h"

int64_t rafsfs_getxattr(struct fuse_server *server, struct fuse_request *request)
{
    const struct rafsfs *rafsfs = rafsfs_of(request);
    const struct fuse_getxattr_in *in = (const struct fuse_getxattr_in *)request->args;
    const char *name = (const char *)(in + 1);
    size_t room = request->args_size - sizeof(*in), length = strnlen(name, room);
    struct fuse_getxattr_out out = { 0 };
    struct rafs_xattr xattr;
    struct rafs_inode inode;
    int err;

    if (length == 0 || length == room)
        return -EINVAL;
    err = rafsfs_inode(rafsfs, request->id, &inode);
    if (!err)
        err = rafs_xattr_find(rafsfs->image, &inode, name, length, &xattr);
    if (err)
        return err;
    out.size = xattr.value_size;
    if (in->size == 0)
        return fuse_reply(request, &out, sizeof(out));
    return in->size < out.size ? -ERANGE : fuse_reply(request, xattr.value, out.size);
}

int64_t rafsfs_listxattr(struct fuse_server *server, struct fuse_request *request)
{
    const struct rafsfs *rafsfs = rafsfs_of(request);
    const struct fuse_getxattr_in *in = (const struct fuse_getxattr_in *)request->args;
    uint64_t at = sizeof(struct fuse_out_header), room = at + in->size;
    struct fuse_getxattr_out out = { 0 };
    struct rafs_xattr xattr;
    struct rafs_inode inode;
    uint32_t offset = 0;
    int got = rafsfs_inode(rafsfs, request->id, &inode);

    if (got)
        return got;
    room = room < request->writable_size ? room : request->writable_size;
    while ((got = rafs_xattr_entry(rafsfs->image, &inode, offset, &xattr, &offset)) > 0) {
        size_t prefix = strlen(xattr.prefix), length = prefix + xattr.suffix_length + 1;
        out.size += (uint32_t)length;
        if (in->size == 0)
            continue;
        if (at + length > room)
            return -ERANGE;
        fuse_iov_write(request->writable, request->writable_count, at, xattr.prefix, prefix);
        fuse_iov_write(request->writable, request->writable_count, at + prefix, xattr.suffix, xattr.suffix_length);
        fuse_iov_zero(request->writable, request->writable_count, at + length - 1, 1);
        at += length;
    }
    if (got < 0)
        return got;
    return in->size == 0 ? fuse_reply(request, &out, sizeof(out)) : (int64_t)out.size;
}
