/* The parking lot. See fuse_parked.h. */
#include "fuse_parked.h"

#include <errno.h>
#include <stddef.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "monotonic.h"

#define ROOM_RETRY_NS 2000000 /* the upcall ring is full: its consumer is busy, look again in 2 ms */

static void wake(struct chunk_waiter *waiter)
{
    parking_lot_wake((struct parking_lot *)((uint8_t *)waiter - offsetof(struct parking_lot, waiter)));
}

int parking_lot_init(struct parking_lot *lot)
{
    lot->parked_tail = &lot->parked;
    lot->waiter.wake = wake;
    pthread_mutex_init(&lot->lock, NULL);
    pthread_cond_init(&lot->changed, NULL);
    lot->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return lot->wake_fd < 0 ? -errno : 0;
}

void parking_lot_destroy(struct parking_lot *lot)
{
    if (lot->wake_fd >= 0)
        close(lot->wake_fd);
    pthread_cond_destroy(&lot->changed);
    pthread_mutex_destroy(&lot->lock);
}

void parking_lot_wake(struct parking_lot *lot)
{
    /* release: what the waker did before is seen by the thread when it takes the attention */
    __atomic_store_n(&lot->attention, true, __ATOMIC_RELEASE);
    (void)!eventfd_write(lot->wake_fd, 1);
}

/* release: the request and its result before it is seen on the list; acquired by parking_lot_collect */
static void hang_up(struct parking_lot *lot, struct parked *parked)
{
    parked->next = __atomic_load_n(&lot->arrived, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n(&lot->arrived, &parked->next, parked, true, __ATOMIC_RELEASE, __ATOMIC_RELAXED))
        ;
}

static void run_in_pool(struct io_job *job, struct fuse_context *context)
{
    struct parked *parked = (struct parked *)((uint8_t *)job - offsetof(struct parked, job));
    struct parking_lot *lot = parked->lot;

    parked->request.context = context;
    parked->result = lot->type->prepare(parked, true) ? fuse_handle(lot->server, &parked->request)
                                                      : fuse_give_up(lot->server, &parked->request, -EIO);
    if (parked->result != FUSE_PARKED && lot->type->answer)
        lot->type->answer(parked);
    pthread_mutex_lock(&lot->lock);
    hang_up(lot, parked);
    __atomic_sub_fetch(&lot->in_pool, 1, __ATOMIC_RELAXED);
    pthread_cond_broadcast(&lot->changed);
    parking_lot_wake(lot); /* under the lock: the lot cannot be destroyed before we are out of it */
    pthread_mutex_unlock(&lot->lock);
}

static struct io_pool *pool_of(const struct parked *parked)
{
    struct io_pools *pools = parked->lot->pools;
    enum fuse_wait wait = parked->request.wait;

    return wait == FUSE_WAIT_DISK ? &pools->disk : wait == FUSE_WAIT_HOST ? &pools->host : &pools->remote;
}

static void to_pool(struct parked *parked)
{
    struct parking_lot *lot = parked->lot;

    STATISTIC_ADD(lot->statistics, pool_runs, 1);
    parked->request.may_block = true;
    __atomic_add_fetch(&lot->in_pool, 1, __ATOMIC_RELAXED);
    parked->job.run = run_in_pool;
    if (io_pool_submit(pool_of(parked), &parked->job))
        run_in_pool(&parked->job, &lot->context); /* no thread could be had: slow is better than wrong */
}

static void append(struct parked *parked)
{
    struct parking_lot *lot = parked->lot;

    parked->next = NULL;
    *lot->parked_tail = parked;
    lot->parked_tail = &parked->next;
    shared_store_relaxed(&lot->waiter.parked, lot->waiter.parked + 1);
    full_fence(); /* the count before the look at the chunk's state; pairs with wake_waiters in blob.c */
}

static void look_again_at(struct parking_lot *lot, uint64_t when_ns)
{
    if (!lot->next_deadline_ns || when_ns < lot->next_deadline_ns)
        lot->next_deadline_ns = when_ns;
}

/* Puts a request where its `wait` says. */
static void wait_on(struct parked *parked)
{
    struct parking_lot *lot = parked->lot;

    if (fuse_waits_for_pool(&parked->request)) {
        to_pool(parked);
        return;
    }
    parked->request.may_block = false;
    parked->request.context = &lot->context;
    append(parked);
    if (parked->request.wait == FUSE_WAIT_UPCALL_ROOM)
        look_again_at(lot, monotonic_ns() + ROOM_RETRY_NS);
    else /* the chunk may have been completed before we were on the list: look once more, next turn */
        __atomic_store_n(&lot->attention, true, __ATOMIC_RELAXED);
}

/* What every way in has in common; on the lot's thread. */
static void enter(struct parking_lot *lot, struct parked *parked)
{
    lot->bytes += parked->bytes;
    if (!fuse_waits_for_pool(&parked->request))
        STATISTIC_ADD(lot->statistics, misses, 1);
    wait_on(parked);
}

void parking_lot_add(struct parking_lot *lot, struct parked *parked)
{
    parked->lot = lot;
    parked->deadline_ns = monotonic_ns() + *lot->timeout_ns;
    enter(lot, parked);
}

