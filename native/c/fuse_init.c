/* The session: INIT negotiates, DESTROY ends it, a second INIT starts anew. */
#include <string.h>

#include "fuse_server.h"

/* FOPEN_* need no bits here: with NO_OPEN and NO_OPENDIR the driver keeps its caches by itself. */
#define OFFERED_FLAGS                                                                                            \
    (FUSE_ASYNC_READ | FUSE_EXPORT_SUPPORT | FUSE_BIG_WRITES | FUSE_HANDLE_KILLPRIV | FUSE_PARALLEL_DIROPS |      \
     FUSE_DO_READDIRPLUS | FUSE_READDIRPLUS_AUTO | FUSE_CACHE_SYMLINKS | FUSE_NO_OPEN_SUPPORT |                  \
     FUSE_NO_OPENDIR_SUPPORT | FUSE_MAX_PAGES | FUSE_INIT_EXT)

int64_t fuse_init(struct fuse_server *server, struct fuse_request *request)
{
    struct fuse_init_in in = { 0 };
    struct fuse_init_out out = { .major = FUSE_KERNEL_VERSION, .minor = FUSE_OUR_MINOR };
    uint32_t offered = OFFERED_FLAGS;

    memcpy(&in, request->args, request->args_size < sizeof(in) ? request->args_size : sizeof(in));
    if (in.major < FUSE_KERNEL_VERSION || (in.major == FUSE_KERNEL_VERSION && in.minor < FUSE_OLDEST_MINOR))
        return -EPROTO;
    if (in.major > FUSE_KERNEL_VERSION) /* the driver asks again, in our version */
        return fuse_reply(request, &out, sizeof(out));

    if (server->image && (server->image->flags & RAFS_FLAG_HAS_XATTR))
        offered |= FUSE_POSIX_ACL; /* so that the guest enforces the ACLs that the image carries */
    out.minor = in.minor < FUSE_OUR_MINOR ? in.minor : FUSE_OUR_MINOR;
    out.flags = in.flags & offered;
    out.max_readahead = in.max_readahead;
    out.max_background = 256; /* readahead of many files at once; the driver's default is 12 */
    out.congestion_threshold = 192;
    out.max_write = FUSE_MAX_READ; /* bounds the READs as well */
    out.max_pages = out.flags & FUSE_MAX_PAGES ? FUSE_MAX_READ / 4096 : 0;
    out.time_gran = 1;
    __atomic_store_n(&server->no_open, !!(out.flags & FUSE_NO_OPEN_SUPPORT), __ATOMIC_RELAXED);
    __atomic_store_n(&server->no_opendir, !!(out.flags & FUSE_NO_OPENDIR_SUPPORT), __ATOMIC_RELAXED);
    __atomic_store_n(&server->has_session, true, __ATOMIC_RELEASE);
    return fuse_reply(request, &out, sizeof(out));
}

int64_t fuse_destroy(struct fuse_server *server, struct fuse_request *request)
{
    __atomic_store_n(&server->has_session, false, __ATOMIC_RELEASE);
    return 0;
}
