/* Pop, push, and the two notification rules of a split virtqueue. See vring.h. */
#include "vring.h"

#include <errno.h>
#include <string.h>

#include "barrier.h"

/* With EVENT_IDX each ring carries, after its last entry, the index at which the *other* side
 * wants to be told: used_event is the driver's wish, avail_event is ours. */
static uint16_t *used_event(const struct virtqueue *vq) { return &vq->avail->ring[vq->num]; }
static uint16_t *avail_event(const struct virtqueue *vq) { return (uint16_t *)&vq->used->ring[vq->num]; }

static bool is_aligned(uint64_t user_addr, const void *hva, unsigned alignment)
{
    return !((user_addr | (uintptr_t)hva) & (alignment - 1));
}

int vring_resolve(struct virtqueue *vq, const struct gpa_table *memory)
{
    uint64_t num = vq->num;

    vring_unresolve(vq);
    if (!vq->has_addresses || !num || !memory->count)
        return 0;
    /* The event words are part of the areas whether or not EVENT_IDX is on. */
    vq->desc = gpa_user_to_hva(memory, vq->desc_user_addr, num * sizeof(struct vring_desc));
    vq->avail = gpa_user_to_hva(memory, vq->avail_user_addr, sizeof(struct vring_avail) + num * 2 + 2);
    vq->used = gpa_user_to_hva(memory, vq->used_user_addr, sizeof(struct vring_used) + num * 8 + 2);
    /* Both addresses must be aligned: a region may lie askew in its file. */
    if (vq->desc && vq->avail && vq->used && is_aligned(vq->desc_user_addr, vq->desc, 16) &&
        is_aligned(vq->avail_user_addr, vq->avail, 2) && is_aligned(vq->used_user_addr, vq->used, 4))
        return 0;
    vring_unresolve(vq);
    return -EFAULT;
}

void vring_unresolve(struct virtqueue *vq)
{
    vq->desc = NULL;
    vq->avail = NULL;
    vq->used = NULL;
}

/* Appends one descriptor's bytes as pieces; a buffer that crosses regions becomes several. */
static int add_buffer(struct virtqueue *vq, const struct gpa_table *memory, struct vring_chain *chain,
                      const struct vring_desc *desc)
{
    bool writable = desc->flags & VRING_DESC_F_WRITE;
    uint32_t *pieces = writable ? &chain->writable : &chain->readable;
    uint64_t gpa = desc->addr, left = desc->len, available;

    if (!writable && chain->writable)
        return -EPROTO; /* 2.7.4.2: readable ones come first */
    *(writable ? &chain->writable_size : &chain->readable_size) += left;
    while (left) {
        uint32_t at = chain->readable + chain->writable;
        uint8_t *hva = gpa_to_hva(memory, gpa, &available, &vq->region_hint);
        if (!hva)
            return -EPROTO;
        uint64_t take = left < available ? left : available;
        struct iovec *last = at ? &chain->iov[at - 1] : NULL;
        if (*pieces && chain->gpa[at - 1] + last->iov_len == gpa && (uint8_t *)last->iov_base + last->iov_len == hva) {
            last->iov_len += take;
        } else {
            if (at == chain->capacity)
                return -EPROTO;
            chain->iov[at] = (struct iovec){ hva, take };
            chain->gpa[at] = gpa;
            (*pieces)++;
        }
        gpa += take;
        left -= take;
    }
    return 0;
}

/* Walks `table`; `hops` bounds loops: a chain is no longer than its table (2.7.5). */
static int walk(struct virtqueue *vq, const struct gpa_table *memory, struct vring_chain *chain,
                const struct vring_desc *table, uint32_t table_num, uint32_t at, bool is_indirect)
{
    for (uint32_t hops = 0; hops < table_num; hops++) {
        struct vring_desc desc;
        int err;

        if (at >= table_num)
            return -EPROTO;
        /* The one read of this descriptor: the driver may rewrite it while we look at the copy.
         * volatile keeps the compiler from reading a field again later. */
        const volatile struct vring_desc *shared = &table[at];
        desc.addr = shared->addr;
        desc.len = shared->len;
        desc.flags = shared->flags;
        desc.next = shared->next;

        if (desc.flags & VRING_DESC_F_INDIRECT) {
            uint64_t available;
            /* Only as the sole descriptor of a chain in the ring's own table (2.7.5.3.1). */
            if (is_indirect || !vq->indirect || (desc.flags & VRING_DESC_F_NEXT) || hops)
                return -EPROTO;
            if (desc.len == 0 || desc.len % sizeof(desc) || desc.len / sizeof(desc) > VRING_MAX_INDIRECT(vq->num))
                return -EPROTO;
            const uint8_t *hva = gpa_to_hva(memory, desc.addr, &available, &vq->region_hint);
            if (!hva || available < desc.len || ((uintptr_t)hva & 7))
                return -EPROTO;
            return walk(vq, memory, chain, (const struct vring_desc *)hva, desc.len / sizeof(desc), 0, true);
        }
        err = add_buffer(vq, memory, chain, &desc);
        if (err)
            return err;
        if (!(desc.flags & VRING_DESC_F_NEXT))
            return 0;
        at = desc.next;
    }
    return -EPROTO;
}

