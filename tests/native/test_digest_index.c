/* The index of digests: what was added lately is found, in a fixed amount of memory. */
#include <pthread.h>
#include <string.h>

#include "check.h"
#include "digest_index.h"

static const uint8_t *digest_of(uint64_t number, uint8_t digest[DIGEST_SIZE])
{
    for (unsigned i = 0; i < DIGEST_SIZE; i += 8) { /* splitmix64 */
        uint64_t z = (number += 0x9e3779b97f4a7c15u);
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
        z = (z ^ z >> 27) * 0x94d049bb133111ebu;
        z ^= z >> 31;
        memcpy(digest + i, &z, 8);
    }
    return digest;
}

static unsigned find(struct digest_index *index, uint64_t number, struct digest_place places[DIGEST_INDEX_WAYS])
{
    uint8_t digest[DIGEST_SIZE];

    return digest_index_find(index, digest_of(number, digest), places);
}

static void add(struct digest_index *index, uint64_t number, uint32_t blob, uint32_t chunk)
{
    uint8_t digest[DIGEST_SIZE];

    digest_index_add(index, digest_of(number, digest), (struct digest_place){ .blob = blob, .chunk = chunk });
}

static void test_what_was_added_is_found(void)
{
    struct digest_index *index = digest_index_new(4096);
    struct digest_place places[DIGEST_INDEX_WAYS];
    unsigned found = 0;

    for (uint32_t i = 0; i < 1000; i++)
        add(index, i, i % 7, i);
    for (uint32_t i = 0; i < 1000; i++) {
        if (!find(index, i, places))
            continue; /* a full bucket has forgotten it */
        CHECK(places[0].blob == i % 7 && places[0].chunk == i);
        found++;
    }
    CHECK(found > 980);
    for (uint32_t i = 1000; i < 3000; i++)
        CHECK_EQ(find(index, i, places), 0);
    digest_index_free(index);
}

static void test_the_newest_place_comes_first_and_the_oldest_is_forgotten(void)
{
    struct digest_index *index = digest_index_new(1); /* one bucket */
    struct digest_place places[DIGEST_INDEX_WAYS];

    for (uint32_t blob = 0; blob < 6; blob++)
        add(index, 42, blob, 10 * blob);
    CHECK_EQ(find(index, 42, places), 4);
    for (uint32_t i = 0; i < 4; i++)
        CHECK(places[i].blob == 5 - i && places[i].chunk == 10 * (5 - i));
    add(index, 42, 3, 30); /* known: it becomes the newest */
    CHECK_EQ(find(index, 42, places), 4);
    CHECK(places[0].blob == 3 && places[1].blob == 5 && places[2].blob == 4 && places[3].blob == 2);
    add(index, 43, 0, 0);
    CHECK_EQ(find(index, 42, places), 3);
    CHECK_EQ(find(index, 43, places), 1);
    CHECK(places[0].blob == 0 && places[0].chunk == 0);
    digest_index_free(index);
}

static void test_of_a_blob_what_is_ready(void)
{
    struct digest_index *index = digest_index_new(1024);
    struct digest_place places[DIGEST_INDEX_WAYS];
    uint8_t digests[20 * DIGEST_SIZE], ready[3] = { 0x81, 0, 0x10 };

    for (uint32_t i = 0; i < 20; i++)
        digest_of(i, digests + i * DIGEST_SIZE);
    digest_index_add_all(index, 5, digests, ready, 20);
    for (uint32_t i = 0; i < 20; i++)
        CHECK_EQ(find(index, i, places), i == 0 || i == 7 || i == 19);
    digest_index_free(index);
}

static struct digest_index *shared;

static void *use_it(void *argument)
{
    uint32_t blob = (uint32_t)(uintptr_t)argument;
    struct digest_place places[DIGEST_INDEX_WAYS];

    for (uint32_t i = 0; i < 20000; i++) {
        add(shared, i % 500, blob, i % 500);
        unsigned count = find(shared, (i * 7) % 500, places);
        for (unsigned k = 0; k < count; k++)
            CHECK(places[k].chunk == (i * 7) % 500 && places[k].blob < 3);
    }
    return NULL;
}

static void test_from_several_threads(void)
{
    pthread_t threads[3];

    shared = digest_index_new(1024);
    for (uintptr_t i = 0; i < 3; i++)
        CHECK_EQ(pthread_create(&threads[i], NULL, use_it, (void *)i), 0);
    for (unsigned i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    digest_index_free(shared);
}

int main(void)
{
    RUN(test_what_was_added_is_found);
    RUN(test_the_newest_place_comes_first_and_the_oldest_is_forgotten);
    RUN(test_of_a_blob_what_is_ready);
    RUN(test_from_several_threads);
    return 0;
}
