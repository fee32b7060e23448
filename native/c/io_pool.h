/*
 * A few threads for work that would block a queue thread, such as reads of cached chunks that are
 * on disk and not in the page cache. Threads start when there is work and none is idle.
 */
#ifndef VHOSTFS_IO_POOL_H
#define VHOSTFS_IO_POOL_H
#include <pthread.h>
#include <stdbool.h>

#define IO_POOL_THREADS 4 /* enough to keep a disk busy; more would compete with the queue threads */

struct io_job {
    struct io_job *next;
    void (*run)(struct io_job *job); /* on a pool thread; the job may be gone when it returns */
};

struct io_pool {
    pthread_mutex_t lock;
    pthread_cond_t work;
    struct io_job *head, **tail;
    pthread_t threads[IO_POOL_THREADS];
    unsigned started, idle, queued;
    bool stopping;
};

void io_pool_init(struct io_pool *pool);
/* Runs what is queued, then ends the threads. Nothing may be submitted any more. */
void io_pool_destroy(struct io_pool *pool);
/* -EAGAIN: there is no thread and none could be started; the job was not taken. */
int io_pool_submit(struct io_pool *pool, struct io_job *job);
#endif
