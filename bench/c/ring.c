/* Add, publish, reap and wait on a split virtqueue. See ring.h. */
#include "ring.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "check.h"

/* Descriptors of a full request: header, arguments, reply header, reply arguments, pages. */
#define MAX_CHAIN (4 + RING_MAX_DATA / RING_PAGE)

/* The other side's words: read and written once each. */
#define load_relaxed(p) __atomic_load_n((p), __ATOMIC_RELAXED)
#define store_relaxed(p, v) __atomic_store_n((p), (v), __ATOMIC_RELAXED)

static uint16_t *used_event(const struct ring *ring) { return &ring->avail->ring[ring->num]; }
static uint16_t *avail_event(const struct ring *ring) { return (uint16_t *)&ring->used->ring[ring->num]; }

static void init_slot(struct ring *ring, struct slot *slot, bool with_data)
{
    uint8_t *page = front_end_allocate(ring->front_end, RING_PAGE, RING_PAGE);

    slot->in = (struct fuse_in_header *)page;
    slot->args = page + 64;
    slot->out = (struct fuse_out_header *)(page + 2048);
    slot->out_args = page + 2048 + 64;
    slot->data = with_data ? front_end_allocate(ring->front_end, RING_MAX_DATA, RING_PAGE) : NULL;
    slot->table = front_end_allocate(ring->front_end, MAX_CHAIN * sizeof(struct vring_desc), 64);
}

void ring_start(struct ring *ring, struct front_end *front_end, uint32_t index, uint32_t num, uint32_t depth, bool with_data)
{
    if (depth > num)
        die("a queue of %u entries cannot hold %u requests", num, depth);
    if (with_data && MAX_CHAIN > num)
        die("a chain of %u descriptors is longer than a queue of %u entries", MAX_CHAIN, num);
    *ring = (struct ring){ .front_end = front_end, .index = index, .num = num, .depth = depth };
    ring->event_idx = front_end->virtio_features & 1ull << VIRTIO_RING_F_EVENT_IDX;
    ring->desc = front_end_allocate(front_end, sizeof(struct vring_desc) * num, RING_PAGE);
    ring->avail = front_end_allocate(front_end, sizeof(struct vring_avail) + 2 * num + 2, RING_PAGE);
    ring->used = front_end_allocate(front_end, sizeof(struct vring_used) + 8 * num + 2, RING_PAGE);
    ring->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    ring->call_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    ring->slots = calloc(depth, sizeof(*ring->slots));
    ring->free = calloc(depth, sizeof(*ring->free));
    if (ring->kick_fd < 0 || ring->call_fd < 0 || !ring->slots || !ring->free)
        die("queue %u: out of memory or file descriptors", index);
    for (uint32_t i = 0; i < depth; i++) {
        init_slot(ring, &ring->slots[i], with_data);
        ring_give_back(ring, &ring->slots[i]);
    }
    struct vring_setup setup = { index, num, ring->desc, ring->avail, ring->used, ring->kick_fd, ring->call_fd };
    front_end_start_vring(front_end, &setup);
}

struct slot *ring_take(struct ring *ring)
{
    if (!ring->free_count)
        return NULL;
    ring->free_count--;
    struct slot *slot = &ring->slots[ring->free[ring->free_head]];
    ring->free_head = (ring->free_head + 1) % ring->depth;
    return slot;
}

void ring_give_back(struct ring *ring, struct slot *slot)
{
    ring->free[(ring->free_head + ring->free_count) % ring->depth] = (uint16_t)(slot - ring->slots);
    ring->free_count++;
}

/* With a power of two of pages, an odd stride visits each once and never two neighbours in a row. */
uint8_t *slot_page(const struct slot *slot, uint32_t page)
{
    uint32_t pages = slot->data_size / RING_PAGE;

    if (slot->is_scattered && pages >= 8 && !(pages & (pages - 1)))
        page = page * 5 % pages;
    return slot->data + (size_t)page * RING_PAGE;
}

static void describe(struct ring *ring, struct slot *slot, unsigned *count, const void *buffer, uint32_t size, bool is_writable)
{
    slot->table[*count] = (struct vring_desc){
        .addr = front_end_gpa(ring->front_end, buffer),
        .len = size,
        .flags = VRING_DESC_F_NEXT | (is_writable ? VRING_DESC_F_WRITE : 0),
        .next = (uint16_t)(*count + 1),
    };
    ++*count;
}

static void describe_pages(struct ring *ring, struct slot *slot, unsigned *count, uint32_t size, bool is_writable)
{
    for (uint32_t at = 0; at < size; at += RING_PAGE)
        describe(ring, slot, count, slot_page(slot, at / RING_PAGE), size - at < RING_PAGE ? size - at : RING_PAGE, is_writable);
}

