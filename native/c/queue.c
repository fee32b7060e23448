/* The queue thread: its loop, its orders, and how it falls asleep. See queue.h. */
#include "queue.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "barrier.h"
#include "monotonic.h"

#define QUEUE_STACK (512 << 10) /* fuse_read's plan is the largest frame, 10 KiB */
#define POLL_START_NS 4000      /* the first look-around, and the probe after polling was given up */
#define POLL_PROBE_EVERY 32     /* sleeps between probes */
#define NO_KICK_TICK_MS 1       /* how often a ring without kick fd is looked at when it is idle */

int queue_init(struct queue *queue)
{
    queue->kick_fd = queue->call_fd = queue->err_fd = queue->epoll_fd = -1;
    queue->lot.type = &queue_parking;
    queue->lot.statistics = &queue->statistics;
    return parking_lot_init(&queue->lot);
}

void queue_destroy(struct queue *queue)
{
    if (queue->call_fd >= 0)
        close(queue->call_fd);
    if (queue->err_fd >= 0)
        close(queue->err_fd);
    parking_lot_destroy(&queue->lot);
}

/* Looks at the ring for a while before sleeping: a driver that answers within microseconds then
 * needs neither a kick nor a wake-up. The while doubles when it paid and halves when it did not, so
 * a queue whose driver shares its CPU, or is idle, soon sleeps at once. A driver on another CPU may
 * take as long as its own wake-up: one sleep in a while is timed, and the next try lasts that long. */
static bool poll_ring(struct queue *queue)
{
    uint64_t budget = queue->poll_ns, start, limit = queue->limits->poll_ns;

    if (!budget && queue->sleeps % POLL_PROBE_EVERY == 0) {
        /* a look around that is shorter than the driver's usual pause would never pay */
        budget = queue->pause_ns > POLL_START_NS && queue->pause_ns < 2 * limit ? queue->pause_ns : POLL_START_NS;
        budget = budget < limit ? budget : limit;
    }
    if (!budget || !queue_can_pop(queue))
        return false;
    start = monotonic_ns();
    do {
        for (int i = 0; i < 32; i++) {
            if (vring_has_chain(&queue->vq) || shared_load_relaxed(&queue->lot.attention)) {
                queue->poll_ns = 2 * budget < limit ? 2 * budget : limit;
                return true;
            }
            cpu_relax();
        }
    } while (monotonic_ns() - start < budget);
    queue->poll_ns = budget / 2 < POLL_START_NS / 2 ? 0 : budget / 2;
    return false;
}

static int sleep_limit_ms(const struct queue *queue)
{
    int limit = queue->kick_fd < 0 && queue_can_pop(queue) ? NO_KICK_TICK_MS : -1;

    if (queue->lot.next_deadline_ns) {
        uint64_t now = monotonic_ns();
        uint64_t left_ms = queue->lot.next_deadline_ns > now ? (queue->lot.next_deadline_ns - now) / 1000000 + 1 : 0;
        if (limit < 0 || left_ms < (uint64_t)limit)
            limit = left_ms < 60000 ? (int)left_ms : 60000;
    }
    return limit;
}

/* Both fds are watched edge-triggered, so that their counters need not be read: each write is an
 * event of its own. What matters is in memory (avail->idx, attention) and is looked at after. */
static void sleep_until_woken(struct queue *queue)
{
    struct epoll_event events[2];

    if (queue_can_pop(queue) && vring_arm(&queue->vq)) {
        vring_disarm(&queue->vq);
        return;
    }
    if (!__atomic_load_n(&queue->lot.attention, __ATOMIC_ACQUIRE)) {
        uint64_t start = ++queue->sleeps % POLL_PROBE_EVERY ? 0 : monotonic_ns();
        QUEUE_COUNT(queue, sleeps, 1);
        epoll_wait(queue->epoll_fd, events, 2, sleep_limit_ms(queue));
        if (start)
            queue->pause_ns = monotonic_ns() - start;
    }
    if (queue->vq.used)
        vring_disarm(&queue->vq);
}

/* Obeys a pause: not before the pool has let go of guest memory, and until told to go on. */
static void obey_pause(struct queue *queue)
{
    pthread_mutex_lock(&queue->lot.lock);
    while (queue->order == QUEUE_PAUSE) {
        if (!__atomic_load_n(&queue->lot.in_pool, __ATOMIC_RELAXED) && !queue->is_paused) {
            queue->is_paused = true;
            pthread_cond_broadcast(&queue->lot.changed);
        }
        pthread_cond_wait(&queue->lot.changed, &queue->lot.lock);
    }
    queue->is_paused = false;
    pthread_mutex_unlock(&queue->lot.lock);
}

/* Whether the stop order can be carried out now; past its deadline what waits is failed. */
static bool may_stop(struct queue *queue)
{
    uint64_t deadline;
    bool pool_is_done;

    pthread_mutex_lock(&queue->lot.lock);
    deadline = queue->stop_deadline_ns;
    pool_is_done = !__atomic_load_n(&queue->lot.in_pool, __ATOMIC_RELAXED) && !__atomic_load_n(&queue->lot.arrived, __ATOMIC_RELAXED);
    pthread_mutex_unlock(&queue->lot.lock);
    if (queue->lot.parked && (!queue->vq.used || monotonic_ns() >= deadline))
        parking_lot_fail_all(&queue->lot);
    if (!queue->lot.parked && pool_is_done)
        return true;
    if (queue->lot.parked && (!queue->lot.next_deadline_ns || deadline < queue->lot.next_deadline_ns))
        queue->lot.next_deadline_ns = deadline;
    return false;
}

