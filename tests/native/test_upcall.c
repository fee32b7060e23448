/* The upcall ring: full, empty, round its indexes, and never asleep with something in it. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"
#include "upcall.h"

static struct upcall_ring ring;
static struct upcall_record records[UPCALL_CAPACITY + 1];
static bool more;

static bool is_readable(void)
{
    struct pollfd pollfd = { .fd = ring.event_fd, .events = POLLIN };

    return poll(&pollfd, 1, 0) == 1;
}

static bool push(uint32_t blob, uint32_t first, uint32_t count)
{
    bool room;

    upcall_lock(&ring);
    room = upcall_has_room_locked(&ring);
    if (room)
        upcall_push_locked(&ring, blob, first, count);
    upcall_unlock(&ring);
    return room;
}

static void test_what_goes_in_comes_out_in_order(void)
{
    CHECK_EQ(upcall_ring_init(&ring), 0);
    CHECK(!is_readable());
    CHECK_EQ(upcall_take(&ring, records, 10, &more), 0);
    for (uint32_t i = 0; i < 5; i++)
        CHECK(push(i, 10 * i, i + 1));
    CHECK(is_readable());
    CHECK_EQ(upcall_take(&ring, records, 3, &more), 3);
    CHECK(more);
    CHECK(!is_readable()); /* it has been said */
    CHECK_EQ(records[2].blob, 2);
    CHECK_EQ(records[2].first_chunk, 20);
    CHECK_EQ(records[2].chunk_count, 3);
    CHECK_EQ(upcall_take(&ring, records, 3, &more), 2);
    CHECK_EQ(records[1].blob, 4);
    CHECK(!more);
    CHECK(!is_readable());
    upcall_ring_destroy(&ring);
}

static void test_full_then_room_again(void)
{
    CHECK_EQ(upcall_ring_init(&ring), 0);
    for (uint32_t round = 0; round < 5; round++) {
        for (uint32_t i = 0; i < UPCALL_CAPACITY; i++)
            CHECK(push(round, i, 1));
        CHECK(!upcall_may_have_room(&ring));
        CHECK(!push(9, 9, 9));
        CHECK(is_readable());
        CHECK_EQ(upcall_take(&ring, records, 1, &more), 1);
        CHECK(more);
        CHECK(upcall_may_have_room(&ring));
        CHECK(push(round, UPCALL_CAPACITY, 1));
        CHECK(!push(9, 9, 9));
        CHECK_EQ(upcall_take(&ring, records, UPCALL_CAPACITY + 1, &more), UPCALL_CAPACITY);
        for (uint32_t i = 0; i < UPCALL_CAPACITY; i++)
            CHECK_EQ(records[i].first_chunk, i + 1);
        CHECK(!is_readable());
    }
    upcall_ring_destroy(&ring);
}

static void test_every_push_into_an_empty_ring_is_an_event(void)
{
    CHECK_EQ(upcall_ring_init(&ring), 0);
    for (uint32_t i = 0; i < 3 * UPCALL_CAPACITY; i++) {
        CHECK(push(1, i, 1));
        CHECK(is_readable());
        CHECK_EQ(upcall_take(&ring, records, 1 + i % 3, &more), 1);
        CHECK_EQ(records[0].first_chunk, i);
        CHECK(!is_readable());
    }
    upcall_ring_destroy(&ring);
}

static void test_indexes_wrap_at_2_32(void)
{
    CHECK_EQ(upcall_ring_init(&ring), 0);
    /* head and tail stand 64 bytes apart at the start of the shared part */
    uint32_t *head = (uint32_t *)ring.shared, *tail = head + 16;
    *head = *tail = ring.head = ring.tail = UINT32_MAX - 5;
    for (uint32_t i = 0; i < UPCALL_CAPACITY; i++)
        CHECK(push(7, i, 1));
    CHECK(!push(9, 9, 9));
    CHECK_EQ(upcall_take(&ring, records, UPCALL_CAPACITY, &more), UPCALL_CAPACITY);
    for (uint32_t i = 0; i < UPCALL_CAPACITY; i++)
        CHECK_EQ(records[i].first_chunk, i);
    CHECK_EQ(*tail, UPCALL_CAPACITY - 6);
    CHECK_EQ(upcall_take(&ring, records, 1, &more), 0);
    upcall_ring_destroy(&ring);
}

enum { PRODUCERS = 3, EACH = 30000 };

static void *produce(void *argument)
{
    uint32_t blob = (uint32_t)(uintptr_t)argument;

    for (uint32_t i = 0; i < EACH;) {
        if (push(blob, i, 1))
            i++;
        else
            sched_yield();
    }
    return NULL;
}

/* The consumer sleeps on the eventfd alone: a lost event hangs the test, and its alarm ends it. */
static void test_producers_against_a_consumer_that_sleeps(void)
{
    pthread_t threads[PRODUCERS];
    uint32_t next[PRODUCERS] = { 0 }, taken = 0;
    struct pollfd pollfd;

    CHECK_EQ(upcall_ring_init(&ring), 0);
    pollfd = (struct pollfd){ .fd = ring.event_fd, .events = POLLIN };
    more = false;
    for (uintptr_t i = 0; i < PRODUCERS; i++)
        CHECK_EQ(pthread_create(&threads[i], NULL, produce, (void *)i), 0);
    while (taken < PRODUCERS * EACH) {
        if (!more)
            CHECK_EQ(poll(&pollfd, 1, 10000), 1);
        int count = upcall_take(&ring, records, 1 + taken % 300, &more);
        CHECK(count >= 0);
        for (int i = 0; i < count; i++)
            CHECK_EQ(records[i].first_chunk, next[records[i].blob]++);
        taken += (uint32_t)count;
    }
    for (unsigned i = 0; i < PRODUCERS; i++)
        pthread_join(threads[i], NULL);
    CHECK_EQ(upcall_take(&ring, records, 1, &more), 0);
    CHECK(!is_readable());
    upcall_ring_destroy(&ring);
}