void ring_add(struct ring *ring, struct slot *slot, uint32_t out_args_size, uint32_t data_size)
{
    uint16_t head = (uint16_t)(slot - ring->slots);
    unsigned count = 0;

    slot->data_size = slot->sent_size ? slot->sent_size : data_size;
    describe(ring, slot, &count, slot->in, sizeof(*slot->in), false);
    if (slot->args_size)
        describe(ring, slot, &count, slot->args, slot->args_size, false);
    describe_pages(ring, slot, &count, slot->sent_size, false);
    if (!slot->is_one_way)
        describe(ring, slot, &count, slot->out, sizeof(*slot->out), true);
    if (out_args_size)
        describe(ring, slot, &count, slot->out_args, out_args_size, true);
    describe_pages(ring, slot, &count, data_size, true);
    slot->table[count - 1].flags &= (uint16_t)~VRING_DESC_F_NEXT;
    ring->desc[head] = (struct vring_desc){
        .addr = front_end_gpa(ring->front_end, slot->table),
        .len = (uint32_t)(count * sizeof(struct vring_desc)),
        .flags = VRING_DESC_F_INDIRECT,
    };
    ring->avail->ring[ring->next_avail++ & (ring->num - 1)] = head;
}

void ring_publish(struct ring *ring)
{
    uint16_t old = ring->published;
    bool is_wanted;

    if (old == ring->next_avail)
        return;
    ring->published = ring->next_avail;
    /* release: entries and descriptors before the index that covers them */
    __atomic_store_n(&ring->avail->idx, ring->published, __ATOMIC_RELEASE);
    /* our index (store) before the device's wish (load): else neither side wakes the other */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (ring->event_idx)
        is_wanted = vring_need_event(load_relaxed(avail_event(ring)), ring->published, old);
    else
        is_wanted = !(load_relaxed(&ring->used->flags) & VRING_USED_F_NO_NOTIFY);
    if (!is_wanted)
        return;
    ring->kicks++;
    if (eventfd_write(ring->kick_fd, 1))
        die("cannot kick queue %u: %s", ring->index, strerror(errno));
}

bool ring_has_used(const struct ring *ring) { return load_relaxed(&ring->used->idx) != ring->next_used; }

struct slot *ring_reap(struct ring *ring, uint32_t *used_len)
{
    /* acquire: the element and the reply are read after the index that covers them */
    if (__atomic_load_n(&ring->used->idx, __ATOMIC_ACQUIRE) == ring->next_used)
        return NULL;
    struct vring_used_elem element = ring->used->ring[ring->next_used++ & (ring->num - 1)];
    if (element.id >= ring->depth)
        die("queue %u: the device completed %u, which is no request", ring->index, element.id);
    *used_len = element.len;
    return &ring->slots[element.id];
}

bool ring_enable_interrupt(struct ring *ring)
{
    if (ring->event_idx) /* without it interrupts are never switched off here */
        store_relaxed(used_event(ring), ring->next_used);
    /* our wish (store) before the device's index (load) */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return ring_has_used(ring);
}

void ring_describe(const struct ring *ring)
{
    fprintf(stderr, "queue %u: avail %u, avail_event %u, used %u, seen %u, used_event %u, kicks %llu\n", ring->index,
            ring->avail->idx, load_relaxed(avail_event(ring)), load_relaxed(&ring->used->idx), ring->next_used,
            load_relaxed(used_event(ring)), (unsigned long long)ring->kicks);
}

/* Edge-triggered, so that the counters of the eventfds need not be read: what counts is in the rings. */
static void watch(struct waiter *waiter, int fd, uint32_t events, uint64_t tag)
{
    struct epoll_event event = { .events = events, .data.u64 = tag };

    if (epoll_ctl(waiter->epoll_fd, EPOLL_CTL_ADD, fd, &event))
        die("epoll_ctl: %s", strerror(errno));
}

void waiter_init(struct waiter *waiter, struct ring *rings, unsigned count, unsigned timeout_s)
{
    *waiter = (struct waiter){ epoll_create1(EPOLL_CLOEXEC), rings, count, timeout_s };
    if (waiter->epoll_fd < 0)
        die("epoll_create1: %s", strerror(errno));
    for (unsigned i = 0; i < count; i++)
        watch(waiter, rings[i].call_fd, EPOLLIN | EPOLLET, i);
    watch(waiter, rings[0].front_end->socket, EPOLLRDHUP, UINT64_MAX);
}

void waiter_wait(struct waiter *waiter)
{
    struct epoll_event events[16];

    for (;;) {
        for (unsigned i = 0; i < waiter->count; i++)
            if (ring_enable_interrupt(&waiter->rings[i]))
                return;
        int n = epoll_wait(waiter->epoll_fd, events, 16, (int)waiter->timeout_s * 1000);
        if (n == 0) { /* used > seen: an interrupt was missed; used < avail: a kick, or the device is stuck */
            for (unsigned i = 0; i < waiter->count; i++)
                ring_describe(&waiter->rings[i]);
            die("no completion within %u s", waiter->timeout_s);
        }
        for (int i = 0; i < n; i++) {
            if (events[i].data.u64 == UINT64_MAX)
                die("the back-end closed the connection");
            waiter->rings[events[i].data.u64].interrupts++;
        }
    }
}
