/* The device's half of a split virtqueue: what is popped, and what breaks the ring. */
#include "vring_check.h"

/* An entry of an indirect table at `table` in guest memory. */
static void indirect_desc(uint64_t table, uint32_t at, uint64_t offset, uint32_t length, uint16_t flags, uint16_t next)
{
    struct vring_desc entry = { GPA + offset, length, flags, next };
    memcpy(rig.guest + table + at * sizeof(entry), &entry, sizeof(entry));
}

/* The ring is broken, and stands where it stood. */
static void expect_broken(void)
{
    struct virtqueue before = rig.vq;

    CHECK_EQ(ring_rig_pop(&rig), -EPROTO);
    CHECK_EQ(rig.vq.next_avail, before.next_avail);
    CHECK_EQ(rig.vq.in_flight, before.in_flight);
    ring_rig_close(&rig);
}

static void test_direct_chain(void)
{
    open_with(8);
    CHECK_EQ(ring_rig_pop(&rig), 0);
    desc(5, DATA_AT, 40, NEXT, 1);
    desc(1, DATA_AT + 100, 16, NEXT, 7); /* does not touch the one before */
    desc(7, DATA_AT + 1000, 16, NEXT | WRITE, 0);
    desc(0, DATA_AT + 2000, 500, WRITE, 3);
    ring_rig_offer(&rig, 5);
    expect_chain(5, 2, 56, 2, 516);
    CHECK_EQ(rig.chain.gpa[3], GPA + DATA_AT + 2000);
    CHECK(rig.chain.iov[1].iov_base == rig.memory.regions[0].hva + DATA_AT + 100);
    CHECK_EQ(rig.chain.iov[3].iov_len, 500);
    CHECK_EQ(ring_rig_pop(&rig), 0);
    vring_push(&rig.vq, rig.chain.head, 77);
    CHECK_EQ(ring_rig_used(&rig)->idx, 1);
    CHECK_EQ(ring_rig_used(&rig)->ring[0].id, 5);
    CHECK_EQ(ring_rig_used(&rig)->ring[0].len, 77);
    ring_rig_close(&rig);
}

static void test_neighbours_are_joined_readable_with_writable_never(void)
{
    open_with(8);
    desc(0, DATA_AT, 40, NEXT, 1);
    desc(1, DATA_AT + 40, 8, NEXT, 2);
    desc(2, DATA_AT + 48, 16, NEXT | WRITE, 3);
    desc(3, DATA_AT + 64, 100, WRITE, 0);
    ring_rig_offer(&rig, 0);
    expect_chain(0, 1, 48, 1, 116);
    ring_rig_close(&rig);
}

static void test_empty_buffers(void)
{
    open_with(4);
    desc(0, DATA_AT, 0, NEXT, 1);
    desc(1, DATA_AT, 0, NEXT | WRITE, 2);
    desc(2, MEMORY_SIZE + 4096, 0, WRITE, 0); /* of nothing, so nowhere is as good a place */
    ring_rig_offer(&rig, 0);
    expect_chain(0, 0, 0, 0, 0);
    ring_rig_close(&rig);
}

static void test_indirect_chain(void)
{
    open_with(2);
    for (uint32_t i = 0; i < 300; i++) /* longer than the ring: drivers do that */
        indirect_desc(DATA_AT, i, DATA_AT + 8192 + 8 * i, 4, i < 299 ? NEXT | (i ? WRITE : 0) : WRITE, (uint16_t)(i + 1));
    desc(1, DATA_AT, 300 * 16, INDIRECT | WRITE, 0); /* WRITE means nothing here (2.7.5.3.2) */
    ring_rig_offer(&rig, 1);
    expect_chain(1, 1, 4, 299, 299 * 4);
    ring_rig_close(&rig);
}

static void test_plain_descriptors_before_an_indirect_table(void)
{
    open_with(4);
    desc(0, DATA_AT, 40, NEXT, 1);
    desc(1, DATA_AT + 100, 8, NEXT, 2);
    desc(2, DATA_AT + 4096, 2 * 16, INDIRECT, 0);
    indirect_desc(DATA_AT + 4096, 0, DATA_AT + 200, 4, NEXT, 1);
    indirect_desc(DATA_AT + 4096, 1, DATA_AT + 300, 16, WRITE, 0);
    ring_rig_offer(&rig, 0);
    expect_chain(0, 3, 52, 1, 16);
    ring_rig_close(&rig);
}

