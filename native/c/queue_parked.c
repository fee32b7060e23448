/* A request of a virtqueue that waits: where its pieces are in guest memory, and how it is answered. */
#include <stdlib.h>
#include <string.h>

#include "queue.h"

#define SPARE_PIECES 8 /* for buffers that the next memory table cuts in two */

/* A copy of one of the chain's two lists, with where its pieces are in guest memory. */
struct pieces {
    struct iovec *iov;
    uint64_t *gpa;
    uint32_t capacity;
};

struct queue_parked {
    struct parked parked; /* first */
    struct queue *queue;
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
    size_t bytes = sizeof(struct queue_parked) + (readable + writable + 2 * SPARE_PIECES) * (sizeof(struct iovec) + sizeof(uint64_t)) +
                   slices * sizeof(struct iovec) + request->args_size;
    struct queue_parked *copy = malloc(bytes);
    uint8_t *at = (uint8_t *)(copy + 1);

    if (!copy)
        return NULL;
    *copy = (struct queue_parked){ .parked = { .request = *request, .bytes = bytes }, .queue = queue, .head = queue->chain.head };
    at = copy_pieces(&copy->readable, at, &queue->chain, 0, readable);
    at = copy_pieces(&copy->writable, at, &queue->chain, readable, writable);
    copy->parked.request.readable = copy->readable.iov;
    copy->parked.request.writable = copy->writable.iov;
    copy->parked.request.scratch = (struct iovec *)at;
    copy->parked.request.args = memcpy(at + slices * sizeof(struct iovec), request->args, request->args_size);
    return &copy->parked;
}

static bool retranslate_pieces(const struct queue *queue, struct pieces *pieces, uint32_t *count)
{
    return !vring_retranslate(queue->memory, pieces->iov, pieces->gpa, count, pieces->capacity);
}

/* Finds the request's memory again: the table may have changed since. When it is not all there any
 * more the request is cut to what is. On its way to the pool nothing can have changed: a pause waits
 * for the pool. */
static bool retranslate(struct parked *parked, bool in_pool)
{
    struct queue_parked *copy = (struct queue_parked *)parked;
    struct fuse_request *request = &parked->request;
    bool all;

    if (in_pool)
        return true;
    all = retranslate_pieces(copy->queue, &copy->readable, &request->readable_count);
    all &= retranslate_pieces(copy->queue, &copy->writable, &request->writable_count);
    if (all)
        return true;
    request->writable_size = 0;
    for (uint32_t i = 0; i < request->writable_count; i++)
        request->writable_size += request->writable[i].iov_len;
    return false;
}

static void finish(struct parked *parked, int64_t result)
{
    struct queue_parked *copy = (struct queue_parked *)parked;

    queue_complete(copy->queue, copy->head, &parked->request.in, result);
    free(copy);
}

const struct parking_type queue_parking = { .prepare = retranslate, .finish = finish };

void queue_park(struct queue *queue, const struct fuse_request *request)
{
    struct parked *parked = copy_request(queue, request);

    if (parked)
        parking_lot_add(&queue->lot, parked);
    else
        queue_complete(queue, queue->chain.head, &request->in, fuse_reply_error(request, -ENOMEM));
}
