/*
 * The upcall ring: chunks that the data plane wants fetched, C to whoever fetches.
 *
 * Position-independent data in a memfd, with an eventfd to wake the consumer, so the two ends may
 * be threads of one process or two processes. Bounded: a producer that finds it full keeps its
 * request and tries again. Producers serialise on a mutex (a miss costs a network round trip);
 * there is one consumer.
 *
 * In another process, the consumer does not trust the producer: the memfd is sealed against
 * shrinking, each end keeps its own index to itself and publishes a copy, and nothing that the
 * consumer does can be made to wait.
 */
#ifndef VHOSTFS_UPCALL_H
#define VHOSTFS_UPCALL_H
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#define UPCALL_CAPACITY 4096 /* records; a power of two. 64 KiB; more than 64 queues' worth of requests */
#define UPCALL_RUN 1024      /* the most chunks in a record: a read of FUSE_MAX_IO has a quarter of that */

struct upcall_record {
    uint32_t blob; /* handle */
    uint32_t first_chunk;
    uint32_t chunk_count;
    uint32_t has_failed; /* of a completion: they could not be had */
};

struct upcall_shared; /* the part in the memfd */

struct upcall_ring {
    struct upcall_shared *shared;
    int memory_fd;
    int event_fd;
    uint32_t head; /* the consumer's index */
    uint32_t tail; /* the producers' */
    pthread_mutex_t producers;
};

int upcall_ring_init(struct upcall_ring *ring);
/* A new, empty ring in the place of one whose consumer is gone. On failure it stays as it is. */
int upcall_ring_renew(struct upcall_ring *ring);
/* The consumer's end of a ring that another process has made; duplicates the descriptors. -EINVAL: the
 * memory is none of a ring, or could shrink under us. */
int upcall_ring_adopt(struct upcall_ring *ring, int memory_fd, int event_fd);
void upcall_ring_destroy(struct upcall_ring *ring);
/* A producer locks, looks for room *before* it claims chunks (a claim cannot be taken back: others
 * may have parked on it), pushes, unlocks. */
void upcall_lock(struct upcall_ring *ring);
void upcall_unlock(struct upcall_ring *ring);
bool upcall_has_room_locked(const struct upcall_ring *ring);
/* Whether it is worth trying. */
bool upcall_may_have_room(struct upcall_ring *ring);
void upcall_push_locked(struct upcall_ring *ring, uint32_t blob, uint32_t first_chunk, uint32_t chunk_count);
/* Takes up to `limit` records; *more: there are some left, of which event_fd says nothing any more. When
 * it is false, event_fd is readable once others arrive. -EPROTO: no producer of ours would leave the ring
 * like that. */
int upcall_take(struct upcall_ring *ring, struct upcall_record *records, unsigned limit, bool *more);
#endif
