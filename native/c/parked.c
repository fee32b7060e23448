/*
 * Requests that wait: for a chunk, for room in the upcall ring, or for a pool thread.
 *
 * A parked request is its own copy of all that it needs; the ring may move on. Waiting for a chunk
 * is a question asked again (blob_state) whenever somebody completes or fails chunks: PENDING
 * waits on, READY runs the request again, ABSENT and failed is answered EIO.
 * No message can be lost, as none is sent.
 */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#include "barrier.h"
#include "queue.h"

#define ROOM_RETRY_NS 2000000 /* the upcall ring is full: its consumer is busy, look again in 2 ms */
#define SPARE_PIECES 8        /* for buffers that the next memory table cuts in two */

/* A copy of one of the chain's two lists, with where its pieces are in guest memory. */
struct pieces {
    struct iovec *iov;
    uint64_t *gpa;
    uint32_t capacity;
};

struct parked {
    struct io_job job;
    struct parked *next;
    struct queue *queue;
    struct fuse_request request;
    int64_t result; /* of the pool's run */
    uint64_t deadline_ns;
    uint64_t bytes; /* of this allocation */
    uint16_t head;
    struct pieces readable, writable;
    /* then the two lists, room for slices of either, and the arguments */
};

/* Copies `count` pieces from the chain's number `first` to `at`; returns what follows the copy. */
static uint8_t *copy_pieces(struct pieces *pieces, uint8_t *at, const struct vring_chain *chain, uint32_t first, uint32_t count)
{
    pieces->capacity = count + SPARE_PIECES;
    pieces->iov = memcpy(at, chain->iov + first, count * sizeof(struct iovec));
    at += pieces->capacity * sizeof(struct iovec);
    pieces->gpa = memcpy(at, chain->gpa + first, count * sizeof(uint64_t));
    return at + pieces->capacity * sizeof(uint64_t);
}

static struct parked *copy_request(struct queue *queue, const struct fuse_request *request)
{
    uint32_t readable = request->readable_count, writable = request->writable_count;
    size_t slices = (readable > writable ? readable : writable) + SPARE_PIECES;
    size_t bytes = sizeof(struct parked) + (readable + writable + 2 * SPARE_PIECES) * (sizeof(struct iovec) + sizeof(uint64_t)) +
                   slices * sizeof(struct iovec) + request->args_size;
    struct parked *parked = malloc(bytes);
    uint8_t *at = (uint8_t *)(parked + 1);

    if (!parked)
        return NULL;
    *parked = (struct parked){ .queue = queue, .request = *request, .bytes = bytes, .head = queue->chain.head };
    at = copy_pieces(&parked->readable, at, &queue->chain, 0, readable);
    at = copy_pieces(&parked->writable, at, &queue->chain, readable, writable);
    parked->request.readable = parked->readable.iov;
    parked->request.writable = parked->writable.iov;
    parked->request.scratch = (struct iovec *)at;
    parked->request.args = memcpy(at + slices * sizeof(struct iovec), request->args, request->args_size);
    parked->deadline_ns = queue_now_ns() + queue->limits->miss_timeout_ns;
    return parked;
}

static bool retranslate_pieces(const struct queue *queue, struct pieces *pieces, uint32_t *count)
{
    return !vring_retranslate(queue->memory, pieces->iov, pieces->gpa, count, pieces->capacity);
}

/* Finds the request's memory again: the table may have changed since. When it is not all there any
 * more the request is cut to what is, which the reply header of an error may still fit in. */
static bool retranslate(struct parked *parked)
{
    struct fuse_request *request = &parked->request;
    bool all = retranslate_pieces(parked->queue, &parked->readable, &request->readable_count);

    all &= retranslate_pieces(parked->queue, &parked->writable, &request->writable_count);
    if (all)
        return true;
    request->writable_size = 0;
    for (uint32_t i = 0; i < request->writable_count; i++)
        request->writable_size += request->writable[i].iov_len;
    return false;
}

/* Returns the bytes that the reply has. */
static uint64_t finish(struct parked *parked, int64_t result)
{
    struct queue *queue = parked->queue;

    queue_complete(queue, parked->head, &parked->request.in, result);
    queue->parked_bytes -= parked->bytes;
    free(parked);
    return (uint64_t)result;
}

static void run_in_pool(struct io_job *job, struct fuse_context *context)
{
    struct parked *parked = (struct parked *)((uint8_t *)job - offsetof(struct parked, job));
    struct queue *queue = parked->queue;

    parked->request.context = context;
    parked->result = fuse_handle(queue->server, &parked->request);
    pthread_mutex_lock(&queue->lock);
    parked->next = __atomic_load_n(&queue->done, __ATOMIC_RELAXED);
    /* release: the result before the request is seen on the list; acquired by queue_collect_done */
    while (!__atomic_compare_exchange_n(&queue->done, &parked->next, parked, true, __ATOMIC_RELEASE, __ATOMIC_RELAXED))
        ;
    __atomic_sub_fetch(&queue->in_pool, 1, __ATOMIC_RELAXED);
    pthread_cond_broadcast(&queue->changed);
    queue_wake(queue); /* under the lock: the queue cannot be destroyed before we are out of it */
    pthread_mutex_unlock(&queue->lock);
}

static void to_pool(struct parked *parked)
{
    struct queue *queue = parked->queue;

    QUEUE_COUNT(queue, pool_runs, 1);
    parked->request.may_block = true;
    __atomic_add_fetch(&queue->in_pool, 1, __ATOMIC_RELAXED);
    parked->job.run = run_in_pool;
    if (io_pool_submit(parked->request.wait == FUSE_WAIT_DISK ? &queue->pools->disk : &queue->pools->host, &parked->job))
        run_in_pool(&parked->job, &queue->context); /* no thread could be had: slow is better than wrong */
}

