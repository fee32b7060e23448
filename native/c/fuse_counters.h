/*
 * What is counted of one mounted file system, for the metrics (fuse_counters.c).
 *
 * The memory is the control plane's, which may read it at any time and frees it after the umount.
 * A thread adds to its own shard, so that two queues do not write the same line; the sum is taken
 * by who reads.
 */
#ifndef VHOSTFS_FUSE_COUNTERS_H
#define VHOSTFS_FUSE_COUNTERS_H
#include "dataplane.h"
#include "fuse_server.h"

#define FUSE_COUNTER_SHARDS 8

struct fuse_counters {
    struct {
        struct vfs_mount_statistics sums; /* atomic, each by itself */
        uint8_t apart[64];                /* keeps neighbours off our last line */
    } shards[FUSE_COUNTER_SHARDS];
};

/* `result` as a handler returned it, FUSE_PARKED too. */
void fuse_count(struct fuse_fs *fs, struct fuse_request *request, int64_t result);
void fuse_count_forget(struct fuse_fs *fs, const struct fuse_request *request);
#endif
