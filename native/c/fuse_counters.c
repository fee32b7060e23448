/* Counting operations by mount. See fuse_counters.h; the order of operations is nydusd's. */
#include "fuse_counters.h"

#include <stdlib.h>

#define FIRST(name) (1 + VFS_FOP_##name) /* 0: not counted */

static const uint8_t places[FUSE_OPCODES] = {
    [FUSE_GETATTR] = FIRST(GETATTR),
    [FUSE_STATX] = FIRST(GETATTR),
    [FUSE_READLINK] = FIRST(READLINK),
    [FUSE_OPEN] = FIRST(OPEN),
    [FUSE_RELEASE] = FIRST(RELEASE),
    [FUSE_READ] = FIRST(READ),
    [FUSE_STATFS] = FIRST(STATFS),
    [FUSE_GETXATTR] = FIRST(GETXATTR),
    [FUSE_LISTXATTR] = FIRST(LISTXATTR),
    [FUSE_OPENDIR] = FIRST(OPENDIR),
    [FUSE_LOOKUP] = FIRST(LOOKUP),
    [FUSE_READDIR] = FIRST(READDIR),
    [FUSE_READDIRPLUS] = FIRST(READDIRPLUS),
    [FUSE_ACCESS] = FIRST(ACCESS),
    [FUSE_FORGET] = FIRST(FORGET),
    [FUSE_BATCH_FORGET] = FIRST(BATCH_FORGET),
};

static void add(uint64_t *sum, uint64_t n) { (void)__atomic_fetch_add(sum, n, __ATOMIC_RELAXED); }

static struct vfs_mount_statistics *shard_of(struct fuse_counters *counters, const struct fuse_request *request)
{
    return &counters->shards[request->context->number % FUSE_COUNTER_SHARDS].sums;
}

/* Groups that end below 1, 4, 16, 64, 128, 512 KiB and 1 MiB; the last one is open. */
static unsigned size_group(uint64_t bytes)
{
    static const uint32_t ends[VFS_SIZE_GROUPS - 1] = { 1 << 10, 4 << 10, 16 << 10, 64 << 10, 128 << 10, 512 << 10, 1 << 20 };
    unsigned group = 0;

    while (group < VFS_SIZE_GROUPS - 1 && bytes >= ends[group])
        group++;
    return group;
}

void fuse_count(struct fuse_fs *fs, struct fuse_request *request, int64_t result)
{
    uint8_t place = places[request->in.opcode];
    struct vfs_mount_statistics *sums;

    if (!fs->counters || !place)
        return;
    sums = shard_of(fs->counters, request);
    if (result == FUSE_PARKED) {
        if (!fuse_waits_for_pool(request) && !request->missed && request->in.opcode == FUSE_READ)
            add(&sums->missed_reads, 1);
        request->missed |= !fuse_waits_for_pool(request); /* it is run again, and counted once */
        return;
    }
    add(&sums->hits[place - 1], 1);
    if (result < 0) {
        add(&sums->errors[place - 1], 1);
    } else if (request->in.opcode == FUSE_READ) {
        add(&sums->read_bytes, (uint64_t)result);
        add(&sums->read_sizes[size_group((uint64_t)result)], 1);
    }
}

void fuse_count_forget(struct fuse_fs *fs, const struct fuse_request *request)
{
    if (fs->counters)
        add(&shard_of(fs->counters, request)->hits[places[request->in.opcode] - 1], 1);
}

struct fuse_counters *vfs_counters_new(void) { return calloc(1, sizeof(struct fuse_counters)); }

void vfs_counters_free(struct fuse_counters *counters) { free(counters); }

void vfs_counters_read(const struct fuse_counters *counters, struct vfs_mount_statistics *statistics)
{
    uint64_t *to = (uint64_t *)statistics;

    *statistics = (struct vfs_mount_statistics){ 0 };
    for (unsigned shard = 0; shard < FUSE_COUNTER_SHARDS; shard++) {
        const uint64_t *from = (const uint64_t *)&counters->shards[shard].sums;
        for (size_t i = 0; i < sizeof(*statistics) / sizeof(*to); i++)
            to[i] += __atomic_load_n(&from[i], __ATOMIC_RELAXED);
    }
}
