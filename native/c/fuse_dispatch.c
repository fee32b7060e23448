/*
 * Opcode to handler, and the reply header.
 *
 * The table is the protocol as we speak it: what is not in it is ENOSYS. An operation that would
 * change the file system answers EROFS, also when its arguments make no sense: the answer is the
 * same for every argument.
 */
#include <string.h>

#include "fuse_server.h"

static int64_t read_only(struct fuse_server *server, struct fuse_request *request) { return -EROFS; }
static int64_t nothing_to_do(struct fuse_server *server, struct fuse_request *request) { return 0; }
static int64_t no_reply(struct fuse_server *server, struct fuse_request *request) { return FUSE_NO_REPLY; }
/* A driver that hears this once does not ask again; the image needs none of these. */
static int64_t not_needed(struct fuse_server *server, struct fuse_request *request) { return -ENOSYS; }

static const struct operation {
    fuse_handler *handler;
    uint16_t args_size; /* of the fixed arguments; fewer bytes are EINVAL */
} operations[] = {
    [FUSE_INIT] = { fuse_init, 16 }, /* the form before 7.36 had no flags2 */
    [FUSE_DESTROY] = { fuse_destroy, 0 },
    [FUSE_LOOKUP] = { fuse_lookup, 1 },
    [FUSE_FORGET] = { no_reply, 0 },
    [FUSE_BATCH_FORGET] = { no_reply, 0 },
    [FUSE_GETATTR] = { fuse_getattr, sizeof(struct fuse_getattr_in) },
    [FUSE_STATX] = { fuse_statx, sizeof(struct fuse_statx_in) },
    [FUSE_READLINK] = { fuse_readlink, 0 },
    [FUSE_OPEN] = { fuse_open, sizeof(struct fuse_open_in) },
    [FUSE_READ] = { fuse_read, sizeof(struct fuse_read_in) },
    [FUSE_RELEASE] = { nothing_to_do, 0 },
    [FUSE_OPENDIR] = { fuse_opendir, sizeof(struct fuse_open_in) },
    [FUSE_READDIR] = { fuse_readdir, sizeof(struct fuse_read_in) },
    [FUSE_READDIRPLUS] = { fuse_readdirplus, sizeof(struct fuse_read_in) },
    [FUSE_RELEASEDIR] = { nothing_to_do, 0 },
    [FUSE_STATFS] = { fuse_statfs, 0 },
    [FUSE_GETXATTR] = { fuse_getxattr, sizeof(struct fuse_getxattr_in) + 1 },
    [FUSE_LISTXATTR] = { fuse_listxattr, sizeof(struct fuse_getxattr_in) },
    [FUSE_ACCESS] = { fuse_access, sizeof(struct fuse_access_in) },
    [FUSE_LSEEK] = { fuse_lseek, sizeof(struct fuse_lseek_in) },
    [FUSE_FLUSH] = { not_needed, 0 },
    [FUSE_INTERRUPT] = { not_needed, 0 },
    [FUSE_FSYNC] = { nothing_to_do, 0 },
    [FUSE_FSYNCDIR] = { nothing_to_do, 0 },
    [FUSE_SYNCFS] = { nothing_to_do, 0 },
    [FUSE_SETATTR] = { read_only, 0 },
    [FUSE_SYMLINK] = { read_only, 0 },
    [FUSE_MKNOD] = { read_only, 0 },
    [FUSE_MKDIR] = { read_only, 0 },
    [FUSE_UNLINK] = { read_only, 0 },
    [FUSE_RMDIR] = { read_only, 0 },
    [FUSE_RENAME] = { read_only, 0 },
    [FUSE_RENAME2] = { read_only, 0 },
    [FUSE_LINK] = { read_only, 0 },
    [FUSE_WRITE] = { read_only, 0 },
    [FUSE_SETXATTR] = { read_only, 0 },
    [FUSE_REMOVEXATTR] = { read_only, 0 },
    [FUSE_CREATE] = { read_only, 0 },
    [51 /* FUSE_TMPFILE, 7.37 */] = { read_only, 0 },
    [FUSE_FALLOCATE] = { read_only, 0 },
    [FUSE_COPY_FILE_RANGE] = { read_only, 0 },
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

static int64_t call(struct fuse_server *server, struct fuse_request *request)
{
    uint32_t opcode = request->in.opcode;
    const struct operation *operation = opcode < sizeof(operations) / sizeof(*operations) ? &operations[opcode] : NULL;

    if (!operation || !operation->handler)
        return -ENOSYS;
    if (request->args_size < operation->args_size)
        return -EINVAL;
    if (opcode != FUSE_INIT && operation->handler != no_reply && !__atomic_load_n(&server->has_session, __ATOMIC_ACQUIRE))
        return -EIO;
    return operation->handler(server, request);
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
