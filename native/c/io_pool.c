/* The pool of blocking threads. See io_pool.h. */
#include "io_pool.h"

#include <errno.h>
#include <signal.h>
#include <stddef.h>

#define IO_POOL_STACK (256 << 10) /* the deepest handler needs a tenth of it */

static void *run_jobs(void *argument)
{
    struct io_pool *pool = argument;
    struct fuse_context *context;

    pthread_mutex_lock(&pool->lock);
    context = pool->contexts[pool->running++];
    for (;;) {
        struct io_job *job = pool->head;
        if (job) {
            pool->head = job->next;
            if (!pool->head)
                pool->tail = &pool->head;
            pool->queued--;
            pthread_mutex_unlock(&pool->lock);
            job->run(job, context);
            pthread_mutex_lock(&pool->lock);
        } else if (pool->stopping) {
            break;
        } else {
            pool->idle++;
            pthread_cond_wait(&pool->work, &pool->lock);
            pool->idle--;
        }
    }
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

void io_pool_init(struct io_pool *pool)
{
    *pool = (struct io_pool){ 0 };
    pool->tail = &pool->head;
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->work, NULL);
}

void io_pool_destroy(struct io_pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    pool->stopping = true;
    pthread_cond_broadcast(&pool->work);
    pthread_mutex_unlock(&pool->lock);
    for (unsigned i = 0; i < pool->started; i++)
        pthread_join(pool->threads[i], NULL);
    pthread_cond_destroy(&pool->work);
    pthread_mutex_destroy(&pool->lock);
}

static int start_thread(struct io_pool *pool)
{
    pthread_attr_t attr;
    sigset_t all, before;
    int err;

    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, IO_POOL_STACK);
    sigfillset(&all); /* signals belong to the interpreter's main thread */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    err = pthread_create(&pool->threads[pool->started], &attr, run_jobs, pool);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    if (!err)
        pool->started++;
    return -err;
}

int io_pool_submit(struct io_pool *pool, struct io_job *job)
{
    int err = 0;

    pthread_mutex_lock(&pool->lock);
    /* A thread that was signalled but has not run yet counts as idle, hence the comparison. */
    if (pool->idle <= pool->queued && pool->started < IO_POOL_THREADS)
        err = start_thread(pool);
    if (pool->started) {
        err = 0;
        job->next = NULL;
        *pool->tail = job;
        pool->tail = &job->next;
        pool->queued++;
        pthread_cond_signal(&pool->work);
    }
    pthread_mutex_unlock(&pool->lock);
    return err;
}
