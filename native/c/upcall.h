/*
 * The upcall ring: chunks that the data plane wants fetched, C to whoever fetches.
 *
 * Position-independent data in a memfd, with an eventfd to wake the consumer, so the two ends may
 * be threads of one process or two processes. Bounded: a producer that finds it full keeps its
 * request and tries again. Producers serialise on a mutex (a miss costs a network round trip);
 * there is one consumer.
 */
#ifndef VHOSTFS_UPCALL_H
#define VHOSTFS_UPCALL_H
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#define UPCALL_CAPACITY 4096 /* records; a power of two. 64 KiB; more than 64 queues' worth of requests */

struct upcall_record {
    uint32_t blob; /* handle */
    uint32_t first_chunk;
    uint32_t chunk_count;
    uint32_t reserved;
};

struct upcall_shared; /* the part in the memfd */

struct upcall_ring {
    struct upcall_shared *shared;
    int memory_fd;
    int event_fd;
    pthread_mutex_t producers;
};

int upcall_ring_init(struct upcall_ring *ring);
void upcall_ring_destroy(struct upcall_ring *ring);
/* A producer locks, looks for room *before* it claims chunks (a claim cannot be taken back: others
 * may have parked on it), pushes, unlocks. */
void upcall_lock(struct upcall_ring *ring);
void upcall_unlock(struct upcall_ring *ring);
bool upcall_has_room_locked(const struct upcall_ring *ring);
/* A guess that needs no lock: whether it is worth trying. */
bool upcall_may_have_room(const struct upcall_ring *ring);
void upcall_push_locked(struct upcall_ring *ring, uint32_t blob, uint32_t first_chunk, uint32_t chunk_count);
/* Takes up to `limit` records. When there are more, or more arrive later, event_fd is readable. */
unsigned upcall_take(struct upcall_ring *ring, struct upcall_record *records, unsigned limit);
#endif
