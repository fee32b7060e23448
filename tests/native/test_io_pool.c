/* The pool of blocking threads: each job once, no more threads than it may have, all done at the end. */
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/resource.h>

#include "check.h"
#include "io_pool.h"

struct job {
    struct io_job job;
    unsigned runs;
};

static struct io_pool pool;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static unsigned running, most_running, done, released; /* under lock */

static void count_run(struct io_job *io_job, struct fuse_context *context)
{
    struct job *job = (struct job *)((char *)io_job - offsetof(struct job, job));

    pthread_mutex_lock(&lock);
    job->runs++;
    running++;
    most_running = running > most_running ? running : most_running;
    pthread_cond_broadcast(&changed);
    while (!released)
        pthread_cond_wait(&changed, &lock);
    running--;
    done++;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

static void submit(struct job *jobs, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        jobs[i] = (struct job){ .job.run = count_run };
        CHECK_EQ(io_pool_submit(&pool, &jobs[i].job), 0);
    }
}

static void wait_until(const unsigned *what, unsigned value)
{
    pthread_mutex_lock(&lock);
    while (*what < value)
        pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
}

static void reset(unsigned release)
{
    pthread_mutex_lock(&lock);
    running = most_running = done = 0;
    released = release;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

static void test_a_pool_without_work_has_no_threads(void)
{
    io_pool_init(&pool);
    CHECK_EQ(pool.started, 0);
    io_pool_destroy(&pool);
}

static void test_blocked_jobs_get_a_thread_each_up_to_the_bound(void)
{
    static struct job jobs[IO_POOL_THREADS + 3];

    io_pool_init(&pool);
    reset(0);
    for (unsigned i = 0; i < IO_POOL_THREADS; i++) {
        submit(&jobs[i], 1);
        wait_until(&running, i + 1); /* though the others block */
    }
    submit(&jobs[IO_POOL_THREADS], 3);
    CHECK_EQ(pool.started, IO_POOL_THREADS);
    pthread_mutex_lock(&lock);
    released = 1;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
    wait_until(&done, IO_POOL_THREADS + 3);
    CHECK_EQ(most_running, IO_POOL_THREADS);
    for (unsigned i = 0; i < IO_POOL_THREADS + 3; i++)
        CHECK_EQ(jobs[i].runs, 1);
    io_pool_destroy(&pool);
}

static void test_what_is_queued_is_done_before_the_end(void)
{
    enum { MANY = 5000 };
    static struct job jobs[MANY];

    for (int round = 0; round < 5; round++) {
        io_pool_init(&pool);
        reset(1);
        submit(jobs, MANY);
        io_pool_destroy(&pool);
        CHECK_EQ(done, MANY);
        for (unsigned i = 0; i < MANY; i++)
            CHECK_EQ(jobs[i].runs, 1);
    }
}

enum { SUBMITTERS = 4, EACH = 4000 };
static struct job all[SUBMITTERS][EACH];

static void *submit_each(void *argument)
{
    submit(all[(uintptr_t)argument], EACH);
    return NULL;
}

static void test_many_submitters(void)
{
    pthread_t threads[SUBMITTERS];

    io_pool_init(&pool);
    reset(1);
    for (uintptr_t i = 0; i < SUBMITTERS; i++)
        CHECK_EQ(pthread_create(&threads[i], NULL, submit_each, (void *)i), 0);
    for (unsigned i = 0; i < SUBMITTERS; i++)
        pthread_join(threads[i], NULL);
    wait_until(&done, SUBMITTERS * EACH);
    CHECK(pool.started <= IO_POOL_THREADS);
    io_pool_destroy(&pool);
    for (unsigned i = 0; i < SUBMITTERS; i++)
        for (unsigned k = 0; k < EACH; k++)
            CHECK_EQ(all[i][k].runs, 1);
}

static int priority_of_job;

static void look_at_priority(struct io_job *job, struct fuse_context *context)
{
    priority_of_job = getpriority(PRIO_PROCESS, 0);
}

static void test_jobs_give_way_to_who_submits_them(void)
{
    struct io_job job = { .run = look_at_priority };
    int before = getpriority(PRIO_PROCESS, 0);

    io_pool_init(&pool);
    CHECK_EQ(io_pool_submit(&pool, &job), 0);
    io_pool_destroy(&pool);
    CHECK(priority_of_job > before || before == 19);
    CHECK_EQ(getpriority(PRIO_PROCESS, 0), before);
}

int main(void)
{
    RUN(test_a_pool_without_work_has_no_threads);
    RUN(test_blocked_jobs_get_a_thread_each_up_to_the_bound);
    RUN(test_what_is_queued_is_done_before_the_end);
    RUN(test_many_submitters);
    RUN(test_jobs_give_way_to_who_submits_them);
    return 0;
}
