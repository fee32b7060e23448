/*
 * Where chunks with a given digest may lie: (digest -> blob, chunk), in a fixed amount of memory.
 *
 * A cache, not a record: what is forgotten, or true no more, costs a fetch. Who finds a place there
 * checks what lies in it. Buckets of four, the newest first; a bucket that is full forgets its
 * oldest. Digests are as good as random, so that no hash is needed. May be called from any thread.
 */
#ifndef VHOSTFS_DIGEST_INDEX_H
#define VHOSTFS_DIGEST_INDEX_H
#include <stdint.h>

#define DIGEST_SIZE 32
#define DIGEST_INDEX_WAYS 4

struct digest_place {
    uint32_t blob, chunk; /* the caller's numbers */
};

struct digest_index;

/* NULL: no memory. `capacity` is rounded up to a power of two. */
struct digest_index *digest_index_new(uint32_t capacity);
void digest_index_free(struct digest_index *index);
void digest_index_add(struct digest_index *index, const uint8_t *digest, struct digest_place place);
/* All chunks of a blob whose bit is set in `ready` (in the order of a chunk map). */
void digest_index_add_all(struct digest_index *index, uint32_t blob, const uint8_t *digests, const uint8_t *ready, uint32_t count);
/* Returns how many places there may be, the newest first. */
unsigned digest_index_find(struct digest_index *index, const uint8_t *digest, struct digest_place places[DIGEST_INDEX_WAYS]);
#endif
