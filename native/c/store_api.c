/* Blobs and upcalls as Python sees them (decl/dataplane.h). */
#include <errno.h>
#include <sys/eventfd.h>

#include "blob.h"
#include "chunk_table.h"
#include "dataplane.h"
#include "rafs_format.h"

_Static_assert(sizeof(struct vfs_chunk_run) == sizeof(struct chunk_run), "struct vfs_chunk_run is struct chunk_run");
_Static_assert(sizeof(struct vfs_byte_range) == sizeof(struct byte_range), "struct vfs_byte_range is struct byte_range");
_Static_assert(VFS_CHUNK_TABLE_MAGIC == CHUNK_TABLE_MAGIC, "VFS_CHUNK_TABLE_MAGIC is CHUNK_TABLE_MAGIC");
_Static_assert(sizeof(struct vfs_chunk_bounds) == sizeof(struct chunk_bounds), "struct vfs_chunk_bounds is struct chunk_bounds");
_Static_assert(sizeof(struct vfs_upcall) == sizeof(struct upcall_record), "struct vfs_upcall is struct upcall_record");

struct chunk_store *vfs_store_new(void) { return chunk_store_new(); }
void vfs_store_free(struct chunk_store *store) { chunk_store_free(store); }
int vfs_store_event_fd(const struct chunk_store *store) { return store->upcalls.event_fd; }

unsigned vfs_store_take(struct chunk_store *store, struct vfs_upcall *upcalls, unsigned limit)
{
    bool more = false;
    int taken = upcall_take(&store->upcalls, (struct upcall_record *)upcalls, limit, &more);

    if (more)
        eventfd_write(store->upcalls.event_fd, 1);
    return taken > 0 ? (unsigned)taken : 0;
}

uint32_t vfs_store_new_handle(struct chunk_store *store) { return chunk_store_new_handle(store); }

int vfs_blob_open(struct chunk_store *store, int data_fd, int chunk_map_fd, int meta_fd, uint32_t chunk_count,
                  uint64_t uncompressed_size, struct blob **out)
{
    return blob_open(store, data_fd, chunk_map_fd, meta_fd, chunk_count, uncompressed_size, out);
}

void vfs_blob_close(struct chunk_store *store, struct blob *blob) { blob_close(store, blob); }
uint32_t vfs_blob_handle(const struct blob *blob) { return blob->handle; }

int vfs_blob_is_ready(const struct blob *blob, uint32_t chunk)
{
    return chunk < blob->chunk_count && blob_state(blob, chunk) == CHUNK_READY;
}

uint32_t vfs_blob_ready_count(const struct blob *blob)
{
    uint32_t ready = 0;

    for (uint32_t i = 0; i < blob->chunk_count; i++)
        ready += blob_state(blob, i) == CHUNK_READY;
    return ready;
}

int vfs_blob_claim(struct blob *blob, uint32_t chunk)
{
    return chunk < blob->chunk_count && blob_state(blob, chunk) == CHUNK_ABSENT && blob_claim(blob, chunk);
}

static int in_range(const struct blob *blob, uint32_t first, uint32_t count)
{
    return first <= blob->chunk_count && count <= blob->chunk_count - first;
}

void vfs_blob_complete(struct chunk_store *store, struct blob *blob, uint32_t first, uint32_t count)
{
    if (in_range(blob, first, count))
        blob_complete(store, blob, first, count);
}

void vfs_blob_complete_in_memory(struct chunk_store *store, struct blob *blob, uint32_t first, uint32_t count)
{
    struct chunk_area *memory = blob_memory(blob);

    if (memory && in_range(blob, first, count))
        blob_complete_in(store, blob, memory, first, count);
}

void vfs_blob_unclaim(struct chunk_store *store, struct blob *blob, uint32_t first, uint32_t count)
{
    if (in_range(blob, first, count))
        blob_unclaim(store, blob, first, count);
}

void vfs_blob_fail(struct chunk_store *store, struct blob *blob, uint32_t first, uint32_t count)
{
    if (in_range(blob, first, count))
        blob_fail(store, blob, first, count);
}

int vfs_blob_add_memory(struct blob *blob, int data_fd, int map_fd) { return blob_add_memory(blob, data_fd, map_fd); }
int vfs_blob_add_visited(struct blob *blob, int fd) { return blob_add_visited(blob, fd); }

int vfs_blob_is_visited(const struct blob *blob, uint32_t chunk)
{
    const struct visited_map *visited = blob_visited(blob);

    return visited && chunk < blob->chunk_count && __atomic_load_n(&visited->bits[chunk / 8], __ATOMIC_RELAXED) & rafs_chunk_bit(chunk);
}

uint32_t vfs_blob_visited_count(const struct blob *blob)
{
    const struct visited_map *visited = blob_visited(blob);
    uint32_t count = 0;

    for (uint32_t i = 0; visited && i < (blob->chunk_count + 7) / 8; i++)
        count += (uint32_t)__builtin_popcount(__atomic_load_n(&visited->bits[i], __ATOMIC_RELAXED));
    return count;
}

int vfs_blob_was_visited(struct blob *blob, uint32_t chunk) { return chunk < blob->chunk_count && blob_was_visited(blob, chunk); }

int vfs_blob_is_on_disk(const struct blob *blob, uint32_t chunk)
{
    return chunk < blob->chunk_count && chunk_area_is_ready(&blob->disk, chunk);
}

uint64_t vfs_blob_generation(const struct blob *blob) { return chunk_area_generation(&blob->disk); }

int vfs_blob_evict(struct blob *blob, int in_memory, const struct vfs_chunk_run *runs, uint32_t run_count, const struct vfs_byte_range *holes,
                   uint32_t hole_count)
{
    struct chunk_area *area = in_memory ? blob_memory(blob) : &blob->disk;

    if (!area)
        return -ENXIO;
    for (uint32_t i = 0; i < run_count; i++)
        if (!in_range(blob, runs[i].first, runs[i].count))
            return -EINVAL;
    return chunk_area_evict(area, (const struct chunk_run *)runs, run_count, (const struct byte_range *)holes, hole_count);
}

void vfs_blob_forget(struct blob *blob, uint32_t first, uint32_t count)
{
    if (in_range(blob, first, count))
        blob_forget(blob, first, count);
}

int vfs_chunk_list_check(const struct rafs_chunk_record *list, uint32_t count, const struct vfs_chunk_bounds *bounds, uint32_t *fault)
{
    return chunk_list_check(list, count, (const struct chunk_bounds *)bounds, fault);
}

int vfs_chunk_table_check(const struct rafs_chunk_record *table, const struct vfs_chunk_bounds *bounds, uint32_t *fault)
{
    return chunk_table_check(table, (const struct chunk_bounds *)bounds, fault);
}

int vfs_chunk_table_merge(struct rafs_chunk_record *table, const struct rafs_chunk_record *list, uint32_t count,
                          const struct vfs_chunk_bounds *bounds, uint8_t *added, uint32_t *fault)
{
    return chunk_table_merge(table, list, count, (const struct chunk_bounds *)bounds, added, fault);
}
