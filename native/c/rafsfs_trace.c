/*
 * Recording the reads of a mount (trace.h), switched on and off while guests read.
 *
 * Off, a read pays one load of a line that it reads anyway. On, whoever uses the log says so first,
 * and who takes it away waits until nobody does.
 */
#include <time.h>

#include "rafsfs.h"

void rafsfs_record(struct rafsfs *rafsfs, const struct fuse_request *request, uint64_t nid, uint64_t file_offset,
                   const struct rafs_extent *extent, bool missed)
{
    struct trace *trace;

    /* Sequentially consistent: our announcement before the second look. Pairs with rafsfs_set_trace:
     * either we see its NULL, or it sees our announcement. */
    __atomic_fetch_add(&rafsfs->trace_users, 1, __ATOMIC_SEQ_CST);
    trace = __atomic_load_n(&rafsfs->trace, __ATOMIC_SEQ_CST);
    if (trace)
        trace_touch(trace, (struct vfs_trace_record){
            .nid = nid,
            .file_offset = file_offset,
            .length = (uint32_t)extent->length, /* at most a READ's */
            .blob_index = extent->blob_index,
            .chunk_index = extent->chunk_index,
            .pid = request->in.pid,
            .uid = request->in.uid,
            .runs = 1,
            .flags = missed ? VFS_TRACE_MISSED : 0,
        });
    __atomic_fetch_sub(&rafsfs->trace_users, 1, __ATOMIC_RELEASE); /* all that we did with it before */
}

int rafsfs_set_trace(struct fuse_fs *fs, struct trace *trace)
{
    const struct timespec pause = { .tv_nsec = 100000 };
    struct rafsfs *rafsfs = rafsfs_of_fs(fs);

    if (!rafsfs)
        return -EINVAL;
    __atomic_store_n(&rafsfs->trace, trace, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(&rafsfs->trace_users, __ATOMIC_SEQ_CST)) /* a few microseconds each */
        nanosleep(&pause, NULL);
    return 0;
}
