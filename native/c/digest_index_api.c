/* The index of digests as Python sees it (decl/dataplane.h). */
#include "dataplane.h"
#include "digest_index.h"

struct digest_index *vfs_digest_index_new(uint32_t capacity) { return digest_index_new(capacity); }
void vfs_digest_index_free(struct digest_index *index) { digest_index_free(index); }

void vfs_digest_index_add(struct digest_index *index, const uint8_t *digest, uint32_t blob, uint32_t chunk)
{
    digest_index_add(index, digest, (struct digest_place){ .blob = blob, .chunk = chunk });
}

void vfs_digest_index_add_all(struct digest_index *index, uint32_t blob, const uint8_t *digests, const uint8_t *ready, uint32_t count)
{
    digest_index_add_all(index, blob, digests, ready, count);
}

unsigned vfs_digest_index_find(struct digest_index *index, const uint8_t *digest, uint32_t blobs[4], uint32_t chunks[4])
{
    struct digest_place places[DIGEST_INDEX_WAYS];
    unsigned count = digest_index_find(index, digest, places);

    for (unsigned i = 0; i < count; i++) {
        blobs[i] = places[i].blob;
        chunks[i] = places[i].chunk;
    }
    return count;
}
