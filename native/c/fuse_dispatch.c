/*
 * Opcode to handler, and the reply header.
 *
 * The session's own operations are answered here and in fuse_init.c; all others belong to the file
 * system that the node id names. What nobody handles is ENOSYS.
 */
#include <string.h>

#include "fuse_counters.h"
#include "fuse_server.h"

int64_t fuse_read_only(struct fuse_server *server, struct fuse_request *request) { return -EROFS; }
int64_t fuse_nothing_to_do(struct fuse_server *server, struct fuse_request *request) { return 0; }
int64_t fuse_no_attribute(struct fuse_server *server, struct fuse_request *request) { return -ENODATA; }
int64_t fuse_no_locks(struct fuse_server *server, struct fuse_request *request) { return -EOPNOTSUPP; }
int64_t fuse_no_ioctl(struct fuse_server *server, struct fuse_request *request) { return -ENOTTY; }

/* The fixed arguments of each operation; fewer bytes are EINVAL. Names count one byte, their NUL. */
static const uint16_t args_sizes[FUSE_OPCODES] = {
    [FUSE_INIT] = 16, /* the form before 7.36 had no flags2 */
    [FUSE_LOOKUP] = 1,
    [FUSE_FORGET] = sizeof(struct fuse_forget_in),
    [FUSE_BATCH_FORGET] = sizeof(struct fuse_batch_forget_in),
    [FUSE_GETATTR] = sizeof(struct fuse_getattr_in),
    [FUSE_STATX] = sizeof(struct fuse_statx_in),
    [FUSE_SETATTR] = sizeof(struct fuse_setattr_in),
    [FUSE_SYMLINK] = 2,
    [FUSE_MKNOD] = sizeof(struct fuse_mknod_in) + 1,
    [FUSE_MKDIR] = sizeof(struct fuse_mkdir_in) + 1,
    [FUSE_UNLINK] = 1,
    [FUSE_RMDIR] = 1,
    [FUSE_RENAME] = sizeof(struct fuse_rename_in) + 2,
    [FUSE_RENAME2] = sizeof(struct fuse_rename2_in) + 2,
    [FUSE_LINK] = sizeof(struct fuse_link_in) + 1,
    [FUSE_OPEN] = sizeof(struct fuse_open_in),
    [FUSE_OPENDIR] = sizeof(struct fuse_open_in),
    [FUSE_CREATE] = sizeof(struct fuse_create_in) + 1,
    [FUSE_TMPFILE] = sizeof(struct fuse_create_in) + 1,
    [FUSE_READ] = sizeof(struct fuse_read_in),
    [FUSE_READDIR] = sizeof(struct fuse_read_in),
    [FUSE_READDIRPLUS] = sizeof(struct fuse_read_in),
    [FUSE_WRITE] = sizeof(struct fuse_write_in),
    [FUSE_RELEASE] = sizeof(struct fuse_release_in),
    [FUSE_RELEASEDIR] = sizeof(struct fuse_release_in),
    [FUSE_FSYNC] = sizeof(struct fuse_fsync_in),
    [FUSE_FSYNCDIR] = sizeof(struct fuse_fsync_in),
    [FUSE_SETXATTR] = FUSE_COMPAT_SETXATTR_IN_SIZE + 1,
    [FUSE_GETXATTR] = sizeof(struct fuse_getxattr_in) + 1,
    [FUSE_LISTXATTR] = sizeof(struct fuse_getxattr_in),
    [FUSE_REMOVEXATTR] = 1,
    [FUSE_FLUSH] = sizeof(struct fuse_flush_in),
    [FUSE_ACCESS] = sizeof(struct fuse_access_in),
    [FUSE_FALLOCATE] = sizeof(struct fuse_fallocate_in),
    [FUSE_LSEEK] = sizeof(struct fuse_lseek_in),
    [FUSE_COPY_FILE_RANGE] = sizeof(struct fuse_copy_file_range_in),
    [FUSE_GETLK] = sizeof(struct fuse_lk_in),
    [FUSE_SETLK] = sizeof(struct fuse_lk_in),
    [FUSE_SETLKW] = sizeof(struct fuse_lk_in),
    [FUSE_IOCTL] = sizeof(struct fuse_ioctl_in),
    [FUSE_SYNCFS] = sizeof(struct fuse_syncfs_in),
};

