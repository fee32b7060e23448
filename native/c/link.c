/* Links. See link.h. */
#include "link.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>

#include "barrier.h"

#define TAKEN_AT_ONCE 64
#define LINK_STACK (64 << 10)

static void *take_completions(void *argument)
{
    struct chunk_link *link = argument;
    struct upcall_record records[TAKEN_AT_ONCE];

    pthread_setname_np(pthread_self(), "vfs-completions");
    for (;;) {
        uint32_t bell = completion_bell(&link->completions); /* before the look at the ring */
        unsigned taken = completion_take(&link->completions, records, TAKEN_AT_ONCE);
        if (taken)
            chunk_store_settle(link->store, records, taken);
        else if (__atomic_load_n(&link->is_stopping, __ATOMIC_RELAXED))
            return NULL;
        else
            completion_wait_bell(&link->completions, bell);
    }
}

static int start(struct chunk_link *link)
{
    int err = completion_ring_init(&link->completions);
    pthread_attr_t attr;
    sigset_t all, before;

    if (err)
        return err;
    __atomic_store_n(&link->is_stopping, false, __ATOMIC_RELAXED);
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, LINK_STACK);
    sigfillset(&all); /* signals belong to the interpreter's main thread */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    err = -pthread_create(&link->thread, &attr, take_completions, link);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    if (err) {
        completion_ring_destroy(&link->completions);
        link->is_stopping = true;
    }
    return err;
}

/* No thread, and no completion ring, after. */
static void stop(struct chunk_link *link)
{
    if (link->is_stopping)
        return;
    __atomic_store_n(&link->is_stopping, true, __ATOMIC_RELAXED);
    completion_ring_bell(&link->completions);
    pthread_join(link->thread, NULL);
    completion_ring_destroy(&link->completions);
}

struct chunk_link *chunk_link_new(struct chunk_store *store)
{
    struct chunk_link *link = calloc(1, sizeof(*link));
    int err = link ? upcall_ring_init(&link->upcalls) : -ENOMEM;

    if (!err) {
        link->references = 1;
        link->store = store;
        err = start(link);
        if (err)
            upcall_ring_destroy(&link->upcalls);
    }
    if (err) {
        free(link);
        errno = -err;
        return NULL;
    }
    return link;
}

int chunk_link_renew(struct chunk_link *link)
{
    int err;

    stop(link); /* what the old agent has completed is taken first */
    err = upcall_ring_renew(&link->upcalls);
    link->ask_slot = link->ask_chunk = 0;
    return err ? err : start(link);
}

/* The blob at ask_slot or behind it, if it is of this link; with a reference. */
static struct blob *next_blob(struct chunk_link *link)
{
    struct chunk_store *store = link->store;
    struct blob *blob = NULL;

    pthread_mutex_lock(&store->lock);
    for (; link->ask_slot < store->blob_capacity && !blob; link->ask_slot++) {
        struct blob *candidate = store->blobs[link->ask_slot];
        if (candidate && candidate->link == link)
            blob = blob_get(candidate);
        else
            link->ask_chunk = 0;
    }
    pthread_mutex_unlock(&store->lock);
    return blob;
}

/* Asks for what is PENDING from ask_chunk on. false: the ring is full. */
static bool ask_again(struct chunk_link *link, struct blob *blob)
{
    uint32_t at = link->ask_chunk;
    bool room = true;

    upcall_lock(&link->upcalls);
    while (at < blob->chunk_count && (room = upcall_has_room_locked(&link->upcalls))) {
        uint32_t run = 0;
        while (at + run < blob->chunk_count && run < UPCALL_RUN && blob_state(blob, at + run) == CHUNK_PENDING)
            run++;
        if (run)
            upcall_push_locked(&link->upcalls, blob->handle, at, run);
        else
            blob_settle(blob, at, 1, false); /* if it is READY: it came, and nobody was there to say so */
        at += run ? run : 1;
    }
    upcall_unlock(&link->upcalls);
    link->ask_chunk = at;
    return room;
}

bool chunk_link_ask_again(struct chunk_link *link)
{
    struct blob *blob;

    while ((blob = next_blob(link))) {
        bool all = ask_again(link, blob);
        blob_put(blob);
        if (!all) {
            link->ask_slot--; /* this one once more */
            return false;
        }
        link->ask_chunk = 0;
    }
    chunk_store_wake(link->store);
    return true;
}

void chunk_link_close(struct chunk_link *link)
{
    stop(link);
    chunk_link_put(link);
}

struct chunk_link *chunk_link_get(struct chunk_link *link)
{
    __atomic_fetch_add(&link->references, 1, __ATOMIC_RELAXED); /* the caller has one already */
    return link;
}

void chunk_link_put(struct chunk_link *link)
{
    /* acq_rel: what others did with it happens before it goes */
    if (__atomic_fetch_sub(&link->references, 1, __ATOMIC_ACQ_REL) != 1)
        return;
    upcall_ring_destroy(&link->upcalls);
    free(link);
}
