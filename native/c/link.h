/*
 * A link: chunks of a store that another process, the agent, fetches.
 *
 * Upcalls go to it by a ring of the link's own, completions come back by another one. A thread takes those:
 * it clears PENDING and wakes queues, so that no interpreter is between a chunk that has arrived and the read
 * that waits for it. The rings are for one agent: its successor gets new ones, and is asked again for what
 * is PENDING.
 */
#ifndef VHOSTFS_LINK_H
#define VHOSTFS_LINK_H
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "blob.h"
#include "completion.h"
#include "upcall.h"

struct chunk_link {
    uint32_t references; /* atomic: the owner's, and one for each blob */
    struct chunk_store *store;
    struct upcall_ring upcalls;
    struct completion_ring completions;
    pthread_t thread; /* takes completions */
    bool is_stopping; /* atomic */
    uint32_t ask_slot, ask_chunk; /* where chunk_link_ask_again goes on */
};

/* NULL: see errno. */
struct chunk_link *chunk_link_new(struct chunk_store *store);
/* New rings, for another agent. Reads that miss meanwhile wait. On failure nobody completes anything any
 * more, and it can be tried again. */
int chunk_link_renew(struct chunk_link *link);
/* Pushes what is PENDING in the link's blobs. false: the ring is full; call again to go on. */
bool chunk_link_ask_again(struct chunk_link *link);
/* Gives up the owner's reference. Blobs that are still open are completed by nobody. */
void chunk_link_close(struct chunk_link *link);

struct chunk_link *chunk_link_get(struct chunk_link *link);
void chunk_link_put(struct chunk_link *link);
#endif
