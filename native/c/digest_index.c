/* See digest_index.h. */
#include "digest_index.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "rafs_format.h"

/* `blob` is one more than the caller's number: 0 stands for an empty place. */
struct entry {
    uint64_t tag; /* bytes 8 to 15 of the digest */
    uint32_t blob, chunk;
};

struct digest_index {
    pthread_mutex_t lock;
    uint64_t mask; /* of the number of a bucket */
    struct entry (*buckets)[DIGEST_INDEX_WAYS];
};

struct digest_index *digest_index_new(uint32_t capacity)
{
    struct digest_index *index = calloc(1, sizeof(*index));
    uint64_t buckets = 1;

    if (!index)
        return NULL;
    while (buckets * DIGEST_INDEX_WAYS < capacity)
        buckets *= 2;
    index->mask = buckets - 1;
    index->buckets = calloc(buckets, sizeof(*index->buckets)); /* no memory before it is used */
    if (!index->buckets) {
        free(index);
        return NULL;
    }
    pthread_mutex_init(&index->lock, NULL);
    return index;
}

void digest_index_free(struct digest_index *index)
{
    pthread_mutex_destroy(&index->lock);
    free(index->buckets);
    free(index);
}

static struct entry *bucket_of(struct digest_index *index, const uint8_t *digest, uint64_t *tag)
{
    uint64_t number;

    memcpy(&number, digest, sizeof(number));
    memcpy(tag, digest + sizeof(number), sizeof(*tag));
    return index->buckets[number & index->mask];
}

static void add_locked(struct digest_index *index, const uint8_t *digest, struct digest_place place)
{
    struct entry new = { .blob = place.blob + 1, .chunk = place.chunk };
    struct entry *bucket = bucket_of(index, digest, &new.tag);
    unsigned at = 0;

    while (at < DIGEST_INDEX_WAYS - 1 && memcmp(&bucket[at], &new, sizeof(new)))
        at++; /* to where it stands already, or to the oldest */
    memmove(bucket + 1, bucket, at * sizeof(*bucket));
    bucket[0] = new;
}

void digest_index_add(struct digest_index *index, const uint8_t *digest, struct digest_place place)
{
    pthread_mutex_lock(&index->lock);
    add_locked(index, digest, place);
    pthread_mutex_unlock(&index->lock);
}

void digest_index_add_all(struct digest_index *index, uint32_t blob, const uint8_t *digests, const uint8_t *ready, uint32_t count)
{
    pthread_mutex_lock(&index->lock);
    for (uint32_t chunk = 0; chunk < count; chunk++)
        if (ready[chunk / 8] & rafs_chunk_bit(chunk))
            add_locked(index, digests + (size_t)chunk * DIGEST_SIZE, (struct digest_place){ .blob = blob, .chunk = chunk });
    pthread_mutex_unlock(&index->lock);
}

unsigned digest_index_find(struct digest_index *index, const uint8_t *digest, struct digest_place places[DIGEST_INDEX_WAYS])
{
    uint64_t tag;
    struct entry *bucket = bucket_of(index, digest, &tag);
    unsigned found = 0;

    pthread_mutex_lock(&index->lock);
    for (unsigned i = 0; i < DIGEST_INDEX_WAYS; i++)
        if (bucket[i].blob && bucket[i].tag == tag)
            places[found++] = (struct digest_place){ .blob = bucket[i].blob - 1, .chunk = bucket[i].chunk };
    pthread_mutex_unlock(&index->lock);
    return found;
}
