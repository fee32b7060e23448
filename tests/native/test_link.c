/* Links: completions that settle what was asked for, an agent's successor, and a worker that writes what it likes. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <time.h>

#include "dataplane.h"
#include "link.h"
#include "small_blob.h"

static struct chunk_store *store;
static struct chunk_link *link_;
static struct worker_rings *rings;
static struct blob *blob;
static struct vfs_upcall upcalls[UPCALL_CAPACITY];
static int more;
static unsigned woken; /* atomic */

static void count_wake(struct chunk_waiter *waiter) { __atomic_fetch_add(&woken, 1, __ATOMIC_RELAXED); }
static struct chunk_waiter waiter = { .parked = 1, .wake = count_wake };

static void adopt(void)
{
    CHECK_EQ(vfs_rings_adopt(vfs_link_upcall_fd(link_), vfs_link_event_fd(link_), vfs_link_completion_fd(link_), &rings), 0);
}

static void begin(uint32_t chunks)
{
    store = chunk_store_new();
    link_ = chunk_link_new(store);
    CHECK(store && link_);
    blob = small_blob_open(store, chunks, false);
    blob_set_link(blob, link_, chunk_store_new_handle(store));
    chunk_store_add_waiter(store, &waiter);
    adopt();
}

static void end(void)
{
    vfs_rings_free(rings);
    chunk_store_remove_waiter(store, &waiter);
    chunk_link_close(link_);
    blob_close(store, blob); /* it may outlive its link */
    chunk_store_free(store);
}

/* Whether a chunk leaves PENDING in time. */
static bool is_settled(uint32_t chunk)
{
    for (time_t until = time(NULL) + 10; time(NULL) < until; sched_yield()) {
        if (blob_state(blob, chunk) != CHUNK_PENDING)
            return true;
    }
    return false;
}

/* What the agent does: the bit is set in its own mapping of the file. */
static void set_ready(uint32_t chunk) { __atomic_fetch_or(&blob->disk.map[RAFS_CHUNK_MAP_HEADER_SIZE + chunk / 8], 0x80 >> (chunk & 7), __ATOMIC_RELEASE); }

static void test_there_and_back(void)
{
    begin(32);
    CHECK(blob_request(store, blob, 3, 4));
    CHECK_EQ(vfs_rings_take(rings, upcalls, 9, &more), 1);
    CHECK(upcalls[0].blob == blob->handle && upcalls[0].first_chunk == 3 && upcalls[0].chunk_count == 4);
    __atomic_store_n(&woken, 0, __ATOMIC_RELAXED);
    set_ready(3);
    CHECK_EQ(vfs_rings_push(rings, blob->handle, 3, 1, false), 0);
    CHECK_EQ(vfs_rings_push(rings, blob->handle, 6, 1, true), 0); /* that one could not be had */
    CHECK(is_settled(3) && is_settled(6));
    CHECK_EQ(blob_state(blob, 3), CHUNK_READY);
    CHECK_EQ(blob_state(blob, 4), CHUNK_PENDING);
    CHECK(blob_state(blob, 6) == CHUNK_ABSENT && blob_has_failed(blob, 6));
    CHECK(!blob_has_failed(blob, 3));
    while (!__atomic_load_n(&woken, __ATOMIC_RELAXED))
        sched_yield();
    end();
}

static void test_completions_of_what_nobody_knows(void)
{
    begin(8);
    CHECK(blob_request(store, blob, 0, 8));
    CHECK_EQ(vfs_rings_push(rings, blob->handle + 1, 0, 8, false), 0);
    CHECK_EQ(vfs_rings_push(rings, blob->handle, 8, 1, false), 0);
    CHECK_EQ(vfs_rings_push(rings, blob->handle, UINT32_MAX, UINT32_MAX, false), 0);
    CHECK_EQ(vfs_rings_push(rings, blob->handle, 7, UINT32_MAX, false), 0); /* as far as there are chunks */
    CHECK(is_settled(7));
    for (uint32_t i = 0; i < 7; i++)
        CHECK_EQ(blob_state(blob, i), CHUNK_PENDING);
    end();
}

