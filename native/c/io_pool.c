/* The pool of blocking threads. See io_pool.h. */
#include "io_pool.h"

#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <sys/resource.h>

#define IO_POOL_STACK (256 << 10) /* the deepest handler needs a tenth of it */
/* A third of the share of a queue thread or a guest's CPU. Copies and writes are long stretches in the
 * kernel: beside them on the same CPU, at the same priority, each hit would wait for one to end. */
#define IO_POOL_NICE 5

/* Of the calling thread alone, and only downwards. A sandbox that refuses it makes nothing worse than slow. */
static void be_nice(void)
{
    setpriority(PRIO_PROCESS, 0, getpriority(PRIO_PROCESS, 0) + IO_POOL_NICE);
}

static void *run_jobs(void *argument)
{
    struct io_pool *pool = argument;
    struct fuse_context *context;

    be_nice();
    pthread_mutex_lock(&pool->lock);
    context = pool->contexts[pool->running++];
    for (;;) {
        pool->idle++;
        pthread_mutex_unlock(&pool->lock);
        while (sem_wait(&pool->tokens) < 0)
            ; /* EINTR */
        pthread_mutex_lock(&pool->lock);
        pool->idle--;
        struct io_job *job = pool->head;
        if (!job)
            break; /* a token for the end */
        pool->head = job->next;
        if (!pool->head)
            pool->tail = &pool->head;
        pool->queued--;
        pthread_mutex_unlock(&pool->lock);
        job->run(job, context);
        pthread_mutex_lock(&pool->lock);
    }
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

void io_pool_init(struct io_pool *pool)
{
    *pool = (struct io_pool){ 0 };
    pool->tail = &pool->head;
    pthread_mutex_init(&pool->lock, NULL);
    sem_init(&pool->tokens, 0, 0);
}

void io_pool_destroy(struct io_pool *pool)
{
    for (unsigned i = 0; i < pool->started; i++)
        sem_post(&pool->tokens); /* behind those of the jobs, which are all taken before */
    for (unsigned i = 0; i < pool->started; i++)
        pthread_join(pool->threads[i], NULL);
    sem_destroy(&pool->tokens);
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
    /* A thread that has a token but has not run yet counts as idle, hence the comparison. */
    if (pool->idle <= pool->queued && pool->started < IO_POOL_THREADS)
        err = start_thread(pool);
    if (pool->started) {
        err = 0;
        job->next = NULL;
        *pool->tail = job;
        pool->tail = &job->next;
        pool->queued++;
    }
    pthread_mutex_unlock(&pool->lock);
    if (!err)
        sem_post(&pool->tokens); /* behind the lock: who wakes up on this CPU would only wait for it */
    return err;
}
