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

/* Appends one descriptor's bytes as pieces. A piece lies in one region, even where two regions touch
 * on both sides: it must be possible to translate it again when they no longer do. */
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
        bool opens_region = gpa == memory->regions[vq->region_hint].gpa;
        if (*pieces && !opens_region && chain->gpa[at - 1] + last->iov_len == gpa && (uint8_t *)last->iov_base + last->iov_len == hva) {
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

/* A descriptor table: the ring's own, or an indirect one, which is ordinary guest memory. */
struct desc_table {
    const uint8_t *hva; /* NULL: it crosses regions and is read by gpa */
    uint64_t gpa;
    uint32_t num;
};

/* Copies `size` bytes of guest memory, which may cross regions. */
static int read_guest(struct virtqueue *vq, const struct gpa_table *memory, uint64_t gpa, void *to, uint64_t size)
{
    for (uint64_t done = 0, available; done < size; done += available) {
        const uint8_t *hva = gpa_to_hva(memory, gpa + done, &available, &vq->region_hint);
        if (!hva)
            return -EPROTO;
        available = available < size - done ? available : size - done;
        memcpy((uint8_t *)to + done, hva, available);
    }
    return 0;
}

/* The one read of a descriptor: the driver may rewrite it while we look at the copy. */
static int read_desc(struct virtqueue *vq, const struct gpa_table *memory, const struct desc_table *table, uint32_t at,
                     struct vring_desc *desc)
{
    uint64_t offset = (uint64_t)at * sizeof(*desc);
    int err = 0;

    if (table->hva)
        memcpy(desc, table->hva + offset, sizeof(*desc));
    else
        err = read_guest(vq, memory, table->gpa + offset, desc, sizeof(*desc));
    copied_once();
    return err;
}

static int find_indirect(struct virtqueue *vq, const struct gpa_table *memory, const struct vring_desc *desc,
                         struct desc_table *table)
{
    uint64_t available;

    if (desc->len == 0 || desc->len % sizeof(*desc) || desc->len / sizeof(*desc) > VRING_MAX_INDIRECT(vq->num))
        return -EPROTO;
    *table = (struct desc_table){ .gpa = desc->addr, .num = desc->len / sizeof(*desc) };
    table->hva = gpa_to_hva(memory, desc->addr, &available, &vq->region_hint);
    if (!table->hva)
        return -EPROTO;
    if (available < desc->len)
        table->hva = NULL;
    return 0;
}

/* Walks the chain from `head`. It may end in a descriptor that refers to an indirect table, and
 * plain ones may come before that (2.7.5.3.2). A table cannot be left again, and no chain is longer
 * than its table (2.7.5), which bounds loops. */
static int walk(struct virtqueue *vq, const struct gpa_table *memory, struct vring_chain *chain)
{
    struct desc_table table = { .hva = (const uint8_t *)vq->desc, .num = vq->num };
    bool is_indirect = false;
    uint32_t at = chain->head;

    for (uint32_t left = table.num; left; left--) {
        struct vring_desc desc;
        int err = at < table.num ? read_desc(vq, memory, &table, at, &desc) : -EPROTO;

        if (err)
            return err;
        if (desc.flags & VRING_DESC_F_INDIRECT) {
            if (is_indirect || !vq->indirect || (desc.flags & VRING_DESC_F_NEXT))
                return -EPROTO; /* 2.7.5.3.1 */
            err = find_indirect(vq, memory, &desc, &table);
            if (err)
                return err;
            is_indirect = true;
            at = 0;
            left = table.num + 1;
            continue;
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
    err = walk(vq, memory, chain);
    if (err)
        return err;
    if (chain->readable_size > UINT32_MAX || chain->writable_size > UINT32_MAX)
        return -EPROTO; /* 2.7.5: a chain is at most 2^32 bytes; the used length has 32 bits */
    vq->next_avail++;
    vq->in_flight++;
    return 1;
}

int vring_retranslate(const struct gpa_table *memory, struct iovec *iov, uint64_t *gpa, uint32_t *count, uint32_t capacity)
{
    unsigned hint = 0;

    for (uint32_t i = 0; i < *count; i++) {
        uint64_t available;
        uint8_t *hva = gpa_to_hva(memory, gpa[i], &available, &hint);
        if (!hva || (available < iov[i].iov_len && *count == capacity)) {
            *count = i;
            return -EFAULT;
        }
        if (available < iov[i].iov_len) {
            memmove(&iov[i + 1], &iov[i], (*count - i) * sizeof(*iov));
            memmove(&gpa[i + 1], &gpa[i], (*count - i) * sizeof(*gpa));
            iov[i].iov_len = available;
            iov[i + 1].iov_len -= available;
            gpa[i + 1] += available;
            ++*count;
        }
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
