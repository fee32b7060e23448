/*
 * Requests that wait, whichever way they came: for a chunk, for room in the upcall ring, or for a
 * pool thread.
 *
 * A parked request is its own copy of all that it needs. It stands in a lot, and the lot belongs to
 * one thread, which alone touches the list; what others bring (a run in the pool that has ended, a
 * request that another thread could not finish) is hung up on `arrived`. Waiting for a chunk is a
 * question asked again (blob_state) whenever somebody completes or fails chunks: PENDING waits on,
 * READY runs the request again, ABSENT and failed is answered EIO. No message
 * can be lost, as none is sent.
 *
 * How a request's buffers are found again and how it is answered is the transport's (parking_type).
 */
#ifndef VHOSTFS_FUSE_PARKED_H
#define VHOSTFS_FUSE_PARKED_H
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "barrier.h"
#include "blob.h"
#include "dataplane.h"
#include "fuse_server.h"
#include "io_pool.h"

struct parking_lot;

/* The head of a transport's own struct, which has the lists and arguments. */
struct parked {
    struct io_job job;
    struct parked *next;
    struct parking_lot *lot;
    struct fuse_request request;
    int64_t result; /* of the last run */
    uint64_t deadline_ns;
    uint64_t bytes; /* of its memory */
};

struct parking_type {
    /* Before it runs again, in the pool or on the lot's thread: makes its lists valid. false: its memory
     * is not all there any more; what is left may hold the header of an error. */
    bool (*prepare)(struct parked *parked, bool in_pool);
    /* NULL, or answers it on the pool thread that ran it to its end, before it goes back to the lot. */
    void (*answer)(struct parked *parked);
    /* On the lot's thread: answers it, unless that was done (`result` is what fuse_handle returned), and frees it. */
    void (*finish)(struct parked *parked, int64_t result);
};

struct parking_lot {
    /* set up once */
    const struct parking_type *type;
    struct fuse_server *server;
    struct io_pools *pools;
    const uint64_t *timeout_ns; /* after which a parked request is answered EIO */
    struct vfs_statistics *statistics; /* written by the thread */
    int wake_fd;

    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct parked *arrived; /* atomic: hung up with release, taken down by the thread */
    unsigned in_pool;       /* atomic: the thread counts up, the pool down under lock */
    bool attention;         /* atomic: look at what arrived and at the parked requests */

    /* the thread's own */
    struct fuse_context context;
    struct chunk_waiter waiter; /* .parked counts the list below */
    struct parked *parked, **parked_tail;
    uint64_t bytes;
    uint64_t next_deadline_ns; /* of a parked request; 0: none */
};

/* One turn of the thread scans no further when this much was answered: others get their turn. */
#define PARKING_BATCH_BYTES (4u << 20)

int parking_lot_init(struct parking_lot *lot);
void parking_lot_destroy(struct parking_lot *lot);
/* From any thread: the lot's own looks around. */
void parking_lot_wake(struct parking_lot *lot);

/* On the lot's thread. `parked` has all but job, next, lot and deadline; its request says what it waits for. */
void parking_lot_add(struct parking_lot *lot, struct parked *parked);
void parking_lot_collect(struct parking_lot *lot);
void parking_lot_scan(struct parking_lot *lot);
void parking_lot_fail_all(struct parking_lot *lot);
/* From another thread than the lot's, instead of add. */
void parking_lot_bring(struct parking_lot *lot, struct parked *parked);
/* Takes a request that waits for a chunk or for room off the list, and answers it `error`; false: there is none. */
bool parking_lot_give_up(struct parking_lot *lot, uint64_t unique, int error);

#define STATISTIC_ADD(statistics, field, n) shared_store_relaxed(&(statistics)->field, (statistics)->field + (n))
#endif
