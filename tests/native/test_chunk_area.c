/* Chunks that are evicted while they are read: what a reader believes is always right. */
#include <errno.h>
#include <pthread.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include "small_blob.h"

static struct chunk_store *store;

static struct chunk_run run_of(uint32_t first, uint32_t count) { return (struct chunk_run){ .first = first, .count = count }; }

static struct byte_range hole_of(struct chunk_run run)
{
    return (struct byte_range){ .offset = run.first * (uint64_t)SMALL_CHUNK, .length = run.count * (uint64_t)SMALL_CHUNK };
}

static uint64_t bytes_on_disk(const struct chunk_area *area)
{
    struct stat st;

    CHECK(fstat(area->data_fd, &st) == 0);
    return (uint64_t)st.st_blocks * 512;
}

static void fill(struct blob *blob, uint32_t first, uint32_t count)
{
    for (uint32_t i = first; i < first + count; i++)
        small_blob_write(blob, i);
    blob_complete(store, blob, first, count);
}

static void test_evicted_chunks_are_absent_and_take_no_space(void)
{
    struct blob *blob = small_blob_open(store, 16, false);
    struct chunk_run runs[2] = { run_of(2, 3), run_of(9, 1) };
    struct byte_range holes[2] = { hole_of(runs[0]), hole_of(runs[1]) };
    uint64_t before;

    fill(blob, 0, 16);
    before = chunk_area_generation(&blob->disk);
    CHECK_EQ(bytes_on_disk(&blob->disk), 16 * SMALL_CHUNK);
    CHECK_EQ(chunk_area_evict(&blob->disk, runs, 2, holes, 2), 0);
    for (uint32_t i = 0; i < 16; i++)
        CHECK_EQ(blob_state(blob, i), (i >= 2 && i < 5) || i == 9 ? CHUNK_ABSENT : CHUNK_READY);
    CHECK_EQ(bytes_on_disk(&blob->disk), 12 * SMALL_CHUNK);
    CHECK(!chunk_area_is_at(&blob->disk, before));
    CHECK(!blob_has_failed(blob, 2));
    CHECK(blob_claim(blob, 2));
    blob_fail(store, blob, 2, 1);
    CHECK(blob_has_failed(blob, 2));
    CHECK(blob_claim(blob, 2));
    CHECK(!blob_has_failed(blob, 2));
    fill(blob, 2, 1);
    CHECK_EQ(blob_state(blob, 2), CHUNK_READY);
    blob_close(store, blob);
}

static void test_a_full_map_is_one_no_more(void)
{
    struct blob *blob = small_blob_open(store, 8, false);
    struct chunk_run run = run_of(3, 1);

    blob->disk.all_ready = true;
    memset(blob->disk.map + RAFS_CHUNK_MAP_HEADER_SIZE, 0xff, 1);
    CHECK_EQ(blob_state(blob, 3), CHUNK_READY);
    CHECK_EQ(chunk_area_evict(&blob->disk, &run, 1, NULL, 0), 0);
    CHECK_EQ(blob_state(blob, 3), CHUNK_ABSENT);
    CHECK_EQ(blob_state(blob, 4), CHUNK_READY);
    blob_close(store, blob);
}

static void test_a_hole_that_cannot_be_punched_is_an_error(void)
{
    struct blob *blob = small_blob_open(store, 8, false);
    struct chunk_run run = run_of(0, 1);
    struct byte_range hole = { .offset = 0, .length = 0 };

    fill(blob, 0, 8);
    CHECK_EQ(chunk_area_evict(&blob->disk, &run, 1, &hole, 1), -EINVAL);
    CHECK_EQ(blob_state(blob, 0), CHUNK_ABSENT);
    blob_close(store, blob);
}

static void test_the_area_in_memory_comes_after_the_disk(void)
{
    struct blob *blob = small_blob_open(store, 9, false);
    int data = small_memfd(9 * SMALL_CHUNK), map = small_memfd(4096 + 2), wrong = small_memfd(4096 + 3), other = small_memfd(4096 + 2);
    struct chunk_run run = run_of(0, 9);
    uint64_t generation;

    CHECK(!blob_find(blob, 4, &generation));
    CHECK_EQ(blob_add_memory(blob, data, wrong), -EINVAL);
    CHECK(!blob_memory(blob));
    CHECK_EQ(blob_add_memory(blob, data, map), 0);
    CHECK(!blob_find(blob, 4, &generation));
    CHECK(blob_claim(blob, 4));
    blob_complete_in(store, blob, blob_memory(blob), 4, 1);
    CHECK_EQ(blob_state(blob, 4), CHUNK_READY);
    CHECK(!blob_claim(blob, 4));
    CHECK(blob_find(blob, 4, &generation) == blob_memory(blob));
    CHECK_EQ(generation, 0);
    blob_complete(store, blob, 4, 1);
    CHECK(blob_find(blob, 4, &generation) == &blob->disk);
    CHECK_EQ(chunk_area_evict(&blob->disk, &run, 1, NULL, 0), 0);
    CHECK(blob_find(blob, 4, &generation) == blob_memory(blob));
    CHECK_EQ(chunk_area_evict(blob_memory(blob), &run, 1, NULL, 0), 0);
    CHECK_EQ(blob_state(blob, 4), CHUNK_ABSENT);
    blob_complete_in(store, blob, blob_memory(blob), 4, 1);
    struct chunk_area *older = blob_find(blob, 4, &generation);
    CHECK_EQ(blob_add_memory(blob, data, other), 0); /* that of another agent */
    CHECK_EQ(blob_state(blob, 4), CHUNK_ABSENT);
    CHECK(chunk_area_is_at(older, generation)); /* who reads there may go on */
    blob_complete_in(store, blob, blob_memory(blob), 5, 1);
    CHECK(blob_find(blob, 5, &generation) == blob_memory(blob) && blob_memory(blob) != older);
    close(other);
    close(data);
    close(map);
    close(wrong);
    blob_close(store, blob);
}