int vring_pop(struct virtqueue *vq, const struct gpa_table *memory, struct vring_chain *chain)
{
    uint16_t ahead = (uint16_t)(ring_load_acquire(&vq->avail->idx) - vq->next_avail);
    int err;

    if (ahead == 0)
        return 0;
    /* More entries than the ring has, or more chains out than there are descriptors, is a driver
     * that hands out what it does not own. The second rule also bounds what we must remember. */
    if (ahead > vq->num || vq->in_flight >= vq->num)
        return -EPROTO;
    chain->head = shared_load_relaxed(&vq->avail->ring[vq->next_avail & (vq->num - 1)]);
    if (chain->head >= vq->num)
        return -EPROTO;
    chain->readable = chain->writable = 0;
    chain->readable_size = chain->writable_size = 0;
    err = walk(vq, memory, chain, vq->desc, vq->num, chain->head, false);
    if (err)
        return err;
    if (chain->readable_size > UINT32_MAX || chain->writable_size > UINT32_MAX)
        return -EPROTO; /* 2.7.5: a chain is at most 2^32 bytes; the used length has 32 bits */
    vq->next_avail++;
    vq->in_flight++;
    return 1;
}

int vring_retranslate(const struct gpa_table *memory, struct iovec *iov, const uint64_t *gpa, uint32_t count)
{
    unsigned hint = 0;

    for (uint32_t i = 0; i < count; i++) {
        uint64_t available;
        uint8_t *hva = gpa_to_hva(memory, gpa[i], &available, &hint);
        if (!hva || available < iov[i].iov_len)
            return -EFAULT;
        iov[i].iov_base = hva;
    }
    return 0;
}

void vring_push(struct virtqueue *vq, uint16_t head, uint32_t written)
{
    struct vring_used_elem *element = &vq->used->ring[vq->next_used & (vq->num - 1)];

    element->id = head;
    element->len = written;
    vq->next_used++;
    vq->in_flight--;
    ring_store_release(&vq->used->idx, vq->next_used);
}

bool vring_should_signal(struct virtqueue *vq)
{
    uint16_t old = vq->signalled_used, new = vq->next_used;
    bool known = vq->signalled_used_valid;

    if (known && old == new)
        return false;
    vq->signalled_used = new;
    vq->signalled_used_valid = true;
    full_fence(); /* used->idx (our store) before used_event or flags (our load); see barrier.h */
    if (!vq->event_idx)
        return !(shared_load_relaxed(&vq->avail->flags) & VRING_AVAIL_F_NO_INTERRUPT);
    return !known || vring_need_event(shared_load_relaxed(used_event(vq)), new, old);
}

bool vring_has_chain(const struct virtqueue *vq)
{
    return shared_load_relaxed(&vq->avail->idx) != vq->next_avail; /* only a hint: pop acquires */
}

bool vring_arm(struct virtqueue *vq)
{
    if (vq->event_idx)
        shared_store_relaxed(avail_event(vq), vq->next_avail);
    else
        shared_store_relaxed(&vq->used->flags, 0);
    full_fence(); /* our wish before the look at avail->idx: else a chain added in between has no kick */
    return vring_has_chain(vq);
}

void vring_disarm(struct virtqueue *vq)
{
    /* With EVENT_IDX an avail_event that stays behind is enough: the driver kicks only when its
     * index passes it. */
    if (!vq->event_idx)
        shared_store_relaxed(&vq->used->flags, VRING_USED_F_NO_NOTIFY);
}
