/* The device's half of a split virtqueue: indexes that wrap, and when to notify. */
#include "vring_check.h"

static void test_every_size_round_the_16_bit_index(void)
{
    for (uint32_t num = 1; num <= VRING_MAX_NUM; num *= 2) {
        open_with(num);
        ring_rig_begin(&rig, 65530);
        for (uint32_t i = 0; i < 20; i++) {
            uint16_t head = (uint16_t)((num - 1) & (i * 7));
            desc(head, DATA_AT, 8 + i, WRITE, 0);
            ring_rig_offer(&rig, head);
            expect_chain(head, 0, 0, 1, 8 + i);
            vring_push(&rig.vq, head, i);
            CHECK_EQ(ring_rig_used(&rig)->idx, (uint16_t)(65531 + i));
            CHECK_EQ(ring_rig_used(&rig)->ring[(65530 + i) & (num - 1)].id, head);
            CHECK_EQ(ring_rig_used(&rig)->ring[(65530 + i) & (num - 1)].len, i);
        }
        ring_rig_close(&rig);
    }
}

static void test_a_full_ring_of_each_size(void)
{
    for (uint32_t num = 1; num <= VRING_MAX_NUM; num *= 32) {
        open_with(num);
        ring_rig_begin(&rig, (uint16_t)(65535 - num / 2));
        for (uint32_t i = 0; i < num; i++) {
            desc(i, DATA_AT, 16, WRITE, 0);
            ring_rig_offer(&rig, (uint16_t)i);
        }
        for (uint32_t i = 0; i < num; i++)
            expect_chain((uint16_t)i, 0, 0, 1, 16);
        CHECK_EQ(ring_rig_pop(&rig), 0);
        for (uint32_t i = num; i--;)
            vring_push(&rig.vq, (uint16_t)i, 0);
        CHECK_EQ(rig.vq.in_flight, 0);
        ring_rig_close(&rig);
    }
}

static void push(unsigned count)
{
    rig.vq.in_flight += count;
    while (count--)
        vring_push(&rig.vq, 0, 0);
}

static uint16_t *used_event_word(void) { return &ring_rig_avail(&rig)->ring[rig.vq.num]; }
static uint16_t avail_event_word(void) { return *(uint16_t *)&ring_rig_used(&rig)->ring[rig.vq.num]; }

static void test_signals_without_event_idx(void)
{
    open_with(8);
    CHECK(vring_should_signal(&rig.vq)); /* nothing is known yet: rather one too many */
    CHECK(!vring_should_signal(&rig.vq));
    push(1);
    CHECK(vring_should_signal(&rig.vq));
    CHECK(!vring_should_signal(&rig.vq));
    ring_rig_avail(&rig)->flags = VRING_AVAIL_F_NO_INTERRUPT;
    push(3);
    CHECK(!vring_should_signal(&rig.vq));
    ring_rig_avail(&rig)->flags = 0;
    CHECK(!vring_should_signal(&rig.vq)); /* the driver looks itself after it cleared the flag */
    ring_rig_close(&rig);
}

/* The rule by brute force: some index from old + 1 to new is event + 1. */
static bool passes(uint16_t event, uint16_t new_idx, uint16_t old)
{
    for (uint16_t at = old; at != new_idx; at++)
        if (at == event)
            return true;
    return false;
}

static void test_signals_with_event_idx(void)
{
    static const uint16_t bases[] = { 0, 1, 100, 32767, 32768, 65530, 65535 };

    for (size_t b = 0; b < sizeof(bases) / sizeof(*bases); b++) {
        open_with(8);
        rig.vq.event_idx = true;
        ring_rig_begin(&rig, bases[b]);
        *used_event_word() = (uint16_t)(bases[b] + 1000);
        CHECK(vring_should_signal(&rig.vq)); /* the first after a start, whatever the driver wished */
        for (unsigned round = 0; round < 3; round++) {
            for (int event = -9; event <= 9; event++) {
                uint16_t old = rig.vq.next_used;
                *used_event_word() = (uint16_t)(old + event);
                push(5);
                CHECK_EQ(vring_should_signal(&rig.vq), passes((uint16_t)(old + event), rig.vq.next_used, old));
                CHECK(!vring_should_signal(&rig.vq));
            }
        }
        ring_rig_close(&rig);
    }
}

static void test_arm_and_disarm(void)
{
    for (int event_idx = 0; event_idx < 2; event_idx++) {
        open_with(8);
        rig.vq.event_idx = event_idx;
        ring_rig_begin(&rig, 65534);
        desc(0, DATA_AT, 16, WRITE, 0);
        vring_disarm(&rig.vq);
        CHECK_EQ(ring_rig_used(&rig)->flags, event_idx ? 0 : VRING_USED_F_NO_NOTIFY);
        CHECK(!vring_arm(&rig.vq));
        CHECK_EQ(ring_rig_used(&rig)->flags, 0);
        if (event_idx)
            CHECK_EQ(avail_event_word(), 65534);
        ring_rig_offer(&rig, 0);
        CHECK(vring_arm(&rig.vq)); /* came before we could sleep */
        CHECK(vring_has_chain(&rig.vq));
        for (int i = 0; i < 3; i++) {
            expect_chain(0, 0, 0, 1, 16);
            vring_push(&rig.vq, 0, 0);
            CHECK(!vring_arm(&rig.vq));
            if (event_idx)
                CHECK_EQ(avail_event_word(), (uint16_t)(65535 + i));
            ring_rig_offer(&rig, 0);
        }
        ring_rig_close(&rig);
    }
}

int main(void)
{
    RUN(test_every_size_round_the_16_bit_index);
    RUN(test_a_full_ring_of_each_size);
    RUN(test_signals_without_event_idx);
    RUN(test_signals_with_event_idx);
    RUN(test_arm_and_disarm);
    return 0;
}
