/* One ring of the rig, its descriptors, and what a pop must give: for the tests of vring.c. */
#ifndef VHOSTFS_TESTS_VRING_CHECK_H
#define VHOSTFS_TESTS_VRING_CHECK_H
#include "ring_rig.h"

#define NEXT VRING_DESC_F_NEXT
#define WRITE VRING_DESC_F_WRITE
#define INDIRECT VRING_DESC_F_INDIRECT
#define GPA 0x40000000ull

static struct ring_rig rig;

static void open_with(uint32_t num) { ring_rig_open(&rig, num, GPA); }

static void desc(uint32_t at, uint64_t offset, uint32_t length, uint16_t flags, uint16_t next)
{
    *ring_rig_desc(&rig, at) = (struct vring_desc){ GPA + offset, length, flags, next };
}

static void expect_chain(uint16_t head, uint32_t readable, uint64_t readable_size, uint32_t writable, uint64_t writable_size)
{
    uint32_t in_flight = rig.vq.in_flight;

    CHECK_EQ(ring_rig_pop(&rig), 1);
    CHECK_EQ(rig.chain.head, head);
    CHECK_EQ(rig.chain.readable, readable);
    CHECK_EQ(rig.chain.readable_size, readable_size);
    CHECK_EQ(rig.chain.writable, writable);
    CHECK_EQ(rig.chain.writable_size, writable_size);
    CHECK_EQ(rig.vq.in_flight, in_flight + 1);
}
#endif
