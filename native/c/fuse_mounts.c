/*
 * Which file system a node id belongs to, and how one goes away under I/O without a lock.
 *
 * A thread that handles a request announces the file system in its context before it uses it, and
 * looks once more whether it is still mounted (a hazard pointer). Whoever takes one off the table
 * waits until no context announces it, and then frees it. A request pays one fence; two queues
 * share no line that either writes.
 *
 * Indexes are handed out in turn: a guest may hold node ids of a file system that is gone, and must
 * not find another one behind them. 65,535 mounts pass before an index comes again.
 */
#include <stdlib.h>
#include <time.h>

#include "barrier.h"
#include "fuse_server.h"

int fuse_mounts_init(struct fuse_server *server)
{
    server->mounts = calloc(FUSE_MAX_MOUNTS, sizeof(*server->mounts)); /* touched only where used */
    return server->mounts ? 0 : -ENOMEM;
}

void fuse_mounts_destroy(struct fuse_server *server)
{
    for (unsigned i = 0; server->mounts && i < FUSE_MAX_MOUNTS; i++) {
        if (server->mounts[i])
            server->mounts[i]->type->free(server->mounts[i]);
    }
    free(server->mounts);
    server->mounts = NULL;
}

void fuse_add_context(struct fuse_server *server, struct fuse_context *context)
{
    context->number = server->context_count;
    server->contexts[server->context_count++] = context;
}

void fuse_remove_context(struct fuse_server *server, struct fuse_context *context)
{
    unsigned last = server->context_count - 1;

    for (unsigned i = 0; i <= last; i++) {
        if (server->contexts[i] == context) {
            server->contexts[i] = server->contexts[last];
            server->context_count = last;
            return;
        }
    }
}

struct fuse_fs *fuse_enter(struct fuse_server *server, struct fuse_context *context, uint64_t nodeid)
{
    struct fuse_fs **mounted = &server->mounts[nodeid >> FUSE_ID_BITS];
    struct fuse_fs *fs = __atomic_load_n(mounted, __ATOMIC_ACQUIRE), *again;

    while (fs) {
        __atomic_store_n(&context->in_use, fs, __ATOMIC_RELAXED);
        full_fence(); /* our announcement before the second look; pairs with the one in retire() */
        again = __atomic_load_n(mounted, __ATOMIC_ACQUIRE);
        if (again == fs)
            return fs;
        fs = again;
    }
    fuse_leave(context);
    return NULL;
}

void fuse_leave(struct fuse_context *context)
{
    __atomic_store_n(&context->in_use, NULL, __ATOMIC_RELEASE); /* all that we did with it before */
}

static bool is_in_use(const struct fuse_server *server, const struct fuse_fs *fs)
{
    for (unsigned i = 0; i < server->context_count; i++) {
        if (__atomic_load_n(&server->contexts[i]->in_use, __ATOMIC_ACQUIRE) == fs)
            return true;
    }
    return false;
}

/* `fs` is off the table: frees it when the last request that found it there is through. */
static void retire(struct fuse_server *server, struct fuse_fs *fs)
{
    const struct timespec pause = { .tv_nsec = 100000 };

    full_fence(); /* the table before the look at the contexts */
    while (is_in_use(server, fs))
        nanosleep(&pause, NULL);
    fs->type->free(fs);
}

void fuse_replace(struct fuse_server *server, uint16_t index, struct fuse_fs *fs)
{
    struct fuse_fs *before = server->mounts[index];

    if (fs)
        fs->index = index;
    __atomic_store_n(&server->mounts[index], fs, __ATOMIC_RELEASE);
    if (before)
        retire(server, before);
}

int fuse_free_index(struct fuse_server *server, uint16_t *index)
{
    uint16_t at = server->last_index;

    do {
        at = at + 1 < FUSE_MAX_MOUNTS - 1 ? at + 1 : 1;
        if (!server->mounts[at]) {
            server->last_index = *index = at;
            return 0;
        }
    } while (at != server->last_index);
    return -ENOSPC;
}

/* Both look at every index (half a megabyte of pointers), and leave what `context` had announced. */
int fuse_sync_all(struct fuse_server *server, struct fuse_context *context)
{
    int err = 0;

    for (unsigned index = 0; index < FUSE_MAX_MOUNTS; index++) {
        struct fuse_fs *fs = fuse_enter(server, context, (uint64_t)index << FUSE_ID_BITS);
        int failed = fs && fs->type->sync ? fs->type->sync(fs) : 0;
        err = err ? err : failed;
    }
    fuse_leave(context);
    return err;
}

void fuse_end_session(struct fuse_server *server, struct fuse_context *context)
{
    for (unsigned index = 0; index < FUSE_MAX_MOUNTS; index++) {
        struct fuse_fs *fs = context ? fuse_enter(server, context, (uint64_t)index << FUSE_ID_BITS) : server->mounts[index];
        if (fs && fs->type->end_session)
            fs->type->end_session(fs);
    }
    if (context)
        fuse_leave(context);
}