static void test_the_other_end_of_it(void)
{
    struct upcall_ring consumer;
    uint32_t *head, *tail;

    CHECK_EQ(upcall_ring_init(&ring), 0);
    CHECK_EQ(upcall_ring_adopt(&consumer, ring.memory_fd, ring.event_fd), 0);
    CHECK(push(1, 2, 3));
    CHECK_EQ(upcall_take(&consumer, records, 9, &more), 1);
    CHECK(records[0].blob == 1 && records[0].first_chunk == 2 && records[0].chunk_count == 3);
    CHECK_EQ(ftruncate(ring.memory_fd, 0), -1); /* it would be the consumer's SIGBUS */
    /* A producer that writes what it likes: only its own records are the worse for it. */
    head = (uint32_t *)ring.shared;
    tail = head + 16;
    *head = 77;
    CHECK_EQ(upcall_take(&consumer, records, 9, &more), 0);
    CHECK_EQ(*head, 1);
    CHECK(push(4, 5, 6));
    CHECK_EQ(upcall_take(&consumer, records, 9, &more), 1);
    CHECK_EQ(records[0].blob, 4);
    *tail = 2 + UPCALL_CAPACITY + 1;
    CHECK_EQ(upcall_take(&consumer, records, 9, &more), -EPROTO);
    *tail = 1;
    CHECK_EQ(upcall_take(&consumer, records, 9, &more), -EPROTO);
    upcall_ring_destroy(&consumer);
    upcall_ring_destroy(&ring);
}

static void test_what_is_no_ring(void)
{
    struct upcall_ring consumer;
    int memory = memfd_create("short", MFD_CLOEXEC | MFD_ALLOW_SEALING), event = eventfd(0, EFD_CLOEXEC), pipe_fds[2];

    CHECK_EQ(pipe(pipe_fds), 0);
    CHECK_EQ(upcall_ring_adopt(&consumer, pipe_fds[0], event), -EINVAL);
    CHECK_EQ(upcall_ring_adopt(&consumer, -1, event), -EINVAL);
    CHECK_EQ(ftruncate(memory, 1 << 20), 0);
    CHECK_EQ(upcall_ring_adopt(&consumer, memory, event), -EINVAL); /* it could shrink */
    CHECK_EQ(fcntl(memory, F_ADD_SEALS, F_SEAL_SHRINK), 0);
    CHECK_EQ(upcall_ring_adopt(&consumer, memory, -1), -EBADF);
    CHECK_EQ(upcall_ring_adopt(&consumer, memory, event), 0);
    upcall_ring_destroy(&consumer);
    close(memory);
    memory = memfd_create("short", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    CHECK_EQ(ftruncate(memory, 4096), 0);
    CHECK_EQ(fcntl(memory, F_ADD_SEALS, F_SEAL_SHRINK), 0);
    CHECK_EQ(upcall_ring_adopt(&consumer, memory, event), -EINVAL);
    close(memory);
    close(event);
    close(pipe_fds[0]);
    close(pipe_fds[1]);
}

static void test_an_event_is_never_waited_for(void)
{
    CHECK_EQ(upcall_ring_init(&ring), 0);
    CHECK_EQ(fcntl(ring.event_fd, F_SETFL, 0), 0); /* blocking, as the other end may make it */
    CHECK_EQ(upcall_take(&ring, records, 1, &more), 0);
    CHECK(push(1, 1, 1));
    CHECK_EQ(upcall_take(&ring, records, 1, &more), 1);
    CHECK(!is_readable());
    upcall_ring_destroy(&ring);
}

static void test_a_renewed_ring_is_empty(void)
{
    struct upcall_ring old;

    CHECK_EQ(upcall_ring_init(&ring), 0);
    CHECK_EQ(upcall_ring_adopt(&old, ring.memory_fd, ring.event_fd), 0);
    CHECK(push(1, 1, 1));
    CHECK_EQ(upcall_ring_renew(&ring), 0);
    CHECK_EQ(upcall_take(&ring, records, 1, &more), 0);
    CHECK(push(2, 2, 2));
    CHECK_EQ(upcall_take(&ring, records, 1, &more), 1);
    CHECK_EQ(records[0].blob, 2);
    CHECK_EQ(upcall_take(&old, records, 2, &more), 1); /* what it was told before, and nothing since */
    CHECK_EQ(records[0].blob, 1);
    upcall_ring_destroy(&old);
    upcall_ring_destroy(&ring);
}

int main(void)
{
    RUN(test_the_other_end_of_it);
    RUN(test_what_is_no_ring);
    RUN(test_an_event_is_never_waited_for);
    RUN(test_a_renewed_ring_is_empty);
    RUN(test_what_goes_in_comes_out_in_order);
    RUN(test_full_then_room_again);
    RUN(test_every_push_into_an_empty_ring_is_an_event);
    RUN(test_indexes_wrap_at_2_32);
    RUN(test_producers_against_a_consumer_that_sleeps);
    return 0;
}
