/* Chunk states: who wins a claim, what wakes whom, and which cache files are refused. */
#include <errno.h>
#include <pthread.h>

#include "small_blob.h"

static struct chunk_store *store;
static struct upcall_record records[UPCALL_CAPACITY];
static bool more;

static unsigned woken;
static void count_wake(struct chunk_waiter *waiter) { __atomic_fetch_add(&woken, 1, __ATOMIC_RELAXED); }

static void test_states(void)
{
    for (int v2 = 0; v2 < 2; v2++) {
        struct blob *blob = small_blob_open(store, 19, v2);
        for (uint32_t i = 0; i < 19; i++) {
            CHECK_EQ(blob_state(blob, i), CHUNK_ABSENT);
            CHECK(blob_claim(blob, i));
            CHECK(!blob_claim(blob, i));
            CHECK_EQ(blob_state(blob, i), CHUNK_PENDING);
            blob_fail(store, blob, i, 1);
            CHECK_EQ(blob_state(blob, i), CHUNK_ABSENT);
            CHECK(blob_claim(blob, i));
            blob_complete(store, blob, i, 1);
            CHECK_EQ(blob_state(blob, i), CHUNK_READY);
            CHECK(!blob_claim(blob, i));
            CHECK_EQ(blob_state(blob, i), CHUNK_READY); /* a claim that lost leaves nothing behind */
            CHECK_EQ(blob->disk.map[4096 + i / 8] >> (7 - i % 8) & 1, 1); /* first chunk, highest bit (6.3) */
        }
        blob_forget(blob, 3, 10);
        for (uint32_t i = 0; i < 19; i++)
            CHECK_EQ(blob_state(blob, i), i < 3 || i >= 13 ? CHUNK_READY : CHUNK_ABSENT);
        blob_close(store, blob);
    }
}

static void test_requests_are_runs_of_absent_chunks(void)
{
    struct blob *blob = small_blob_open(store, 32, false);

    blob_complete(store, blob, 4, 2);
    CHECK(blob_claim(blob, 9));
    CHECK(blob_request(store, blob, 2, 12));
    CHECK_EQ(upcall_take(&store->upcalls, records, 10, &more), 3);
    CHECK(records[0].first_chunk == 2 && records[0].chunk_count == 2);
    CHECK(records[1].first_chunk == 6 && records[1].chunk_count == 3);
    CHECK(records[2].first_chunk == 10 && records[2].chunk_count == 4);
    CHECK_EQ(records[2].blob, blob->handle);
    CHECK(blob_request(store, blob, 2, 12)); /* nothing is ABSENT any more */
    CHECK_EQ(upcall_take(&store->upcalls, records, 10, &more), 0);
    blob_close(store, blob);
}

static void test_a_full_ring_claims_nothing_that_it_cannot_ask_for(void)
{
    struct blob *blob = small_blob_open(store, 8, false);

    for (uint32_t i = 0; i < UPCALL_CAPACITY - 1; i++) {
        CHECK(blob_request(store, blob, 0, 1));
        blob_fail(store, blob, 0, 1);
    }
    CHECK(blob_claim(blob, 3)); /* two runs, room for one */
    CHECK(!blob_request(store, blob, 2, 4));
    CHECK_EQ(blob_state(blob, 2), CHUNK_PENDING);
    CHECK_EQ(blob_state(blob, 4), CHUNK_ABSENT);
    CHECK_EQ(blob_state(blob, 5), CHUNK_ABSENT);
    CHECK_EQ(upcall_take(&store->upcalls, records, 1, &more), 1);
    CHECK(blob_request(store, blob, 2, 4));
    CHECK_EQ(upcall_take(&store->upcalls, records, UPCALL_CAPACITY, &more), UPCALL_CAPACITY);
    CHECK(records[UPCALL_CAPACITY - 2].first_chunk == 2 && records[UPCALL_CAPACITY - 2].chunk_count == 1);
    CHECK(records[UPCALL_CAPACITY - 1].first_chunk == 4 && records[UPCALL_CAPACITY - 1].chunk_count == 2);
    blob_close(store, blob);
}

static void test_records_decide_what_a_chunk_covers(void)
{
    for (int v2 = 0; v2 < 2; v2++) {
        struct blob *blob = small_blob_open(store, 5, v2);
        CHECK(blob_chunk_covers(blob, 0, 0, 4096));
        CHECK(blob_chunk_covers(blob, 4, 4 * 4096, 1));
        CHECK(!blob_chunk_covers(blob, 0, 0, 4097));
        CHECK(!blob_chunk_covers(blob, 1, 0, 1));
        CHECK(!blob_chunk_covers(blob, 0, 4096, 1));
        CHECK(!blob_chunk_covers(blob, 5, 5 * 4096, 1));
        CHECK(!blob_chunk_covers(blob, UINT32_MAX, 0, 1));
        blob->uncompressed_size = 5 * 4096 - 1;
        CHECK(!blob_chunk_covers(blob, 4, 4 * 4096, 1));
        blob_close(store, blob);
    }
}

