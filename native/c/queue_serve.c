/* From a popped chain to a reply in the used ring. See queue.h. */
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "barrier.h"
#include "queue.h"

void queue_signal(struct queue *queue)
{
    if (!vring_should_signal(&queue->vq))
        return;
    QUEUE_COUNT(queue, interrupts, 1);
    if (queue->call_fd >= 0)
        (void)!eventfd_write(queue->call_fd, 1);
}

bool queue_can_pop(const struct queue *queue)
{
    return queue->enabled && queue->vq.avail && !queue->is_broken && !queue->is_stopping && queue->lot.bytes < QUEUE_PARKED_BYTES;
}

void queue_complete(struct queue *queue, uint16_t head, const struct fuse_in_header *in, int64_t result)
{
    if (!queue->vq.used)
        return; /* it stops, and its memory went before it: nobody is there to hear */
    vring_push(&queue->vq, head, (uint32_t)result);
    QUEUE_COUNT(queue, replies, 1);
    if (in->opcode == FUSE_READ)
        QUEUE_COUNT(queue, read_bytes, result > (int64_t)sizeof(struct fuse_out_header) ? (uint64_t)result - sizeof(struct fuse_out_header) : 0);
}

/* Copies header and arguments once; what the driver writes there later is never looked at. The data
 * of a WRITE stays where it is. */
static void copy_request(struct queue *queue, struct fuse_request *request)
{
    const struct vring_chain *chain = &queue->chain;
    const struct iovec *readable = chain->iov;
    struct fuse_in_header *in = &request->in;
    size_t copied, wanted;

    *request = (struct fuse_request){
        .args = queue->copied,
        .readable = readable,
        .readable_count = chain->readable,
        .writable = readable + chain->readable,
        .writable_count = chain->writable,
        .writable_size = chain->writable_size,
        .scratch = queue->scratch,
        .context = &queue->lot.context,
    };
    copied = fuse_iov_read(readable, chain->readable, 0, in, sizeof(*in));
    if (copied < sizeof(*in) || in->len < sizeof(*in) || in->len > chain->readable_size) {
        in->opcode = 0; /* no such operation: the reply is an error, with the unique id if there was one */
        return;
    }
    wanted = in->opcode == FUSE_WRITE ? sizeof(struct fuse_write_in) : sizeof(queue->copied);
    wanted = wanted < in->len - sizeof(*in) ? wanted : in->len - sizeof(*in);
    request->args_size = (uint32_t)fuse_iov_read(readable, chain->readable, sizeof(*in), queue->copied, wanted);
}

static uint64_t serve_chain(struct queue *queue)
{
    struct fuse_request request;
    int64_t result;

    copy_request(queue, &request);
    QUEUE_COUNT(queue, requests, 1);
    if (request.in.opcode == FUSE_READ)
        QUEUE_COUNT(queue, reads, 1);
    result = request.in.opcode ? fuse_handle(queue->server, &request) : fuse_reply_error(&request, -EINVAL);
    if (result == FUSE_PARKED) {
        queue_park(queue, &request);
        return 0;
    }
    queue_complete(queue, queue->chain.head, &request.in, result);
    return (uint64_t)result;
}

/* The driver broke the ring: stop it, and say so on err_fd. The process and the other queues go on. */
static void break_ring(struct queue *queue)
{
    queue->is_broken = true;
    QUEUE_COUNT(queue, broken_rings, 1);
    if (queue->err_fd >= 0)
        (void)!eventfd_write(queue->err_fd, 1);
}

unsigned queue_serve(struct queue *queue)
{
    uint64_t bytes = 0, unsignalled = 0;
    unsigned served = 0;

    while (served < QUEUE_BATCH && bytes < QUEUE_BATCH_BYTES && queue_can_pop(queue)) {
        int got = vring_pop(&queue->vq, queue->memory, &queue->chain);
        if (got < 0)
            break_ring(queue);
        if (got <= 0)
            break;
        served++;
        uint64_t stored = serve_chain(queue);
        bytes += stored;
        unsignalled += stored;
        if (unsignalled >= QUEUE_SIGNAL_BYTES) {
            queue_signal(queue);
            unsignalled = 0;
        }
    }
    if (served)
        queue_signal(queue);
    return served;
}
