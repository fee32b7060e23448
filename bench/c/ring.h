/*
 * The driver's half of a split virtqueue, with indirect descriptors and EVENT_IDX.
 *
 * A ring has `depth` slots; a slot is the guest memory of one request and the chain that leads to
 * it: header, arguments, pages of data that are sent; reply header, reply arguments, pages for data
 * that comes back: one descriptor a page, as the Linux virtio-fs driver lays them out. Slots are used in turn, so that data goes to other memory
 * each time, as it does with a guest's page cache.
 */
#ifndef BENCH_RING_H
#define BENCH_RING_H
#include <linux/fuse.h>
#include <linux/virtio_ring.h>
#include <stdbool.h>
#include <stdint.h>

#include "front_end.h"

#define RING_MAX_DATA (1u << 20) /* of one request */
#define RING_PAGE 4096u
#define RING_MAX_ARGS 1024u

struct slot {
    struct fuse_in_header *in;
    uint8_t *args;
    struct fuse_out_header *out;
    uint8_t *out_args;
    uint8_t *data; /* RING_MAX_DATA bytes */
    struct vring_desc *table;
    uint32_t args_size;
    uint32_t sent_size;   /* of data that goes to the device */
    uint32_t data_size;   /* of data that is sent or comes back */
    bool is_one_way;      /* there is no reply: FORGET */
    bool is_scattered; /* pages of data in an order without neighbours */
    /* the caller's own */
    void *owner;
    uint64_t started_ns, tag;
    uint32_t expected_len;
    void *stream; /* of the load, if it has some */
};

struct ring {
    struct front_end *front_end;
    uint32_t index, num, depth;
    struct vring_desc *desc;
    struct vring_avail *avail;
    struct vring_used *used;
    int kick_fd, call_fd;
    bool event_idx;
    uint16_t next_avail, published, next_used; /* private shadows */
    struct slot *slots;
    uint16_t *free; /* a circle of slots that are free */
    uint32_t free_head, free_count;
    uint64_t kicks, interrupts;
};

void ring_start(struct ring *ring, struct front_end *front_end, uint32_t index, uint32_t num, uint32_t depth, bool with_data);
/* NULL: all are in flight. */
struct slot *ring_take(struct ring *ring);
void ring_give_back(struct ring *ring, struct slot *slot);
/* Adds a request; the device sees it with the next ring_publish. `data_size` is of what comes back. */
void ring_add(struct ring *ring, struct slot *slot, uint32_t out_args_size, uint32_t data_size);
/* Publishes what was added and kicks if the device asked for that. */
void ring_publish(struct ring *ring);
/* The next completed request and its used length; NULL: none. */
struct slot *ring_reap(struct ring *ring, uint32_t *used_len);
bool ring_has_used(const struct ring *ring);
/* Asks for an interrupt with the next completion; true: there is one already. */
bool ring_enable_interrupt(struct ring *ring);
/* Pointer to page `page` of a slot's data, wherever it is scattered to. */
uint8_t *slot_page(const struct slot *slot, uint32_t page);
void ring_describe(const struct ring *ring);

/* Sleeps until one of `count` rings has a completion; dies after timeout_s, or when the back-end goes. */
struct waiter {
    int epoll_fd;
    struct ring *rings;
    unsigned count, timeout_s;
};
void waiter_init(struct waiter *waiter, struct ring *rings, unsigned count, unsigned timeout_s);
void waiter_wait(struct waiter *waiter);
#endif
