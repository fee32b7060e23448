/*
 * The device's half of a split virtqueue (virtio 1.2, section 2.7).
 *
 * Owned by one queue thread; the control plane changes fields only while that thread is paused.
 * Everything the driver can write is read once, through barrier.h, and checked as a copy. A broken
 * ring is an error of its own (-EPROTO), never "empty", and never the end of the process.
 */
#ifndef VHOSTFS_VRING_H
#define VHOSTFS_VRING_H
#include <linux/virtio_ring.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "gpa.h"

#define VRING_MAX_NUM 32768
/* The standard allows an indirect table as many entries as the ring has; drivers in use exceed that
 * on small rings, and the peers accept 1024. */
#define VRING_MAX_INDIRECT(num) ((num) > 1024 ? (num) : 1024)

struct virtqueue {
    /* set by the control plane */
    uint32_t num; /* queue size, a power of two */
    uint64_t desc_user_addr, avail_user_addr, used_user_addr;
    bool has_addresses; /* the three are set: 0 is an address like others */
    bool event_idx, indirect;
    /* resolved from size and addresses by vring_resolve; NULL while the ring has no memory */
    const struct vring_desc *desc;
    struct vring_avail *avail;
    struct vring_used *used;
    /* private shadows of the shared indexes */
    uint16_t next_avail; /* next available entry to take */
    uint16_t next_used;  /* next used entry to fill */
    uint16_t signalled_used;
    bool signalled_used_valid;
    uint32_t in_flight; /* popped, not pushed yet */
    unsigned region_hint;
};

/* One popped chain. The caller gives room for `capacity` pieces; neighbouring pieces that touch in
 * guest-physical and in our memory are joined. readable pieces come first, then writable ones. */
struct vring_chain {
    struct iovec *iov;
    uint64_t *gpa; /* of each piece, for translating again after the memory table changed */
    uint32_t capacity;
    uint32_t readable, writable; /* number of pieces */
    uint64_t readable_size, writable_size;
    uint16_t head;
};

/* Turns the user addresses into pointers, once they and the size are set; again whenever one of
 * them, or the memory, has changed. -EFAULT: an area is outside guest memory or misaligned. */
int vring_resolve(struct virtqueue *vq, const struct gpa_table *memory);
void vring_unresolve(struct virtqueue *vq);

/* 1: a chain; 0: empty; -EPROTO: the driver broke the ring. */
int vring_pop(struct virtqueue *vq, const struct gpa_table *memory, struct vring_chain *chain);
/* Translates pieces again; one that lies across a new border becomes two, while they are no more
 * than `capacity`. -EFAULT: some of it is no guest memory any more; *count is how many before it are. */
int vring_retranslate(const struct gpa_table *memory, struct iovec *iov, uint64_t *gpa, uint32_t *count, uint32_t capacity);
/* Hands a chain back: `written` is the exact number of bytes stored in its writable pieces. */
void vring_push(struct virtqueue *vq, uint16_t head, uint32_t written);

/* Whether the driver asked for an interrupt for what was pushed since the last call. */
bool vring_should_signal(struct virtqueue *vq);
/* Ask for kicks and look once more: true when chains are waiting after all. */
bool vring_arm(struct virtqueue *vq);
/* Kicks are not wanted while the thread is looking by itself. */
void vring_disarm(struct virtqueue *vq);
bool vring_has_chain(const struct virtqueue *vq);
#endif