static void append(struct parked *parked)
{
    struct queue *queue = parked->queue;

    parked->next = NULL;
    *queue->parked_tail = parked;
    queue->parked_tail = &parked->next;
    shared_store_relaxed(&queue->waiter.parked, queue->waiter.parked + 1);
    full_fence(); /* the count before the look at the chunk's state; pairs with wake_waiters in blob.c */
}

static void look_again_at(struct queue *queue, uint64_t when_ns)
{
    if (!queue->next_deadline_ns || when_ns < queue->next_deadline_ns)
        queue->next_deadline_ns = when_ns;
}

/* Puts a request where its `wait` says. */
static void wait_on(struct parked *parked)
{
    if (fuse_waits_for_pool(&parked->request)) {
        to_pool(parked);
        return;
    }
    parked->request.may_block = false;
    parked->request.context = &parked->queue->context;
    append(parked);
    if (parked->request.wait == FUSE_WAIT_UPCALL_ROOM)
        look_again_at(parked->queue, queue_now_ns() + ROOM_RETRY_NS);
    else /* the chunk may have been completed before we were on the list: look once more, next turn */
        __atomic_store_n(&parked->queue->attention, true, __ATOMIC_RELAXED);
}

void queue_park(struct queue *queue, const struct fuse_request *request)
{
    struct parked *parked = copy_request(queue, request);

    if (!parked) {
        queue_complete(queue, queue->chain.head, &request->in, fuse_reply_error(request, -ENOMEM));
        return;
    }
    queue->parked_bytes += parked->bytes;
    if (!fuse_waits_for_pool(request))
        QUEUE_COUNT(queue, misses, 1);
    wait_on(parked);
}

void queue_collect_done(struct queue *queue)
{
    /* acquire: pairs with run_in_pool. Without the lock: a pool thread that lost its CPU while it holds
     * it, to this very thread perhaps that it woke, would hold up the ring. */
    struct parked *done = __atomic_exchange_n(&queue->done, NULL, __ATOMIC_ACQUIRE);

    while (done) {
        struct parked *next = done->next;
        if (done->result == FUSE_PARKED)
            wait_on(done);
        else
            finish(done, done->result);
        done = next;
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
    struct fuse_request *request = &parked->request;
    int64_t result;

    stop_waiting(parked);
    result = retranslate(parked) ? fuse_handle(parked->queue->server, request)
                                : fuse_give_up(parked->queue->server, request, -EIO);
    if (result != FUSE_PARKED)
        return finish(parked, result);
    wait_on(parked);
    return 0;
}

enum verdict { WAIT_ON, RUN_AGAIN, ANSWER_EIO };

static enum verdict judge(const struct parked *parked, uint64_t now)
{
    if (now >= parked->deadline_ns)
        return ANSWER_EIO;
    if (parked->request.wait == FUSE_WAIT_UPCALL_ROOM)
        return upcall_may_have_room(&parked->queue->server->store->upcalls) ? RUN_AGAIN : WAIT_ON;
    switch (blob_state(parked->request.wait_blob, parked->request.wait_chunk)) {
    case CHUNK_READY:
        return RUN_AGAIN;
    case CHUNK_PENDING:
        return WAIT_ON;
    default: /* failed; or it was there and is evicted already: it is asked for once more */
        return blob_has_failed(parked->request.wait_blob, parked->request.wait_chunk) ? ANSWER_EIO : RUN_AGAIN;
    }
}

/* Takes the whole list down, then hangs up again what must wait on. */
static struct parked *take_list(struct queue *queue)
{
    struct parked *list = queue->parked;

    queue->parked = NULL;
    queue->parked_tail = &queue->parked;
    shared_store_relaxed(&queue->waiter.parked, 0);
    return list;
}

static uint64_t answer_eio(struct parked *parked)
{
    QUEUE_COUNT(parked->queue, failed_misses, 1);
    stop_waiting(parked);
    (void)retranslate(parked);
    return finish(parked, fuse_give_up(parked->queue->server, &parked->request, -EIO));
}

void queue_scan_parked(struct queue *queue)
{
    uint64_t now = queue->parked ? queue_now_ns() : 0, stored = 0;
    struct parked **at = &queue->parked;

    queue->next_deadline_ns = 0;
    /* Only what is on the list now: a request that runs again and must wait again goes to the tail.
     * A fetch may end the wait of a hundred large reads: what the driver asks meanwhile gets its turn. */
    for (uint32_t left = queue->waiter.parked; left; left--) {
        if (stored >= QUEUE_BATCH_BYTES) {
            __atomic_store_n(&queue->attention, true, __ATOMIC_RELAXED);
            return;
        }
        struct parked *parked = *at;
        enum verdict verdict = judge(parked, now);
        if (verdict == WAIT_ON) {
            look_again_at(queue, parked->request.wait == FUSE_WAIT_UPCALL_ROOM ? now + ROOM_RETRY_NS : parked->deadline_ns);
            at = &parked->next;
            continue;
        }
        *at = parked->next;
        if (!*at)
            queue->parked_tail = at;
        shared_store_relaxed(&queue->waiter.parked, queue->waiter.parked - 1);
        stored += verdict == RUN_AGAIN ? run_again(parked) : answer_eio(parked);
    }
}

void queue_fail_parked(struct queue *queue)
{
    struct parked *list = take_list(queue);

    while (list) {
        struct parked *next = list->next;
        answer_eio(list);
        list = next;
    }
    queue->next_deadline_ns = 0;
}
