/*
 * The session: INIT negotiates, DESTROY ends it, a second INIT starts anew.
 *
 * What is agreed here holds for every file system of the session, so each flag must be right for
 * all that may be mounted under the profile.
 */
#include <string.h>

#include "fuse_server.h"

#define COMMON_FLAGS                                                                                          \
    (FUSE_ASYNC_READ | FUSE_BIG_WRITES | FUSE_PARALLEL_DIROPS | FUSE_DO_READDIRPLUS | FUSE_READDIRPLUS_AUTO | \
     FUSE_CACHE_SYMLINKS | FUSE_MAX_PAGES | FUSE_INIT_EXT)
/* No handles: a driver that hears ENOSYS to OPEN and OPENDIR keeps its caches by itself. */
#define IMMUTABLE_FLAGS (COMMON_FLAGS | FUSE_EXPORT_SUPPORT | FUSE_NO_OPEN_SUPPORT | FUSE_NO_OPENDIR_SUPPORT | FUSE_HANDLE_KILLPRIV)
/* What is made in a host directory belongs to the caller, by its groups, umask and label. The guest
 * enforces ACLs: without it, a file's mask would stand for its group, who then gets what others were
 * given. To who owns a file that costs nothing; for others the driver asks once for each file. */
#define SHARED_FLAGS                                                                                          \
    (COMMON_FLAGS | FUSE_ATOMIC_O_TRUNC | FUSE_AUTO_INVAL_DATA | FUSE_HANDLE_KILLPRIV_V2 | FUSE_DONT_MASK |   \
     FUSE_ASYNC_DIO | FUSE_SETXATTR_EXT | FUSE_SECURITY_CTX | FUSE_CREATE_SUPP_GROUP | FUSE_POSIX_ACL)

int64_t fuse_init(struct fuse_server *server, struct fuse_request *request)
{
    struct fuse_init_in in = { 0 };
    struct fuse_init_out out = { .major = FUSE_KERNEL_VERSION, .minor = FUSE_OUR_MINOR };
    uint64_t offered = server->profile == FUSE_PROFILE_IMMUTABLE ? IMMUTABLE_FLAGS : SHARED_FLAGS, asked, agreed;

    memcpy(&in, request->args, request->args_size < sizeof(in) ? request->args_size : sizeof(in));
    if (in.major < FUSE_KERNEL_VERSION || (in.major == FUSE_KERNEL_VERSION && in.minor < FUSE_OLDEST_MINOR))
        return -EPROTO;
    if (in.major > FUSE_KERNEL_VERSION) /* the driver asks again, in our version */
        return fuse_reply(request, &out, sizeof(out));

    if (server->profile == FUSE_PROFILE_IMMUTABLE && server->has_xattrs)
        offered |= FUSE_POSIX_ACL; /* the guest enforces the ACLs that the image carries */
    out.minor = in.minor < FUSE_OUR_MINOR ? in.minor : FUSE_OUR_MINOR;
    offered |= __atomic_load_n(&server->wanted_flags, __ATOMIC_RELAXED);
    asked = in.flags | (in.flags & FUSE_INIT_EXT ? (uint64_t)in.flags2 << 32 : 0);
    agreed = asked & offered;
    out.flags = (uint32_t)agreed;
    out.flags2 = (uint32_t)(agreed >> 32);
    out.max_readahead = in.max_readahead;
    out.max_background = 256; /* readahead of many files at once; the driver's default is 12 */
    out.congestion_threshold = 192;
    out.max_write = FUSE_MAX_IO; /* bounds the READs as well */
    out.max_pages = out.flags & FUSE_MAX_PAGES ? FUSE_MAX_IO / 4096 : 0;
    out.time_gran = 1;
    __atomic_store_n(&server->minor, out.minor, __ATOMIC_RELAXED);
    if (__atomic_load_n(&server->has_session, __ATOMIC_ACQUIRE)) /* the guest began anew, and said no farewell */
        fuse_end_session(server, request->context);
    __atomic_store_n(&server->flags, agreed, __ATOMIC_RELAXED);
    __atomic_store_n(&server->has_session, true, __ATOMIC_RELEASE);
    return fuse_reply(request, &out, sizeof(out));
}

int64_t fuse_destroy(struct fuse_server *server, struct fuse_request *request)
{
    __atomic_store_n(&server->has_session, false, __ATOMIC_RELEASE);
    fuse_end_session(server, request->context);
    return 0;
}
