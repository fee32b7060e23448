/* Chunk states and the compression-information records. See blob.h. */
#include "blob.h"

#include <errno.h>
#include <stdlib.h>

#include "barrier.h"
#include "chunk_table.h"
#include "link.h"
#include "map_file.h"
#include "rafs_format.h"

static int open_meta(struct blob *blob, int meta_fd)
{
    uint8_t *meta;
    const struct rafs_ci_header *header;
    int err = map_file(meta_fd, PROT_READ, &blob->meta_length, &meta);

    if (err)
        return err;
    blob->meta = meta;
    header = (const struct rafs_ci_header *)(blob->meta + blob->meta_length - sizeof(*header));
    if (header->magic == CHUNK_TABLE_MAGIC)
        blob->record_size = sizeof(struct rafs_chunk_record);
    else
        blob->record_size = header->features & RAFS_BLOB_CHUNK_INFO_V2 ? sizeof(struct rafs_ci_v2) : sizeof(struct rafs_ci_v1);
    return (uint64_t)blob->record_size * blob->chunk_count <= blob->meta_length - sizeof(*header) ? 0 : -EINVAL;
}

static void release(struct blob *blob)
{
    chunk_area_close(&blob->disk);
    for (struct memory_area *memory = blob->memory, *older; memory; memory = older) {
        older = memory->older;
        chunk_area_close(&memory->area);
        free(memory);
    }
    for (struct visited_map *visited = blob->visited, *older; visited; visited = older) {
        older = visited->older;
        munmap(visited->bits, visited->length);
        free(visited);
    }
    if (blob->meta)
        munmap((void *)blob->meta, blob->meta_length);
    if (blob->link)
        chunk_link_put(blob->link);
    free(blob->pending);
    free(blob->failed);
    free(blob);
}

int blob_open(struct chunk_store *store, int data_fd, int chunk_map_fd, int meta_fd, uint32_t chunk_count,
              uint64_t uncompressed_size, struct blob **out)
{
    struct blob *blob;
    int err;

    if (chunk_count > RAFS_MAX_CHUNKS)
        return -EINVAL;
    blob = calloc(1, sizeof(*blob));
    if (!blob)
        return -ENOMEM;
    blob->references = 1;
    blob->disk.data_fd = -1;
    blob->chunk_count = chunk_count;
    blob->uncompressed_size = uncompressed_size;
    blob->pending = calloc(1, (chunk_count + 7) / 8 + 1);
    blob->failed = calloc(1, (chunk_count + 7) / 8 + 1);
    err = blob->pending && blob->failed ? chunk_area_open(&blob->disk, data_fd, chunk_map_fd, chunk_count) : -ENOMEM;
    if (!err)
        err = open_meta(blob, meta_fd);
    if (!err)
        err = chunk_store_put_in(store, blob);
    if (err)
        release(blob);
    else
        *out = blob;
    return err;
}

int blob_add_memory(struct blob *blob, int data_fd, int map_fd)
{
    struct memory_area *memory = calloc(1, sizeof(*memory));
    int err = memory ? chunk_area_open(&memory->area, data_fd, map_fd, blob->chunk_count) : -ENOMEM;

    if (err) {
        if (memory)
            chunk_area_close(&memory->area);
        free(memory);
        return err;
    }
    memory->older = blob->memory;
    __atomic_store_n(&blob->memory, memory, __ATOMIC_RELEASE); /* what it holds before it is seen */
    return 0;
}

struct chunk_area *blob_memory(const struct blob *blob)
{
    struct memory_area *memory = __atomic_load_n(&blob->memory, __ATOMIC_ACQUIRE);

    return memory ? &memory->area : NULL;
}

