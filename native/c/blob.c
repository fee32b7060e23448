/* Chunk states and the compression-information records. See blob.h. */
#include "blob.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "barrier.h"
#include "rafs_format.h"

#define MAX_LOCKED (16u << 20)

struct chunk_store *chunk_store_new(void)
{
    struct chunk_store *store = calloc(1, sizeof(*store));
    int err;

    if (!store)
        return NULL;
    err = upcall_ring_init(&store->upcalls);
    if (err) {
        free(store);
        errno = -err;
        return NULL;
    }
    pthread_mutex_init(&store->lock, NULL);
    return store;
}

void chunk_store_free(struct chunk_store *store)
{
    upcall_ring_destroy(&store->upcalls);
    pthread_mutex_destroy(&store->lock);
    free(store->blobs);
    free(store);
}

void chunk_store_add_waiter(struct chunk_store *store, struct chunk_waiter *waiter)
{
    pthread_mutex_lock(&store->lock);
    waiter->next = store->waiters;
    store->waiters = waiter;
    pthread_mutex_unlock(&store->lock);
}

void chunk_store_remove_waiter(struct chunk_store *store, struct chunk_waiter *waiter)
{
    pthread_mutex_lock(&store->lock);
    for (struct chunk_waiter **at = &store->waiters; *at; at = &(*at)->next) {
        if (*at == waiter) {
            *at = waiter->next;
            break;
        }
    }
    pthread_mutex_unlock(&store->lock);
}

static int take_handle(struct chunk_store *store, struct blob *blob)
{
    uint32_t handle = 0;
    int err = 0;

    pthread_mutex_lock(&store->lock);
    while (handle < store->blob_capacity && store->blobs[handle])
        handle++;
    if (handle == store->blob_capacity) {
        uint32_t capacity = handle ? 2 * handle : 16;
        struct blob **blobs = capacity <= CHUNK_STORE_MAX_BLOBS ? reallocarray(store->blobs, capacity, sizeof(*blobs)) : NULL;
        if (blobs) {
            for (uint32_t i = handle; i < capacity; i++)
                blobs[i] = NULL;
            store->blobs = blobs;
            store->blob_capacity = capacity;
        } else {
            err = -ENOMEM;
        }
    }
    if (!err) {
        store->blobs[handle] = blob;
        blob->handle = handle;
    }
    pthread_mutex_unlock(&store->lock);
    return err;
}

static int map_file(int fd, int protection, size_t *length, uint8_t **out)
{
    struct stat st;
    void *map;

    if (fstat(fd, &st) < 0)
        return -errno;
    if (st.st_size < RAFS_BLOCK_SIZE)
        return -EINVAL;
    *length = (size_t)st.st_size;
    map = mmap(NULL, *length, protection, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED)
        return -errno;
    /* Queue threads look at these pages at every read: they must not wait for a disk to get them
     * back. Best effort, and only while it is cheap: 16 MiB are the records of a million chunks. */
    if (*length <= MAX_LOCKED)
        (void)!mlock(map, *length);
    *out = map;
    return 0;
}

static int open_map(struct blob *blob, int chunk_map_fd)
{
    int err = map_file(chunk_map_fd, PROT_READ | PROT_WRITE, &blob->map_length, &blob->map);

    if (err)
        return err;
    if (blob->map_length != RAFS_CHUNK_MAP_HEADER_SIZE + (blob->chunk_count + 7) / 8)
        return -EINVAL;
    blob->all_ready = ((const struct rafs_chunk_map_header *)blob->map)->all_ready == RAFS_CHUNK_MAP_ALL_READY;
    blob->pending = calloc(1, (blob->chunk_count + 7) / 8 + 1);
    return blob->pending ? 0 : -ENOMEM;
}

static int open_meta(struct blob *blob, int meta_fd)
{
    uint8_t *meta;
    const struct rafs_ci_header *header;
    int err = map_file(meta_fd, PROT_READ, &blob->meta_length, &meta);

    if (err)
        return err;
    blob->meta = meta;
    header = (const struct rafs_ci_header *)(blob->meta + blob->meta_length - sizeof(*header));
    blob->ci_v2 = header->features & RAFS_BLOB_CHUNK_INFO_V2;
    uint64_t record = blob->ci_v2 ? sizeof(struct rafs_ci_v2) : sizeof(struct rafs_ci_v1);
    return record * blob->chunk_count <= blob->meta_length - sizeof(*header) ? 0 : -EINVAL;
}

static int open_data(struct blob *blob, int data_fd)
{
    struct statfs fs;

    blob->data_fd = fcntl(data_fd, F_DUPFD_CLOEXEC, 0);
    if (blob->data_fd < 0)
        return -errno;
    if (fstatfs(data_fd, &fs) == 0)
        blob->reads_never_block = fs.f_type == TMPFS_MAGIC || fs.f_type == RAMFS_MAGIC;
    return 0;
}