static void *queue_main(void *argument)
{
    struct queue *queue = argument;
    enum queue_order order = QUEUE_RUN;

    for (;;) {
        bool attention = __atomic_exchange_n(&queue->lot.attention, false, __ATOMIC_ACQUIRE);
        if (attention) {
            order = __atomic_load_n(&queue->order, __ATOMIC_RELAXED); /* given before the attention was raised */
            if (order == QUEUE_PAUSE) {
                obey_pause(queue);
                parking_lot_wake(&queue->lot); /* memory, ring and chunks may all have changed: look at everything */
                continue;
            }
        }
        if (!queue->vq.used && order != QUEUE_STOP) {
            queue->lot.next_deadline_ns = 0; /* no ring to answer in: what waits stands still with it */
        } else if (attention || (queue->lot.next_deadline_ns && monotonic_ns() >= queue->lot.next_deadline_ns)) {
            parking_lot_collect(&queue->lot);
            parking_lot_scan(&queue->lot);
            if (queue->vq.used)
                queue_signal(queue);
        }
        if (order == QUEUE_STOP) {
            queue->is_stopping = true;
            if (may_stop(queue))
                break;
        } else if (queue_serve(queue) || poll_ring(queue)) {
            continue;
        }
        sleep_until_woken(queue);
    }
    if (queue->vq.used)
        queue_signal(queue);
    return NULL;
}

static int watch(const struct queue *queue, int fd)
{
    struct epoll_event event = { .events = EPOLLIN | EPOLLET };

    return epoll_ctl(queue->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

static int start_thread(struct queue *queue)
{
    char name[16];
    pthread_attr_t attr;
    sigset_t all, before;
    int err;

    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, QUEUE_STACK);
    sigfillset(&all); /* signals belong to the interpreter's main thread */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    err = -pthread_create(&queue->thread, &attr, queue_main, queue);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    if (err)
        return err;
    snprintf(name, sizeof(name), "vfs-queue-%u", queue->index);
    pthread_setname_np(queue->thread, name);
    return 0;
}

/* Room for the longest chain that can be popped, with some for buffers that cross regions. */
static int allocate_chain(struct queue *queue)
{
    uint32_t capacity = VRING_MAX_INDIRECT(queue->vq.num) + GPA_MAX_REGIONS;

    queue->chain.capacity = capacity;
    queue->chain.iov = calloc(capacity, sizeof(struct iovec));
    queue->chain.gpa = calloc(capacity, sizeof(uint64_t));
    queue->scratch = calloc(capacity, sizeof(struct iovec));
    return queue->chain.iov && queue->chain.gpa && queue->scratch ? 0 : -ENOMEM;
}

static void release_thread_state(struct queue *queue)
{
    free(queue->chain.iov);
    free(queue->chain.gpa);
    free(queue->scratch);
    queue->chain = (struct vring_chain){ 0 };
    queue->scratch = NULL;
    if (queue->epoll_fd >= 0)
        close(queue->epoll_fd);
    queue->epoll_fd = -1;
}

int queue_start(struct queue *queue, int kick_fd)
{
    int err = allocate_chain(queue);

    queue->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (!err && queue->epoll_fd < 0)
        err = -errno;
    if (!err)
        err = watch(queue, queue->lot.wake_fd);
    if (!err && kick_fd >= 0)
        err = watch(queue, kick_fd);
    if (!err) {
        queue->order = QUEUE_RUN;
        queue->is_broken = queue->is_stopping = false;
        shared_store_relaxed(&queue->lot.attention, true); /* wakers may be at it; the thread begins behind it */
        queue->vq.in_flight = 0;
        queue->kick_fd = kick_fd;
        err = start_thread(queue);
    }
    if (err) {
        queue->kick_fd = -1;
        release_thread_state(queue);
        return err;
    }
    queue->started = true;
    return 0;
}

static void give_order(struct queue *queue, enum queue_order order)
{
    pthread_mutex_lock(&queue->lot.lock);
    __atomic_store_n(&queue->order, order, __ATOMIC_RELAXED);
    pthread_cond_broadcast(&queue->lot.changed);
    pthread_mutex_unlock(&queue->lot.lock);
    parking_lot_wake(&queue->lot);
}

void queue_pause_begin(struct queue *queue)
{
    if (queue->started)
        give_order(queue, QUEUE_PAUSE);
}

void queue_pause_wait(struct queue *queue)
{
    if (!queue->started)
        return;
    pthread_mutex_lock(&queue->lot.lock);
    while (!queue->is_paused)
        pthread_cond_wait(&queue->lot.changed, &queue->lot.lock);
    pthread_mutex_unlock(&queue->lot.lock);
}

void queue_resume(struct queue *queue)
{
    if (queue->started)
        give_order(queue, QUEUE_RUN);
}

void queue_stop(struct queue *queue, unsigned drain_ms)
{
    if (!queue->started)
        return;
    pthread_mutex_lock(&queue->lot.lock);
    queue->stop_deadline_ns = monotonic_ns() + (uint64_t)drain_ms * 1000000;
    pthread_mutex_unlock(&queue->lot.lock);
    give_order(queue, QUEUE_STOP);
    pthread_join(queue->thread, NULL);
    queue->started = false;
    if (queue->kick_fd >= 0)
        close(queue->kick_fd);
    queue->kick_fd = -1;
    release_thread_state(queue);
}
