/* The blobs of a process by slot and by handle, and who waits for their chunks. See blob.h. */
#include <errno.h>
#include <stdlib.h>

#include "barrier.h"
#include "blob.h"

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

uint32_t chunk_store_new_handle(struct chunk_store *store)
{
    return __atomic_add_fetch(&store->last_handle, 1, __ATOMIC_RELAXED);
}

int chunk_store_put_in(struct chunk_store *store, struct blob *blob)
{
    uint32_t slot = 0;
    int err = 0;

    pthread_mutex_lock(&store->lock);
    while (slot < store->blob_capacity && store->blobs[slot])
        slot++;
    if (slot == store->blob_capacity) {
        uint32_t capacity = slot ? 2 * slot : 16;
        struct blob **blobs = capacity <= CHUNK_STORE_MAX_BLOBS ? reallocarray(store->blobs, capacity, sizeof(*blobs)) : NULL;
        if (blobs) {
            for (uint32_t i = slot; i < capacity; i++)
                blobs[i] = NULL;
            store->blobs = blobs;
            store->blob_capacity = capacity;
        } else {
            err = -ENOMEM;
        }
    }
    if (!err) {
        store->blobs[slot] = blob;
        blob->slot = slot;
        blob->handle = chunk_store_new_handle(store);
    }
    pthread_mutex_unlock(&store->lock);
    return err;
}

void chunk_store_take_out(struct chunk_store *store, struct blob *blob)
{
    pthread_mutex_lock(&store->lock);
    store->blobs[blob->slot] = NULL;
    pthread_mutex_unlock(&store->lock);
}

void chunk_store_wake(struct chunk_store *store)
{
    full_fence(); /* the bits before the look at `parked`; pairs with the queue's own fence */
    pthread_mutex_lock(&store->lock);
    for (struct chunk_waiter *waiter = store->waiters; waiter; waiter = waiter->next) {
        if (__atomic_load_n(&waiter->parked, __ATOMIC_RELAXED))
            waiter->wake(waiter);
    }
    pthread_mutex_unlock(&store->lock);
}

/* With a reference; NULL: closed meanwhile. */
static struct blob *find_blob(struct chunk_store *store, uint32_t handle)
{
    struct blob *found = NULL;

    pthread_mutex_lock(&store->lock);
    for (uint32_t i = 0; i < store->blob_capacity && !found; i++) {
        if (store->blobs[i] && store->blobs[i]->handle == handle)
            found = blob_get(store->blobs[i]);
    }
    pthread_mutex_unlock(&store->lock);
    return found;
}

void chunk_store_settle(struct chunk_store *store, const struct upcall_record *records, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        struct blob *blob = find_blob(store, records[i].blob);
        if (!blob)
            continue;
        blob_settle(blob, records[i].first_chunk, records[i].chunk_count, records[i].has_failed);
        blob_put(blob);
    }
    chunk_store_wake(store);
}
