/*
 * The vhost-user front-end: what a VMM does on the socket before the driver's first request.
 *
 * One memory region, a memfd, is all of guest memory; gpa 0 is its first byte. Messages are sent in
 * the order QEMU sends them, with REPLY_ACK where the back-end has it. Every receive has a time-out.
 */
#ifndef BENCH_FRONT_END_H
#define BENCH_FRONT_END_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct front_end {
    int socket;
    uint64_t virtio_features;   /* acknowledged */
    uint64_t protocol_features; /* acknowledged */
    uint8_t *memory;
    size_t memory_size, memory_used;
    int memory_fd;
};

/* One vring as the front-end announces it: pointers into guest memory, eventfds. */
struct vring_setup {
    uint32_t index, num;
    void *desc, *avail, *used;
    int kick_fd, call_fd;
};

/* Makes guest memory, then connects; with `wait`, tries again for up to timeout_s while nobody listens. */
void front_end_connect(struct front_end *front_end, const char *path, size_t memory_size, unsigned timeout_s, bool wait);
/* Negotiates; dies when the back-end has fewer than `queues` queues or offers no indirect descriptors. */
void front_end_negotiate(struct front_end *front_end, unsigned queues);
/* Hands out guest memory, never given back. Dies when there is no more. */
void *front_end_allocate(struct front_end *front_end, size_t size, size_t alignment);
uint64_t front_end_gpa(const struct front_end *front_end, const void *pointer);
void front_end_start_vring(struct front_end *front_end, const struct vring_setup *setup);
/* GET_VRING_BASE: stops the vring, returns the index of the next available entry. */
uint32_t front_end_stop_vring(struct front_end *front_end, uint32_t index);
#endif