static void test_files_that_do_not_fit(void)
{
    struct blob *blob;
    int data = small_memfd(4096), map = small_memfd(4096 + 2), meta = small_memfd(8192);
    struct rafs_ci_header v2 = { .features = RAFS_BLOB_CHUNK_INFO_V2 };

    CHECK_EQ(blob_open(store, data, map, meta, 9, 4096, &blob), 0); /* 9 to 16 have two bytes */
    blob_close(store, blob);
    CHECK_EQ(blob_open(store, data, map, meta, 16, 4096, &blob), 0);
    blob_close(store, blob);
    CHECK_EQ(blob_open(store, data, map, meta, 8, 4096, &blob), -EINVAL);
    CHECK_EQ(blob_open(store, data, map, meta, 17, 4096, &blob), -EINVAL);
    CHECK_EQ(blob_open(store, data, map, meta, RAFS_MAX_CHUNKS + 1, 4096, &blob), -EINVAL);
    CHECK_EQ(blob_open(store, -1, map, meta, 9, 4096, &blob), -EBADF);
    CHECK_EQ(blob_open(store, data, -1, meta, 9, 4096, &blob), -EBADF);
    CHECK_EQ(blob_open(store, data, map, -1, 9, 4096, &blob), -EBADF);
    CHECK_EQ(blob_open(store, data, data, meta, 1, 4096, &blob), -EINVAL); /* no byte for the bit */
    CHECK(ftruncate(meta, 4095) == 0);
    CHECK_EQ(blob_open(store, data, map, meta, 9, 4096, &blob), -EINVAL);
    CHECK(ftruncate(meta, 4096 + 9 * 16 - 1) == 0); /* one byte short of nine records */
    CHECK_EQ(blob_open(store, data, map, meta, 9, 4096, &blob), -EINVAL);
    CHECK(ftruncate(meta, 4096 + 9 * 16) == 0);
    CHECK_EQ(blob_open(store, data, map, meta, 9, 4096, &blob), 0);
    blob_close(store, blob);
    CHECK(pwrite(meta, &v2, sizeof(v2), 9 * 16) == sizeof(v2)); /* now the records would be longer */
    CHECK_EQ(blob_open(store, data, map, meta, 9, 4096, &blob), -EINVAL);
    close(data);
    close(map);
    close(meta);
}

static void test_slots_are_used_again_and_handles_never(void)
{
    enum { MANY = 40 };
    struct blob *blobs[MANY];
    uint32_t first;

    for (uint32_t i = 0; i < MANY; i++) {
        blobs[i] = small_blob_open(store, 1, false);
        CHECK_EQ(blobs[i]->slot, i);
        CHECK_EQ(blobs[i]->handle, blobs[0]->handle + i);
    }
    first = blobs[0]->handle;
    blob_close(store, blobs[17]);
    blobs[17] = small_blob_open(store, 1, false);
    CHECK_EQ(blobs[17]->slot, 17);
    CHECK_EQ(blobs[17]->handle, first + MANY);
    for (uint32_t i = 0; i < MANY; i++)
        blob_close(store, blobs[i]);
}

static void test_only_those_who_wait_are_woken(void)
{
    struct chunk_waiter waiting = { .parked = 1, .wake = count_wake }, idle = { .wake = count_wake }, gone = waiting;
    struct blob *blob = small_blob_open(store, 4, false);

    woken = 0;
    chunk_store_add_waiter(store, &gone);
    chunk_store_add_waiter(store, &waiting);
    chunk_store_add_waiter(store, &idle);
    chunk_store_remove_waiter(store, &gone);
    blob_complete(store, blob, 0, 2);
    CHECK_EQ(woken, 1);
    blob_fail(store, blob, 2, 2);
    CHECK_EQ(woken, 2);
    chunk_store_remove_waiter(store, &waiting);
    chunk_store_remove_waiter(store, &idle);
    blob_complete(store, blob, 0, 4);
    CHECK_EQ(woken, 2);
    blob_close(store, blob);
}

enum { CLAIMERS = 4, CHUNKS = 4096, ROUNDS = 20 };

static struct blob *shared;
static uint32_t won[CHUNKS]; /* atomic: how often each was won */

static void *claim_all(void *argument)
{
    for (uint32_t i = 0; i < CHUNKS; i++) {
        if (blob_claim(shared, i))
            __atomic_fetch_add(&won[i], 1, __ATOMIC_RELAXED);
        CHECK(blob_state(shared, i) != CHUNK_ABSENT);
    }
    return NULL;
}