int blob_add_visited(struct blob *blob, int fd)
{
    struct visited_map *visited = calloc(1, sizeof(*visited));
    int err = visited ? map_file(fd, PROT_READ | PROT_WRITE, &visited->length, &visited->bits) : -ENOMEM;

    if (!err && visited->length < (blob->chunk_count + 7) / 8) {
        munmap(visited->bits, visited->length);
        err = -EINVAL;
    }
    if (err) {
        free(visited);
        return err;
    }
    visited->older = blob->visited;
    __atomic_store_n(&blob->visited, visited, __ATOMIC_RELEASE);
    return 0;
}

void blob_set_link(struct blob *blob, struct chunk_link *link, uint32_t handle)
{
    blob->link = chunk_link_get(link);
    blob->handle = handle;
}

void blob_close(struct chunk_store *store, struct blob *blob)
{
    chunk_store_take_out(store, blob);
    blob_put(blob);
}

struct blob *blob_get(struct blob *blob)
{
    __atomic_fetch_add(&blob->references, 1, __ATOMIC_RELAXED); /* the caller has one already */
    return blob;
}

void blob_put(struct blob *blob)
{
    /* acq_rel: what others did with it happens before it goes */
    if (__atomic_fetch_sub(&blob->references, 1, __ATOMIC_ACQ_REL) == 1)
        release(blob);
}

bool blob_chunk_covers(const struct blob *blob, uint32_t index, uint64_t offset, uint64_t end)
{
    uint64_t start, size;

    if (index >= blob->chunk_count)
        return false;
    if (blob->record_size == sizeof(struct rafs_ci_v1)) {
        const struct rafs_ci_v1 *ci = (const struct rafs_ci_v1 *)blob->meta + index;
        start = ci->uncompressed & 0xFFFFFFFF000;
        size = ((ci->uncompressed >> 44 | (ci->uncompressed >> 8 & 0xF) << 20)) + 1;
    } else if (blob->record_size == sizeof(struct rafs_ci_v2)) {
        const struct rafs_ci_v2 *ci = (const struct rafs_ci_v2 *)blob->meta + index;
        start = (ci->uncompressed & 0xFFFFFFFF) << 12;
        size = (ci->uncompressed >> 32 & 0xFFFFFF) + 1;
    } else { /* a chunk that no image has told of has size 0, and covers nothing */
        const struct rafs_chunk_record *chunk = (const struct rafs_chunk_record *)blob->meta + index;
        start = chunk->uncompressed_offset;
        size = chunk->uncompressed_size;
    }
    return start == offset && end <= size && start + size <= blob->uncompressed_size;
}

struct chunk_area *blob_find(struct blob *blob, uint32_t index, uint64_t *generation)
{
    *generation = chunk_area_generation(&blob->disk);
    if (chunk_area_is_ready(&blob->disk, index))
        return &blob->disk;
    struct chunk_area *memory = blob_memory(blob);
    if (!memory)
        return NULL;
    *generation = chunk_area_generation(memory);
    return chunk_area_is_ready(memory, index) ? memory : NULL;
}

static bool is_ready(const struct blob *blob, uint32_t index)
{
    const struct chunk_area *memory = blob_memory(blob);

    return chunk_area_is_ready(&blob->disk, index) || (memory && chunk_area_is_ready(memory, index));
}

enum chunk_state blob_state(const struct blob *blob, uint32_t index)
{
    if (is_ready(blob, index))
        return CHUNK_READY;
    if (__atomic_load_n(&blob->pending[index / 8], __ATOMIC_ACQUIRE) & rafs_chunk_bit(index))
        return CHUNK_PENDING;
    /* READY is set before PENDING is cleared: a completion between the two looks shows now. */
    return is_ready(blob, index) ? CHUNK_READY : CHUNK_ABSENT;
}

bool blob_has_failed(const struct blob *blob, uint32_t index)
{
    return __atomic_load_n(&blob->failed[index / 8], __ATOMIC_RELAXED) & rafs_chunk_bit(index);
}

