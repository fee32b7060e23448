/*
 * A few threads for work that would block a queue thread, such as reads of cached chunks that are
 * on disk and not in the page cache. Threads start when there is work and none is idle.
 */
#ifndef VHOSTFS_IO_POOL_H
#define VHOSTFS_IO_POOL_H
#include <pthread.h>
#include <semaphore.h>

struct fuse_context;

/* More than keep a disk busy: what waits long, such as fsync, is not to hold up what is short. Threads
 * that never had work are never started. */
#define IO_POOL_THREADS 16

struct io_job {
    struct io_job *next;
    /* On a pool thread, whose context it gets. The job may be gone when it returns. */
    void (*run)(struct io_job *job, struct fuse_context *context);
};

struct io_pool {
    pthread_mutex_t lock;
    /* One for each job. Not a condition: to signal one waits, in glibc, until the thread that the last
     * signal woke has had a CPU, and this is a queue thread that has hits to answer. */
    sem_t tokens;
    struct io_job *head, **tail;
    pthread_t threads[IO_POOL_THREADS];
    struct fuse_context *contexts[IO_POOL_THREADS]; /* the caller's, one a thread */
    unsigned started, running, idle, queued;
};

/* What a device has. `remote` is for network file systems and the like below a host directory: they may
 * stop to answer altogether, and then all threads of their pool wait for them, but no others. `host` is
 * for the rest of host directories, `disk` for the disk under the chunk cache. */
struct io_pools {
    struct io_pool disk, host, remote;
};

void io_pool_init(struct io_pool *pool);
/* Runs what is queued, then ends the threads. Nothing may be submitted any more. */
void io_pool_destroy(struct io_pool *pool);
/* -EAGAIN: there is no thread and none could be started; the job was not taken. */
int io_pool_submit(struct io_pool *pool, struct io_job *job);
#endif
