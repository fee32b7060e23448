/*
 * One virtqueue and its thread.
 *
 * The thread exists while the vring is started (kick set, not stopped). It alone touches the ring
 * and the parked requests. Others reach it by orders (pause, stop: a handshake under `lock`) and
 * by waking its lot (parking_lot_wake). The control plane changes ring, memory and fds only
 * when the thread is paused or gone.
 */
#ifndef VHOSTFS_QUEUE_H
#define VHOSTFS_QUEUE_H
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "blob.h"
#include "dataplane.h"
#include "fuse_parked.h"
#include "fuse_server.h"
#include "gpa.h"
#include "vring.h"

/* Memory for parked requests. A queue that reaches it pops no more until one completes: a thousand
 * 1 MiB reads in scattered pages fit. */
#define QUEUE_PARKED_BYTES (16u << 20)
/* One turn of the loop: bounds how long an order or a completion waits behind new requests. */
#define QUEUE_BATCH 64
#define QUEUE_BATCH_BYTES (4u << 20)
/* Interrupt the driver early when much was copied, so that it works while we copy on. */
#define QUEUE_SIGNAL_BYTES (256u << 10)

enum queue_order { QUEUE_RUN, QUEUE_PAUSE, QUEUE_STOP };

struct queue_limits {
    uint64_t miss_timeout_ns; /* after which a parked request is answered EIO */
    uint64_t poll_ns;         /* the longest that the thread looks at the ring before it sleeps */
};

struct queue {
    /* set up once */
    unsigned index;
    struct fuse_server *server;
    const struct gpa_table *memory;
    const struct queue_limits *limits;
    struct parking_lot lot; /* its thread is ours; orders come by its lock, and its attention tells of them */

    /* changed by the control plane while the thread is paused or gone */
    struct virtqueue vq;
    bool enabled;
    int kick_fd, call_fd, err_fd; /* -1: none; owned */
    int epoll_fd;
    bool started;
    pthread_t thread;

    enum queue_order order;    /* atomic: given under lot.lock, looked at with lot.attention */
    bool is_paused;            /* under lot.lock */
    uint64_t stop_deadline_ns; /* under lot.lock */

    /* the thread's own */
    uint64_t poll_ns;                /* adapted */
    uint64_t pause_ns;               /* how long the last timed sleep was, wake-up and all */
    unsigned sleeps;
    bool is_broken;                  /* pops no more until it is started again */
    bool is_stopping;
    struct vring_chain chain;
    struct iovec *scratch;
    uint8_t copied[FUSE_MAX_COPIED] __attribute__((aligned(8)));
    struct vfs_statistics statistics; /* written by the thread, read by anyone */
};

int queue_init(struct queue *queue);
void queue_destroy(struct queue *queue);

/* Starts the thread. Takes over kick_fd (-1: poll the ring) on success. */
int queue_start(struct queue *queue, int kick_fd);
/* Pause and resume are no-ops on a queue that is not started. Pause begins; wait waits for it. */
void queue_pause_begin(struct queue *queue);
void queue_pause_wait(struct queue *queue);
void queue_resume(struct queue *queue);
/* Stops popping, waits up to drain_ms for parked requests, answers the rest EIO, ends the thread. */
void queue_stop(struct queue *queue, unsigned drain_ms);

/* queue_serve.c: one turn of each kind of work, on the queue's own thread. */
unsigned queue_serve(struct queue *queue);
void queue_signal(struct queue *queue);
bool queue_can_pop(const struct queue *queue);

/* queue_parked.c */
extern const struct parking_type queue_parking;
void queue_park(struct queue *queue, const struct fuse_request *request);
void queue_complete(struct queue *queue, uint16_t head, const struct fuse_in_header *in, int64_t result);

#define QUEUE_COUNT(queue, field, n) STATISTIC_ADD(&(queue)->statistics, field, n)
#endif