void blob_visit(struct blob *blob, uint32_t index)
{
    const struct visited_map *visited = blob_visited(blob);

    if (visited && !(__atomic_load_n(&visited->bits[index / 8], __ATOMIC_RELAXED) & rafs_chunk_bit(index)))
        __atomic_fetch_or(&visited->bits[index / 8], rafs_chunk_bit(index), __ATOMIC_RELAXED);
}

bool blob_was_visited(struct blob *blob, uint32_t index)
{
    const struct visited_map *visited = blob_visited(blob);
    uint8_t bit = rafs_chunk_bit(index);

    return visited && __atomic_fetch_and(&visited->bits[index / 8], (uint8_t)~bit, __ATOMIC_RELAXED) & bit;
}

static void clear_pending(struct blob *blob, uint32_t index)
{
    __atomic_fetch_and(&blob->pending[index / 8], (uint8_t)~rafs_chunk_bit(index), __ATOMIC_RELEASE);
}

bool blob_claim(struct blob *blob, uint32_t index)
{
    if (__atomic_fetch_or(&blob->pending[index / 8], rafs_chunk_bit(index), __ATOMIC_ACQ_REL) & rafs_chunk_bit(index))
        return false;
    if (is_ready(blob, index)) { /* it was completed since the caller's look */
        clear_pending(blob, index);
        return false;
    }
    __atomic_fetch_and(&blob->failed[index / 8], (uint8_t)~rafs_chunk_bit(index), __ATOMIC_RELAXED);
    return true;
}

static struct upcall_ring *upcalls_of(struct chunk_store *store, struct blob *blob)
{
    return blob->link ? &blob->link->upcalls : &store->upcalls;
}

bool blob_may_request(struct chunk_store *store, struct blob *blob)
{
    return upcall_may_have_room(upcalls_of(store, blob));
}

bool blob_request(struct chunk_store *store, struct blob *blob, uint32_t first, uint32_t count)
{
    struct upcall_ring *upcalls = upcalls_of(store, blob);
    uint32_t at = 0;

    upcall_lock(upcalls);
    while (at < count && upcall_has_room_locked(upcalls)) {
        uint32_t run = 0;
        while (at + run < count && blob_state(blob, first + at + run) == CHUNK_ABSENT && blob_claim(blob, first + at + run))
            run++;
        if (run)
            upcall_push_locked(upcalls, blob->handle, first + at, run);
        at += run ? run : 1;
    }
    upcall_unlock(upcalls);
    return at == count;
}

void blob_complete_in(struct chunk_store *store, struct blob *blob, struct chunk_area *area, uint32_t first, uint32_t count)
{
    for (uint32_t i = first; i < first + count; i++) {
        chunk_area_set_ready(area, i);
        clear_pending(blob, i);
    }
    chunk_store_wake(store);
}

void blob_complete(struct chunk_store *store, struct blob *blob, uint32_t first, uint32_t count)
{
    blob_complete_in(store, blob, &blob->disk, first, count);
}

void blob_settle(struct blob *blob, uint32_t first, uint32_t count, bool has_failed)
{
    for (uint32_t i = first; count && i < blob->chunk_count; i++, count--) {
        if (has_failed) /* before PENDING is cleared, which is a release: who sees the chunk ABSENT sees why */
            __atomic_fetch_or(&blob->failed[i / 8], rafs_chunk_bit(i), __ATOMIC_RELAXED);
        clear_pending(blob, i);
    }
}

void blob_fail(struct chunk_store *store, struct blob *blob, uint32_t first, uint32_t count)
{
    blob_settle(blob, first, count, true);
    chunk_store_wake(store);
}

void blob_unclaim(struct chunk_store *store, struct blob *blob, uint32_t first, uint32_t count)
{
    blob_settle(blob, first, count, false);
    chunk_store_wake(store);
}

void blob_forget(struct blob *blob, uint32_t first, uint32_t count)
{
    struct chunk_run run = { .first = first, .count = count };

    (void)chunk_area_evict(&blob->disk, &run, 1, NULL, 0);
}