static void test_an_indirect_table_at_an_odd_address(void)
{
    open_with(4);
    for (uint32_t off = 1; off < 16; off++) {
        indirect_desc(DATA_AT + off, 0, DATA_AT + 200, 40, NEXT, 1);
        indirect_desc(DATA_AT + off, 1, DATA_AT + 300, 16, WRITE, 0);
        desc(0, DATA_AT + off, 2 * 16, INDIRECT, 0);
        ring_rig_offer(&rig, 0);
        expect_chain(0, 1, 40, 1, 16);
        vring_push(&rig.vq, 0, 0);
    }
    ring_rig_close(&rig);
}

/* Region two begins where the rig's ends: everything crosses at `border`. */
static void with_neighbour(void (*check)(uint64_t border, uint8_t *second))
{
    open_with(8);
    int fd = add_memory(&rig.memory, GPA + MEMORY_SIZE, MEMORY_SIZE, USER_BASE + 2 * MEMORY_SIZE);
    uint8_t *second = mmap(NULL, MEMORY_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(second != MAP_FAILED);
    check(MEMORY_SIZE, second);
    munmap(second, MEMORY_SIZE);
    close(fd);
    ring_rig_close(&rig);
}

static void buffer_crosses(uint64_t border, uint8_t *second)
{
    desc(0, border - 10, 40, NEXT, 1);
    desc(1, border - 4096, 8192, WRITE, 0);
    ring_rig_offer(&rig, 0);
    expect_chain(0, 2, 40, 2, 8192);
    CHECK_EQ(rig.chain.iov[0].iov_len, 10);
    CHECK_EQ(rig.chain.iov[1].iov_len, 30);
    CHECK_EQ(rig.chain.gpa[3], GPA + border);
    *(uint8_t *)rig.chain.iov[3].iov_base = 42;
    CHECK_EQ(second[0], 42);
}

static void table_crosses(uint64_t border, uint8_t *second)
{
    for (uint64_t before = 1; before < 48; before++) { /* at each byte of three descriptors */
        struct vring_desc entries[3] = { { GPA + DATA_AT, 40, NEXT, 1 },
                                         { GPA + DATA_AT + 64, 16, NEXT | WRITE, 2 },
                                         { GPA + DATA_AT + 128, 24, WRITE, 0 } };
        memcpy(rig.guest + border - before, entries, before);
        memcpy(second, (uint8_t *)entries + before, sizeof(entries) - before);
        desc(3, border - before, sizeof(entries), INDIRECT, 0);
        ring_rig_offer(&rig, 3);
        expect_chain(3, 1, 40, 2, 40);
        vring_push(&rig.vq, 3, 0);
    }
}

static void pieces_end_with_their_region(uint64_t border, uint8_t *second)
{
    /* The kernel may put the two mappings side by side: make it so. */
    struct gpa_region *regions = rig.memory.regions;
    uint8_t *both = mmap(NULL, 2 * MEMORY_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    uint8_t *hva[2] = { regions[0].hva, regions[1].hva };
    uint32_t count;

    CHECK(both != MAP_FAILED);
    regions[0].hva = both;
    regions[1].hva = both + MEMORY_SIZE;
    desc(0, border - 40, 40, NEXT, 1);
    desc(1, border, 8, NEXT, 2);
    desc(2, border - 4096, 8192, WRITE, 0);
    ring_rig_offer(&rig, 0);
    expect_chain(0, 2, 48, 2, 8192);
    regions[1].hva = hva[1];
    count = rig.chain.writable;
    CHECK_EQ(vring_retranslate(&rig.memory, rig.chain.iov + 2, rig.chain.gpa + 2, &count, count), 0);
    CHECK(rig.chain.iov[2].iov_base == both + border - 4096);
    CHECK(rig.chain.iov[3].iov_base == hva[1]);
    regions[0].hva = hva[0];
    munmap(both, 2 * MEMORY_SIZE);
}

static void test_what_crosses_regions(void)
{
    with_neighbour(buffer_crosses);
    with_neighbour(table_crosses);
    with_neighbour(pieces_end_with_their_region);
}

static void test_translating_again(void)
{
    struct gpa_table *memory = &rig.memory;
    uint32_t count = 2;

    open_with(8);
    desc(0, DATA_AT, 8192, NEXT | WRITE, 1);
    desc(1, DATA_AT + 65536, 4096, WRITE, 0);
    ring_rig_offer(&rig, 0);
    expect_chain(0, 0, 0, 2, 12288);
    /* the same memory, now in two regions, with the border inside the first piece */
    CHECK_EQ(gpa_remove_region(memory, GPA, MEMORY_SIZE, USER_BASE), 0);
    CHECK_EQ(gpa_add_region(memory, GPA, DATA_AT + 4096, USER_BASE, 0, rig.fd), 0);
    CHECK_EQ(gpa_add_region(memory, GPA + DATA_AT + 4096, MEMORY_SIZE - DATA_AT - 4096, USER_BASE + (1ull << 32), DATA_AT + 4096, rig.fd), 0);
    CHECK_EQ(vring_retranslate(memory, rig.chain.iov, rig.chain.gpa, &count, 3), 0);
    CHECK_EQ(count, 3);
    CHECK_EQ(rig.chain.iov[0].iov_len, 4096);
    CHECK_EQ(rig.chain.iov[1].iov_len, 4096);
    CHECK_EQ(rig.chain.iov[2].iov_len, 4096);
    CHECK_EQ(rig.chain.gpa[1], GPA + DATA_AT + 4096);
    CHECK(rig.chain.iov[1].iov_base == memory->regions[1].hva);
    CHECK(rig.chain.iov[2].iov_base == memory->regions[1].hva + 65536 - 4096);
    /* no room for one more piece, and memory that has gone: what is good comes first */
    CHECK_EQ(gpa_remove_region(memory, GPA + DATA_AT + 4096, MEMORY_SIZE - DATA_AT - 4096, USER_BASE + (1ull << 32)), 0);
    CHECK_EQ(vring_retranslate(memory, rig.chain.iov, rig.chain.gpa, &count, 3), -EFAULT);
    CHECK_EQ(count, 1);
    count = 1;
    CHECK_EQ(gpa_remove_region(memory, GPA, DATA_AT + 4096, USER_BASE), 0);
    CHECK_EQ(gpa_add_region(memory, GPA, DATA_AT + 1000, USER_BASE, 0, rig.fd), 0);
    CHECK_EQ(vring_retranslate(memory, rig.chain.iov, rig.chain.gpa, &count, 1), -EFAULT);
    CHECK_EQ(count, 0);
    ring_rig_close(&rig);
}

/* Each of these breaks the ring at its first pop. */
static void break_head(void) { ring_rig_offer(&rig, 8); }
static void break_head_maximal(void) { ring_rig_offer(&rig, 0xFFFF); }
static void break_ahead(void) { ring_rig_avail(&rig)->idx = 9; }
static void break_backwards(void) { ring_rig_avail(&rig)->idx = 0xFFFF; }
static void break_next(void) { desc(0, DATA_AT, 8, NEXT, 8); ring_rig_offer(&rig, 0); }
static void break_self_loop(void) { desc(0, DATA_AT, 8, NEXT, 0); ring_rig_offer(&rig, 0); }
static void break_loop(void)
{
    for (uint32_t i = 0; i < 8; i++)
        desc(i, DATA_AT, 8, NEXT, (uint16_t)((i + 1) % 8));
    ring_rig_offer(&rig, 3);
}
static void break_order(void)
{
    desc(0, DATA_AT, 8, NEXT | WRITE, 1);
    desc(1, DATA_AT, 8, 0, 0);
    ring_rig_offer(&rig, 0);
}
static void break_outside(void) { desc(0, MEMORY_SIZE, 1, 0, 0); ring_rig_offer(&rig, 0); }
static void break_before(void) { desc(0, (uint64_t)-1, 1, 0, 0); ring_rig_offer(&rig, 0); }
static void break_end_outside(void) { desc(0, MEMORY_SIZE - 8, 9, WRITE, 0); ring_rig_offer(&rig, 0); }
static void break_address_wraps(void) { *ring_rig_desc(&rig, 0) = (struct vring_desc){ UINT64_MAX - 7, 16, 0, 0 }; ring_rig_offer(&rig, 0); }
static void break_length(void) { desc(0, DATA_AT, UINT32_MAX, WRITE, 0); ring_rig_offer(&rig, 0); }
static void break_indirect_empty(void) { desc(0, DATA_AT, 0, INDIRECT, 0); ring_rig_offer(&rig, 0); }
static void break_indirect_odd(void) { desc(0, DATA_AT, 17, INDIRECT, 0); ring_rig_offer(&rig, 0); }
static void break_indirect_long(void) { desc(0, DATA_AT, 1025 * 16, INDIRECT, 0); ring_rig_offer(&rig, 0); }
static void break_indirect_outside(void) { desc(0, MEMORY_SIZE, 16, INDIRECT, 0); ring_rig_offer(&rig, 0); }
static void break_indirect_end_outside(void)
{
    desc(0, MEMORY_SIZE - 16, 32, INDIRECT, 0);
    indirect_desc(MEMORY_SIZE - 16, 0, DATA_AT, 8, NEXT, 1);
    ring_rig_offer(&rig, 0);
}
static void break_indirect_and_next(void)
{
    indirect_desc(DATA_AT, 0, DATA_AT + 4096, 8, 0, 0);
    desc(0, DATA_AT, 16, INDIRECT | NEXT, 1);
    desc(1, DATA_AT + 4096, 8, 0, 0);
    ring_rig_offer(&rig, 0);
}
static void break_indirect_nested(void)
{
    indirect_desc(DATA_AT, 0, DATA_AT + 4096, 16, INDIRECT, 0);
    indirect_desc(DATA_AT + 4096, 0, DATA_AT + 8192, 8, 0, 0);
    desc(0, DATA_AT, 16, INDIRECT, 0);
    ring_rig_offer(&rig, 0);
}
static void break_indirect_next(void)
{
    indirect_desc(DATA_AT, 0, DATA_AT + 4096, 8, NEXT, 2);
    desc(0, DATA_AT, 32, INDIRECT, 0);
    ring_rig_offer(&rig, 0);
}
static void break_indirect_loop(void)
{
    indirect_desc(DATA_AT, 0, DATA_AT + 4096, 8, NEXT, 1);
    indirect_desc(DATA_AT, 1, DATA_AT + 4096, 8, NEXT, 0);
    desc(0, DATA_AT, 32, INDIRECT, 0);
    ring_rig_offer(&rig, 0);
}
static void break_indirect_not_negotiated(void)
{
    indirect_desc(DATA_AT, 0, DATA_AT + 4096, 8, 0, 0);
    desc(0, DATA_AT, 16, INDIRECT, 0);
    rig.vq.indirect = false;
    ring_rig_offer(&rig, 0);
}
static void break_indirect_order(void) /* the rule holds across the two tables */
{
    desc(0, DATA_AT, 16, WRITE | NEXT, 1);
    desc(1, DATA_AT + 4096, 16, INDIRECT, 0);
    indirect_desc(DATA_AT + 4096, 0, DATA_AT, 8, 0, 0);
    ring_rig_offer(&rig, 0);
}
static void break_total_length(void) /* each buffer is lawful, the sum is over 2^32 */
{
    ring_rig_close(&rig);
    open_with(8192);
    for (uint32_t i = 0; i < 4097; i++)
        desc(i, 0, MEMORY_SIZE, i < 4096 ? NEXT | WRITE : WRITE, (uint16_t)(i + 1));
    ring_rig_offer(&rig, 0);
}

static void test_each_way_to_break_a_ring(void)
{
    void (*const ways[])(void) = {
        break_head, break_head_maximal, break_ahead, break_backwards, break_next, break_self_loop, break_loop,
        break_order, break_outside, break_before, break_end_outside, break_address_wraps, break_length,
        break_indirect_empty, break_indirect_odd, break_indirect_long, break_indirect_outside,
        break_indirect_end_outside, break_indirect_and_next, break_indirect_nested, break_indirect_next,
        break_indirect_loop, break_indirect_not_negotiated, break_indirect_order, break_total_length,
    };

    for (size_t i = 0; i < sizeof(ways) / sizeof(*ways); i++) {
        open_with(8);
        ways[i]();
        expect_broken();
    }
}

static void test_more_chains_out_than_descriptors(void)
{
    open_with(4);
    desc(0, DATA_AT, 16, WRITE, 0);
    for (int i = 0; i < 4; i++) {
        ring_rig_offer(&rig, 0);
        expect_chain(0, 0, 0, 1, 16);
    }
    ring_rig_offer(&rig, 0); /* only four can be out */
    expect_broken();
}

int main(void)
{
    RUN(test_direct_chain);
    RUN(test_neighbours_are_joined_readable_with_writable_never);
    RUN(test_empty_buffers);
    RUN(test_indirect_chain);
    RUN(test_plain_descriptors_before_an_indirect_table);
    RUN(test_an_indirect_table_at_an_odd_address);
    RUN(test_what_crosses_regions);
    RUN(test_translating_again);
    RUN(test_each_way_to_break_a_ring);
    RUN(test_more_chains_out_than_descriptors);
    return 0;
}