void parking_lot_bring(struct parking_lot *lot, struct parked *parked)
{
    parked->lot = NULL; /* it has not entered yet */
    hang_up(lot, parked);
    parking_lot_wake(lot);
}

/* Returns the bytes that the reply has. */
static uint64_t finish(struct parked *parked, int64_t result)
{
    struct parking_lot *lot = parked->lot;

    lot->bytes -= parked->bytes;
    lot->type->finish(parked, result);
    return (uint64_t)result;
}

void parking_lot_collect(struct parking_lot *lot)
{
    /* acquire: pairs with hang_up. Without the lock: a pool thread that lost its CPU while it holds
     * it, to this very thread perhaps that it woke, would hold up the ring. */
    struct parked *arrived = __atomic_exchange_n(&lot->arrived, NULL, __ATOMIC_ACQUIRE);

    while (arrived) {
        struct parked *next = arrived->next;
        if (!arrived->lot)
            parking_lot_add(lot, arrived);
        else if (arrived->result == FUSE_PARKED)
            wait_on(arrived);
        else
            finish(arrived, arrived->result);
        arrived = next;
    }
}

/* Lets go of the chunk that it waited for. */
static void stop_waiting(struct parked *parked)
{
    if (parked->request.wait_blob)
        blob_put(parked->request.wait_blob);
    parked->request.wait_blob = NULL;
}

static uint64_t run_again(struct parked *parked)
{
    struct parking_lot *lot = parked->lot;
    struct fuse_request *request = &parked->request;
    int64_t result;

    stop_waiting(parked);
    result = lot->type->prepare(parked, false) ? fuse_handle(lot->server, request) : fuse_give_up(lot->server, request, -EIO);
    if (result != FUSE_PARKED)
        return finish(parked, result);
    wait_on(parked);
    return 0;
}

static uint64_t answer(struct parked *parked, int error)
{
    stop_waiting(parked);
    (void)parked->lot->type->prepare(parked, false);
    return finish(parked, fuse_give_up(parked->lot->server, &parked->request, error));
}

static uint64_t answer_eio(struct parked *parked)
{
    STATISTIC_ADD(parked->lot->statistics, failed_misses, 1);
    return answer(parked, -EIO);
}

enum verdict { WAIT_ON, RUN_AGAIN, ANSWER_EIO };

static enum verdict judge(const struct parked *parked, uint64_t now)
{
    if (now >= parked->deadline_ns)
        return ANSWER_EIO;
    if (parked->request.wait == FUSE_WAIT_UPCALL_ROOM)
        return blob_may_request(parked->lot->server->store, parked->request.wait_blob) ? RUN_AGAIN : WAIT_ON;
    switch (blob_state(parked->request.wait_blob, parked->request.wait_chunk)) {
    case CHUNK_READY:
        return RUN_AGAIN;
    case CHUNK_PENDING:
        return WAIT_ON;
    default: /* failed; or it was there and is evicted already: it is asked for once more */
        return blob_has_failed(parked->request.wait_blob, parked->request.wait_chunk) ? ANSWER_EIO : RUN_AGAIN;
    }
}

static void take_out(struct parking_lot *lot, struct parked **at)
{
    *at = (*at)->next;
    if (!*at)
        lot->parked_tail = at;
    shared_store_relaxed(&lot->waiter.parked, lot->waiter.parked - 1);
}

void parking_lot_scan(struct parking_lot *lot)
{
    uint64_t now = lot->parked ? monotonic_ns() : 0, stored = 0;
    struct parked **at = &lot->parked;

    lot->next_deadline_ns = 0;
    /* Only what is on the list now: a request that runs again and must wait again goes to the tail.
     * A fetch may end the wait of a hundred large reads: what the driver asks meanwhile gets its turn. */
    for (uint32_t left = lot->waiter.parked; left; left--) {
        if (stored >= PARKING_BATCH_BYTES) {
            __atomic_store_n(&lot->attention, true, __ATOMIC_RELAXED);
            return;
        }
        struct parked *parked = *at;
        enum verdict verdict = judge(parked, now);
        if (verdict == WAIT_ON) {
            look_again_at(lot, parked->request.wait == FUSE_WAIT_UPCALL_ROOM ? now + ROOM_RETRY_NS : parked->deadline_ns);
            at = &parked->next;
            continue;
        }
        take_out(lot, at);
        stored += verdict == RUN_AGAIN ? run_again(parked) : answer_eio(parked);
    }
}

bool parking_lot_give_up(struct parking_lot *lot, uint64_t unique, int error)
{
    for (struct parked **at = &lot->parked; *at; at = &(*at)->next) {
        struct parked *parked = *at;
        if (parked->request.in.unique == unique) {
            take_out(lot, at);
            answer(parked, error);
            return true;
        }
    }
    return false;
}

void parking_lot_fail_all(struct parking_lot *lot)
{
    struct parked *list = lot->parked;

    lot->parked = NULL;
    lot->parked_tail = &lot->parked;
    shared_store_relaxed(&lot->waiter.parked, 0);
    while (list) {
        struct parked *next = list->next;
        answer_eio(list);
        list = next;
    }
    lot->next_deadline_ns = 0;
}