static void release(struct blob *blob)
{
    if (blob->map)
        munmap(blob->map, blob->map_length);
    if (blob->meta)
        munmap((void *)blob->meta, blob->meta_length);
    if (blob->data_fd >= 0)
        close(blob->data_fd);
    free(blob->pending);
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
    blob->data_fd = -1;
    blob->chunk_count = chunk_count;
    blob->uncompressed_size = uncompressed_size;
    err = open_map(blob, chunk_map_fd);
    if (!err)
        err = open_meta(blob, meta_fd);
    if (!err)
        err = open_data(blob, data_fd);
    if (!err)
        err = take_handle(store, blob);
    if (err)
        release(blob);
    else
        *out = blob;
    return err;
}

void blob_close(struct chunk_store *store, struct blob *blob)
{
    pthread_mutex_lock(&store->lock);
    store->blobs[blob->handle] = NULL;
    pthread_mutex_unlock(&store->lock);
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
    if (blob->ci_v2) {
        const struct rafs_ci_v2 *ci = (const struct rafs_ci_v2 *)blob->meta + index;
        start = (ci->uncompressed & 0xFFFFFFFF) << 12;
        size = (ci->uncompressed >> 32 & 0xFFFFFF) + 1;
    } else {
        const struct rafs_ci_v1 *ci = (const struct rafs_ci_v1 *)blob->meta + index;
        start = ci->uncompressed & 0xFFFFFFFF000;
        size = ((ci->uncompressed >> 44 | (ci->uncompressed >> 8 & 0xF) << 20)) + 1;
    }
    return start == offset && end <= size && start + size <= blob->uncompressed_size;
}

static uint8_t bit(uint32_t index) { return (uint8_t)(0x80 >> (index & 7)); }

static bool is_ready(const struct blob *blob, uint32_t index)
{
    /* acquire: the data written before the bit was set is seen by the read that follows */
    return blob->all_ready || (__atomic_load_n(&blob->map[RAFS_CHUNK_MAP_HEADER_SIZE + index / 8], __ATOMIC_ACQUIRE) & bit(index));
}

enum chunk_state blob_state(const struct blob *blob, uint32_t index)
{
    if (is_ready(blob, index))
        return CHUNK_READY;
    if (__atomic_load_n(&blob->pending[index / 8], __ATOMIC_ACQUIRE) & bit(index))
        return CHUNK_PENDING;
    /* READY is set before PENDING is cleared: a completion between the two looks shows now. */
    return is_ready(blob, index) ? CHUNK_READY : CHUNK_ABSENT;
}

static void clear_pending(struct blob *blob, uint32_t index)
{
    __atomic_fetch_and(&blob->pending[index / 8], (uint8_t)~bit(index), __ATOMIC_RELEASE);
}

bool blob_claim(struct blob *blob, uint32_t index)
{
    if (__atomic_fetch_or(&blob->pending[index / 8], bit(index), __ATOMIC_ACQ_REL) & bit(index))
        return false;
    if (!is_ready(blob, index)) /* else it was completed since the caller's look */
        return true;
    clear_pending(blob, index);
    return false;
}

bool blob_request(struct chunk_store *store, struct blob *blob, uint32_t first, uint32_t count)
{
    struct upcall_ring *upcalls = &store->upcalls;
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

static void wake_waiters(struct chunk_store *store)
{
    full_fence(); /* the bits before the look at `parked`; pairs with the queue's own fence */
    pthread_mutex_lock(&store->lock);
    for (struct chunk_waiter *waiter = store->waiters; waiter; waiter = waiter->next) {
        if (__atomic_load_n(&waiter->parked, __ATOMIC_RELAXED))
            waiter->wake(waiter);
    }
    pthread_mutex_unlock(&store->lock);
}

void blob_complete(struct chunk_store *store, struct blob *blob, uint32_t first, uint32_t count)
{
    for (uint32_t i = first; i < first + count; i++) {
        /* release: the data before the bit, for readers here and in other processes */
        __atomic_fetch_or(&blob->map[RAFS_CHUNK_MAP_HEADER_SIZE + i / 8], bit(i), __ATOMIC_RELEASE);
        clear_pending(blob, i);
    }
    wake_waiters(store);
}

void blob_fail(struct chunk_store *store, struct blob *blob, uint32_t first, uint32_t count)
{
    for (uint32_t i = first; i < first + count; i++)
        clear_pending(blob, i);
    wake_waiters(store);
}

void blob_forget(struct blob *blob, uint32_t first, uint32_t count)
{
    blob->all_ready = false;
    for (uint32_t i = first; i < first + count; i++)
        __atomic_fetch_and(&blob->map[RAFS_CHUNK_MAP_HEADER_SIZE + i / 8], (uint8_t)~bit(i), __ATOMIC_RELEASE);
}