static void run(void *(*body)(void *), unsigned count)
{
    pthread_t threads[CLAIMERS];

    for (uintptr_t i = 0; i < count; i++)
        CHECK_EQ(pthread_create(&threads[i], NULL, body, (void *)i), 0);
    for (unsigned i = 0; i < count; i++)
        pthread_join(threads[i], NULL);
}

static void test_each_chunk_has_one_winner(void)
{
    shared = small_blob_open(store, CHUNKS, false);
    for (int round = 0; round < ROUNDS; round++) {
        memset(won, 0, sizeof(won));
        run(claim_all, CLAIMERS);
        for (uint32_t i = 0; i < CHUNKS; i++)
            CHECK_EQ(won[i], 1);
        blob_fail(store, shared, 0, CHUNKS);
    }
    blob_close(store, shared);
}

/* Requests on one side, a fetcher that completes on the other: a chunk that was READY once is never
 * asked for again, and none is left behind in PENDING. */
static void *request_all(void *argument)
{
    for (uint32_t i = 0; i < CHUNKS; i++) {
        while (blob_state(shared, i) != CHUNK_READY) {
            if (blob_state(shared, i) == CHUNK_ABSENT)
                blob_request(store, shared, i, CHUNKS - i < 3 ? CHUNKS - i : 3);
            sched_yield();
        }
    }
    return NULL;
}

static void *complete_all(void *argument)
{
    uint32_t done = 0;
    static struct upcall_record taken[64];

    while (done < CHUNKS) {
        bool left;
        int count = upcall_take(&store->upcalls, taken, 64, &left);
        for (int i = 0; i < count; i++) {
            for (uint32_t chunk = taken[i].first_chunk; chunk < taken[i].first_chunk + taken[i].chunk_count; chunk++)
                won[chunk]++; /* this thread's alone */
            blob_complete(store, shared, taken[i].first_chunk, taken[i].chunk_count);
            done += taken[i].chunk_count;
        }
        if (!count)
            sched_yield();
    }
    return NULL;
}

static void *request_or_complete(void *argument) { return argument ? request_all(argument) : complete_all(argument); }

static void test_each_chunk_is_asked_for_once(void)
{
    for (int round = 0; round < 5; round++) {
        memset(won, 0, sizeof(won));
        shared = small_blob_open(store, CHUNKS, false);
        run(request_or_complete, CLAIMERS);
        for (uint32_t i = 0; i < CHUNKS; i++) {
            CHECK_EQ(won[i], 1);
            CHECK_EQ(blob_state(shared, i), CHUNK_READY);
            CHECK_EQ(shared->pending[i / 8], 0);
        }
        CHECK_EQ(upcall_take(&store->upcalls, records, 1, &more), 0);
        blob_close(store, shared);
    }
}

static uint32_t claimed; /* atomic: chunks that the watcher has made PENDING */

static void *claim_and_watch(void *argument)
{
    for (uint32_t i = 0; i < CHUNKS; i++) {
        enum chunk_state state;
        CHECK(blob_claim(shared, i));
        __atomic_store_n(&claimed, i + 1, __ATOMIC_RELEASE);
        while ((state = blob_state(shared, i)) != CHUNK_READY)
            CHECK_EQ(state, CHUNK_PENDING); /* ABSENT would be a failed fetch */
    }
    return NULL;
}

static void *complete_claimed(void *argument)
{
    for (uint32_t i = 0; i < CHUNKS; i++) {
        while (__atomic_load_n(&claimed, __ATOMIC_ACQUIRE) <= i)
            ;
        blob_complete(store, shared, i, 1);
    }
    return NULL;
}

static void *watch_or_complete(void *argument) { return argument ? claim_and_watch(argument) : complete_claimed(argument); }

static void test_a_chunk_on_its_way_to_ready_never_looks_absent(void)
{
    for (int round = 0; round < 10; round++) {
        claimed = 0;
        shared = small_blob_open(store, CHUNKS, false);
        run(watch_or_complete, 2);
        blob_close(store, shared);
    }
}

int main(void)
{
    store = chunk_store_new();
    CHECK(store);
    RUN(test_states);
    RUN(test_requests_are_runs_of_absent_chunks);
    RUN(test_a_full_ring_claims_nothing_that_it_cannot_ask_for);
    RUN(test_records_decide_what_a_chunk_covers);
    RUN(test_files_that_do_not_fit);
    RUN(test_slots_are_used_again_and_handles_never);
    RUN(test_only_those_who_wait_are_woken);
    RUN(test_each_chunk_has_one_winner);
    RUN(test_each_chunk_is_asked_for_once);
    RUN(test_a_chunk_on_its_way_to_ready_never_looks_absent);
    chunk_store_free(store);
    return 0;
}