static void test_a_successor_is_asked_for_what_is_pending(void)
{
    begin(40);
    CHECK(blob_request(store, blob, 0, 3));
    CHECK(blob_request(store, blob, 9, 2));
    CHECK_EQ(vfs_rings_take(rings, upcalls, 9, &more), 2);
    set_ready(1); /* the last thing that the old one did; it never said so */
    CHECK_EQ(vfs_rings_push(rings, blob->handle, 10, 1, false), 0);
    vfs_rings_free(rings);
    CHECK_EQ(chunk_link_renew(link_), 0); /* takes what was completed */
    CHECK_EQ(blob_state(blob, 10), CHUNK_ABSENT);
    adopt();
    __atomic_store_n(&woken, 0, __ATOMIC_RELAXED);
    CHECK(chunk_link_ask_again(link_));
    CHECK(__atomic_load_n(&woken, __ATOMIC_RELAXED) > 0);
    CHECK_EQ(blob_state(blob, 1), CHUNK_READY);
    CHECK_EQ(vfs_rings_take(rings, upcalls, 9, &more), 3);
    CHECK(upcalls[0].first_chunk == 0 && upcalls[0].chunk_count == 1);
    CHECK(upcalls[1].first_chunk == 2 && upcalls[1].chunk_count == 1);
    CHECK(upcalls[2].first_chunk == 9 && upcalls[2].chunk_count == 1);
    end();
}

static void test_more_is_pending_than_the_ring_holds(void)
{
    enum { CHUNKS = 3 * UPCALL_CAPACITY };
    static bool asked[CHUNKS];
    bool all = false;

    begin(CHUNKS);
    for (uint32_t i = 0; i < CHUNKS; i += 2)
        CHECK(blob_claim(blob, i));
    while (!all) {
        all = chunk_link_ask_again(link_);
        int count = vfs_rings_take(rings, upcalls, UPCALL_CAPACITY, &more);
        CHECK(all || count == UPCALL_CAPACITY);
        for (int i = 0; i < count; i++) {
            CHECK(!asked[upcalls[i].first_chunk] && upcalls[i].chunk_count == 1);
            asked[upcalls[i].first_chunk] = true;
        }
    }
    for (uint32_t i = 0; i < CHUNKS; i++)
        CHECK_EQ(asked[i], i % 2 == 0);
    end();
}

static void test_a_worker_that_writes_what_it_likes(void)
{
    uint32_t *completions;

    begin(8);
    completions = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, vfs_link_completion_fd(link_), 0);
    CHECK(completions != MAP_FAILED);
    CHECK_EQ(ftruncate(vfs_link_completion_fd(link_), 0), -1);
    CHECK_EQ(vfs_rings_room(rings), COMPLETION_CAPACITY);
    *completions = 12345; /* its head: there cannot be so much to read */
    CHECK_EQ(vfs_rings_room(rings), 0);
    CHECK_EQ(vfs_rings_push(rings, 1, 1, 1, false), -EAGAIN);
    *completions = 0;
    CHECK_EQ(vfs_rings_push(rings, 1, 1, 1, false), 0);
    munmap(completions, 4096);
    end();
}

static void test_what_are_no_rings(void)
{
    begin(8);
    int upcall = vfs_link_upcall_fd(link_), event = vfs_link_event_fd(link_), completion = vfs_link_completion_fd(link_);
    struct worker_rings *none;
    CHECK_EQ(vfs_rings_adopt(completion, event, event, &none), -EINVAL);
    CHECK_EQ(vfs_rings_adopt(upcall, event, event, &none), -EINVAL);
    CHECK_EQ(vfs_rings_adopt(event, event, completion, &none), -EINVAL);
    CHECK_EQ(vfs_rings_adopt(upcall, -1, completion, &none), -EBADF);
    end();
}

static void test_a_map_that_may_only_be_read(void)
{
    struct blob *other;
    char path[64];

    begin(8);
    int map = small_memfd(4096 + 1), data = small_memfd(8 * SMALL_CHUNK), meta = small_memfd(8192), readable;
    snprintf(path, sizeof(path), "/proc/self/fd/%d", map);
    readable = open(path, O_RDONLY);
    CHECK_EQ(blob_open(store, data, readable, meta, 8, 8 * SMALL_CHUNK, &other), 0);
    CHECK(blob_claim(other, 2));
    CHECK_EQ(pwrite(map, "\x20", 1, 4096), 1);
    CHECK_EQ(blob_state(other, 2), CHUNK_READY);
    blob_close(store, other);
    close(readable);
    close(map);
    close(data);
    close(meta);
    end();
}

int main(void)
{
    RUN(test_there_and_back);
    RUN(test_completions_of_what_nobody_knows);
    RUN(test_a_successor_is_asked_for_what_is_pending);
    RUN(test_more_is_pending_than_the_ring_holds);
    RUN(test_a_worker_that_writes_what_it_likes);
    RUN(test_what_are_no_rings);
    RUN(test_a_map_that_may_only_be_read);
    return 0;
}