/* Stores the header last, so that a driver that sees it sees the whole reply. */
static int64_t reply(const struct fuse_request *request, int error, uint64_t payload)
{
    struct fuse_out_header out = { .len = (uint32_t)(sizeof(out) + payload), .error = error, .unique = request->in.unique };

    if (request->writable_size < sizeof(out))
        return 0; /* the driver left no room even for that: the chain goes back empty */
    fuse_iov_write(request->writable, request->writable_count, 0, &out, sizeof(out));
    return out.len;
}

int64_t fuse_reply_error(const struct fuse_request *request, int error) { return reply(request, error, 0); }

int64_t fuse_give_up(struct fuse_server *server, struct fuse_request *request, int error)
{
    struct fuse_fs *fs = fuse_enter(server, request->context, request->in.nodeid);

    if (fs)
        fuse_count(fs, request, error);
    fuse_leave(request->context);
    return reply(request, error, 0);
}

static void forget_one(struct fuse_server *server, struct fuse_request *request, uint64_t nodeid, uint64_t nlookup)
{
    struct fuse_fs *fs = fuse_enter(server, request->context, nodeid);

    if (fs)
        fuse_count_forget(fs, request);
    if (fs && fs->type->forget && (nodeid & FUSE_ID_MASK) != FUSE_ROOT_ID)
        fs->type->forget(fs, nodeid & FUSE_ID_MASK, nlookup);
    fuse_leave(request->context);
}

/* FORGET and BATCH_FORGET: no reply, also when they make no sense, and no error for what is gone. */
static int64_t forget(struct fuse_server *server, struct fuse_request *request)
{
    if (request->in.opcode == FUSE_FORGET) {
        const struct fuse_forget_in *in = (const struct fuse_forget_in *)request->args;
        if (request->args_size >= sizeof(*in))
            forget_one(server, request, request->in.nodeid, in->nlookup);
        return FUSE_NO_REPLY;
    }
    const struct fuse_batch_forget_in *batch = (const struct fuse_batch_forget_in *)request->args;
    if (request->args_size < sizeof(*batch))
        return FUSE_NO_REPLY;
    for (uint64_t i = 0; i < batch->count; i++) { /* the list may be longer than what was copied */
        struct fuse_forget_one one;
        uint64_t at = sizeof(request->in) + sizeof(*batch) + i * sizeof(one);
        if (at + sizeof(one) > request->in.len ||
            fuse_iov_read(request->readable, request->readable_count, at, &one, sizeof(one)) < sizeof(one))
            break;
        forget_one(server, request, one.nodeid, one.nlookup);
    }
    return FUSE_NO_REPLY;
}

static int64_t call_fs(struct fuse_server *server, struct fuse_request *request)
{
    struct fuse_fs *fs = fuse_enter(server, request->context, request->in.nodeid);
    fuse_handler *handler;
    int64_t result;

    if (!fs)
        return -ESTALE; /* it was unmounted, and the guest remembers */
    handler = fs->type->handlers[request->in.opcode];
    request->fs = fs;
    request->id = request->in.nodeid & FUSE_ID_MASK;
    if (!handler)
        result = -ENOSYS;
    else if (request->args_size < args_sizes[request->in.opcode] && handler != fuse_read_only)
        result = -EINVAL; /* where nothing can be changed, that is the answer to any arguments */
    else
        result = handler(server, request);
    if (request->context->in_use == fs) /* pseudo directories let go of themselves to describe a mount */
        fuse_count(fs, request, result);
    fuse_leave(request->context);
    return result;
}

static int64_t call(struct fuse_server *server, struct fuse_request *request)
{
    uint32_t opcode = request->in.opcode;

    if (opcode == FUSE_FORGET || opcode == FUSE_BATCH_FORGET)
        return forget(server, request);
    if (opcode == 0 || opcode >= FUSE_OPCODES)
        return -ENOSYS;
    if (opcode == FUSE_INIT)
        return request->args_size < args_sizes[opcode] ? -EINVAL : fuse_init(server, request);
    if (!__atomic_load_n(&server->has_session, __ATOMIC_ACQUIRE))
        return -EIO;
    if (opcode == FUSE_DESTROY)
        return fuse_destroy(server, request);
    if (opcode == FUSE_INTERRUPT)
        return -ENOSYS; /* the driver then stops asking: what waits has a deadline */
    return call_fs(server, request);
}

int64_t fuse_handle(struct fuse_server *server, struct fuse_request *request)
{
    int64_t result = call(server, request);

    if (result == FUSE_PARKED)
        return result;
    if (result == FUSE_NO_REPLY)
        return 0;
    return result < 0 ? reply(request, (int)result, 0) : reply(request, 0, (uint64_t)result);
}
