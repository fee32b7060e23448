/*
 * Invariant: any descriptors give a chain whose pieces all lie in guest memory and add up to its sizes, or
 * break the ring and leave it where it stood.
 *
 * The input is the queue's size and features, then descriptors: where each stands (in the ring's table or
 * in a place for indirect ones), its address, length, flags and next.
 */
#include "fuzz.h"
#include "ring_rig.h"

#define GPA 0x1000000ull
#define OTHER_GPA (GPA + MEMORY_SIZE) /* touches the first region */
#define LAST_GPA (UINT64_MAX - 4096)  /* ends where addresses end */

static struct ring_rig rig;
static uint32_t sizes[] = { 1, 2, 4, 8, 64, 256 };

static void open_once(void)
{
    if (rig.guest)
        return;
    ring_rig_open(&rig, 256, GPA); /* room for the chains of every size */
    close(add_memory(&rig.memory, OTHER_GPA, MEMORY_SIZE, USER_BASE + 4 * MEMORY_SIZE));
    close(add_memory(&rig.memory, LAST_GPA, 4096, USER_BASE + 16 * MEMORY_SIZE));
}

static uint64_t pick_address(struct fuzz_input *input)
{
    static const uint64_t bases[] = { GPA + DATA_AT, GPA + MEMORY_SIZE - 40, OTHER_GPA, OTHER_GPA + MEMORY_SIZE - 40, LAST_GPA, LAST_GPA + 4090, 0, GPA - 8 };
    uint64_t choice = fuzz_take(input, 1);

    if (choice & 0x80)
        return fuzz_take(input, 8);
    return bases[choice % 8] + fuzz_take(input, 1);
}

static void write_desc(struct fuzz_input *input)
{
    uint8_t where = (uint8_t)fuzz_take(input, 1);
    struct vring_desc desc = { .addr = pick_address(input) };
    uint8_t length = (uint8_t)fuzz_take(input, 1);

    desc.len = length < 128 ? length * 16u : (uint32_t)fuzz_take(input, 4);
    desc.flags = (uint16_t)(fuzz_take(input, 1) & 0xF);
    desc.next = (uint16_t)fuzz_take(input, 1);
    if (desc.next == 0xFF)
        desc.next = (uint16_t)fuzz_take(input, 2);
    /* the upper half stands in tables: one in the data, one that crosses into the second region */
    if (where < 0x80)
        *ring_rig_desc(&rig, where) = desc;
    else if (where < 0xC0)
        memcpy(rig.guest + DATA_AT + (where & 0x3F) * sizeof(desc), &desc, sizeof(desc));
    else if (where < 0xC3)
        memcpy(rig.guest + MEMORY_SIZE - 40 + (where & 0x3F) * 16ull, &desc, where == 0xC2 ? 8 : 16);
}

static void check_piece(const struct iovec *piece, uint64_t gpa)
{
    for (unsigned i = 0; i < rig.memory.count; i++) {
        const struct gpa_region *region = &rig.memory.regions[i];
        uint64_t offset = (uint64_t)((uint8_t *)piece->iov_base - region->hva);
        if (offset < region->size && piece->iov_len <= region->size - offset) {
            CHECK_EQ(gpa, region->gpa + offset);
            return;
        }
    }
    CHECK(!"a piece outside of guest memory");
}

static void check_chain(void)
{
    const struct vring_chain *chain = &rig.chain;
    uint64_t readable = 0, writable = 0;

    CHECK(chain->head < rig.vq.num);
    CHECK(chain->readable + chain->writable <= chain->capacity);
    for (uint32_t i = 0; i < chain->readable + chain->writable; i++) {
        check_piece(&chain->iov[i], chain->gpa[i]);
        *(i < chain->readable ? &readable : &writable) += chain->iov[i].iov_len;
    }
    CHECK_EQ(readable, chain->readable_size);
    CHECK_EQ(writable, chain->writable_size);
    CHECK(readable <= UINT32_MAX && writable <= UINT32_MAX);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input input = { data, size };
    uint8_t setting = (uint8_t)fuzz_take(&input, 1);
    uint16_t base = (uint16_t)fuzz_take(&input, 2);
    uint8_t heads = (uint8_t)fuzz_take(&input, 1) % 8;

    open_once();
    memset(rig.guest + DESC_AT, 0, 256 * sizeof(struct vring_desc));
    memset(rig.guest + DATA_AT, 0, 64 * sizeof(struct vring_desc));
    rig.vq.num = sizes[(setting & 7) % 6];
    rig.vq.indirect = !(setting & 8);
    rig.vq.in_flight = 0;
    ring_rig_begin(&rig, base);
    for (uint8_t i = 0; i < heads; i++)
        ring_rig_offer(&rig, (uint16_t)fuzz_take(&input, setting & 16 ? 2 : 1));
    while (input.left)
        write_desc(&input);
    for (;;) {
        struct virtqueue before = rig.vq;
        int got = ring_rig_pop(&rig);
        if (got <= 0) {
            CHECK(got == 0 || got == -EPROTO);
            CHECK_EQ(rig.vq.next_avail, before.next_avail);
            CHECK_EQ(rig.vq.in_flight, before.in_flight);
            return 0;
        }
        CHECK_EQ(rig.vq.next_avail, (uint16_t)(before.next_avail + 1));
        check_chain();
    }
}

static uint8_t *seed_desc(uint8_t *at, uint8_t where, uint8_t base, uint8_t length, uint8_t flags, uint8_t next)
{
    const uint8_t desc[] = { where, base, 0, length, flags, next };

    memcpy(at, desc, sizeof(desc));
    return at + sizeof(desc);
}

size_t fuzz_seed(unsigned index, uint8_t *to)
{
    uint8_t *at = to;

    if (index >= 24)
        return 0;
    *at++ = (uint8_t)(index % 6); /* size; indirect tables allowed */
    *at++ = 0xFE;
    *at++ = 0xFF;
    *at++ = 1;
    *at++ = 0; /* the head */
    switch (index / 6) {
    case 0: /* readable, writable */
        at = seed_desc(at, 0, 1, 3, VRING_DESC_F_NEXT, 1);
        at = seed_desc(at, 1, 2, 8, VRING_DESC_F_WRITE, 0);
        break;
    case 1: /* an indirect table */
        at = seed_desc(at, 0, 0, 3, VRING_DESC_F_INDIRECT, 0);
        at = seed_desc(at, 0x80, 2, 3, VRING_DESC_F_NEXT, 1);
        at = seed_desc(at, 0x81, 3, 1, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, 2);
        at = seed_desc(at, 0x82, 4, 8, VRING_DESC_F_WRITE, 0);
        break;
    case 2: /* one that crosses regions */
        at = seed_desc(at, 0, 1, 3, VRING_DESC_F_INDIRECT, 0);
        at = seed_desc(at, 0xC0, 2, 3, VRING_DESC_F_NEXT, 1);
        at = seed_desc(at, 0xC1, 3, 1, VRING_DESC_F_WRITE, 2);
        break;
    default: /* plain, then indirect */
        at = seed_desc(at, 0, 2, 3, VRING_DESC_F_NEXT, 1);
        at = seed_desc(at, 1, 0, 1, VRING_DESC_F_INDIRECT, 0);
        at = seed_desc(at, 0x80, 2, 3, VRING_DESC_F_WRITE, 0);
    }
    return (size_t)(at - to);
}