static void test_visits_are_remembered_once(void)
{
    struct blob *blob = small_blob_open(store, 20, false);
    int fd = small_memfd(4096), small = small_memfd(100), other = small_memfd(4096);

    blob_visit(blob, 3); /* nobody asks */
    CHECK(!blob_was_visited(blob, 3));
    CHECK_EQ(blob_add_visited(blob, small), -EINVAL);
    CHECK_EQ(blob_add_visited(blob, fd), 0);
    blob_visit(blob, 3);
    blob_visit(blob, 3);
    CHECK(!blob_was_visited(blob, 2));
    CHECK(blob_was_visited(blob, 3));
    CHECK(!blob_was_visited(blob, 3));
    blob_visit(blob, 3);
    CHECK_EQ(blob_add_visited(blob, other), 0);
    CHECK(!blob_was_visited(blob, 3));
    blob_visit(blob, 4);
    CHECK(blob_was_visited(blob, 4));
    close(other);
    close(fd);
    close(small);
    blob_close(store, blob);
}

/* Readers, and one who evicts and fills again, at full speed. */
enum { READERS = 3, CHUNKS = 64, EVICTIONS = 6000, SPAN = 4 };

static struct blob *shared;
static bool is_over;                 /* atomic */
static uint64_t believed, discarded; /* atomic: reads */

static void *read_all_the_time(void *argument)
{
    unsigned seed = (unsigned)(uintptr_t)argument;
    uint8_t bytes[SPAN * SMALL_CHUNK];

    while (!__atomic_load_n(&is_over, __ATOMIC_RELAXED)) {
        uint32_t first = (uint32_t)rand_r(&seed) % (CHUNKS - SPAN), count = 0;
        uint64_t generation = 0, later;
        while (count < SPAN && blob_find(shared, first + count, count ? &later : &generation))
            count++;
        if (!count)
            continue;
        size_t size = count * SMALL_CHUNK;
        CHECK_EQ(pread(shared->disk.data_fd, bytes, size, first * (off_t)SMALL_CHUNK), size);
        if (!chunk_area_is_at(&shared->disk, generation)) {
            __atomic_fetch_add(&discarded, 1, __ATOMIC_RELAXED);
            continue;
        }
        for (size_t i = 0; i < size; i++)
            CHECK_EQ(bytes[i], small_byte(first * (uint64_t)SMALL_CHUNK + i));
        __atomic_fetch_add(&believed, 1, __ATOMIC_RELAXED);
    }
    return NULL;
}

static void test_no_reader_believes_a_hole(void)
{
    pthread_t readers[READERS];
    unsigned seed = 7;

    shared = small_blob_open(store, CHUNKS, false);
    fill(shared, 0, CHUNKS);
    for (uintptr_t i = 0; i < READERS; i++)
        CHECK_EQ(pthread_create(&readers[i], NULL, read_all_the_time, (void *)(i + 1)), 0);
    for (unsigned i = 0; i < EVICTIONS || !__atomic_load_n(&believed, __ATOMIC_RELAXED); i++) {
        struct chunk_run runs[2] = { run_of((uint32_t)rand_r(&seed) % (CHUNKS / 2), 1 + i % 3),
                                     run_of(CHUNKS / 2 + 3 + (uint32_t)rand_r(&seed) % (CHUNKS / 2 - 3), 1) };
        struct byte_range holes[2] = { hole_of(runs[0]), hole_of(runs[1]) };
        CHECK_EQ(chunk_area_evict(&shared->disk, runs, 2, holes, 2), 0);
        for (unsigned k = 0; k < 2; k++)
            fill(shared, runs[k].first, runs[k].count);
    }
    __atomic_store_n(&is_over, true, __ATOMIC_RELAXED);
    for (unsigned i = 0; i < READERS; i++)
        pthread_join(readers[i], NULL);
    fprintf(stderr, "    %lu reads believed, %lu discarded\n", believed, discarded);
    CHECK(believed > 0);
    blob_close(store, shared);
}

int main(void)
{
    store = chunk_store_new();
    CHECK(store);
    RUN(test_evicted_chunks_are_absent_and_take_no_space);
    RUN(test_a_full_map_is_one_no_more);
    RUN(test_a_hole_that_cannot_be_punched_is_an_error);
    RUN(test_the_area_in_memory_comes_after_the_disk);
    RUN(test_visits_are_remembered_once);
    RUN(test_no_reader_believes_a_hole);
    chunk_store_free(store);
    return 0;
}
