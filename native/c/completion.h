/*
 * The completion ring: upcalls come back from the agent when their chunks are there, or cannot be had.
 *
 * Whether a chunk is there, its READY bit says; a completion says that it is worth a look, or that a
 * chunk could not be had. Memory in a memfd that the worker makes; the agent, which produces, does not trust it: the memfd cannot shrink, the
 * agent's index is its own, and to wake the worker is a futex call, which nobody can make wait. (An eventfd
 * it would share with the worker, who could fill its counter and have the next write block.)
 *
 * The ring cannot overflow: the agent takes no more upcalls than there is room for their completions.
 */
#ifndef VHOSTFS_COMPLETION_H
#define VHOSTFS_COMPLETION_H
#include <stdbool.h>
#include <stdint.h>

#include "upcall.h"

#define COMPLETION_CAPACITY 4096 /* records; a power of two */

struct completion_shared; /* the part in the memfd */

struct completion_ring {
    struct completion_shared *shared;
    int memory_fd;
    uint32_t head; /* the consumer's index */
    uint32_t tail; /* the producer's */
};

int completion_ring_init(struct completion_ring *ring);
/* The producer's end of a ring that another process has made. Errors as upcall_ring_adopt. */
int completion_ring_adopt(struct completion_ring *ring, int memory_fd);
void completion_ring_destroy(struct completion_ring *ring);

/* Records that can be pushed; none, if the consumer has spoilt its index. */
uint32_t completion_room(const struct completion_ring *ring);
/* There is room. */
void completion_push(struct completion_ring *ring, const struct upcall_record *record);

unsigned completion_take(struct completion_ring *ring, struct upcall_record *records, unsigned limit);
/* The bell rings with each push, and when somebody calls ring_bell. Look at it before taking; wait_bell
 * returns when it has rung since. */
uint32_t completion_bell(const struct completion_ring *ring);
void completion_wait_bell(struct completion_ring *ring, uint32_t seen);
void completion_ring_bell(struct completion_ring *ring);
#endif
