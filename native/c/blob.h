/*
 * Data blobs: where each chunk lies in the cache file, and in which state it is.
 *
 *   ABSENT --claim--> PENDING --complete--> READY --evict--> ABSENT
 *                        \----fail-------> ABSENT, failed
 *
 * READY bits live in chunk maps (chunk_area.h), shared with other processes that use the same cache.
 * PENDING bits are this process's own: they say that somebody here has asked for the chunk, and so
 * is `failed`, which tells who waited for it why it is ABSENT: for ever, or because it was evicted
 * before they had a look. Whoever fetches writes the data file first, then completes. All functions
 * may be called from any thread.
 *
 * Where another process fetches (link.h), chunk maps may be open for reading only. That process sets the
 * READY bits; here chunks are settled: PENDING is cleared, and who waits looks for READY.
 */
#ifndef VHOSTFS_BLOB_H
#define VHOSTFS_BLOB_H
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "chunk_area.h"
#include "upcall.h"

enum chunk_state { CHUNK_READY, CHUNK_PENDING, CHUNK_ABSENT };

struct chunk_link;

/* Both are shared with whoever fetches, and are replaced when that is another process. A reader may still use the
 * older ones, which stay as long as the blob. */
struct memory_area {
    struct chunk_area area;
    struct memory_area *older;
};

struct visited_map {
    uint8_t *bits;
    size_t length;
    struct visited_map *older;
};

struct blob {
    uint32_t references; /* atomic: the owner's, and one for each request that waits for a chunk */
    uint32_t handle; /* what upcalls and completions carry; never used again */
    uint32_t slot;   /* index in the store */
    struct chunk_link *link; /* who fetches it; NULL: the consumer of the store's own ring */
    uint32_t chunk_count;
    uint64_t uncompressed_size;
    struct chunk_area disk;   /* the cache files */
    struct memory_area *memory; /* atomic: for what the disk had no room for. NULL: there is no such area */
    uint8_t *pending;         /* bitmaps in the map's bit order */
    uint8_t *failed;
    struct visited_map *visited; /* atomic: which chunks were read since it was cleared. NULL: nobody asks */
    const uint8_t *meta;      /* blob.meta; v5: a table of chunk records (chunk_table.h) */
    size_t meta_length;
    uint32_t record_size;     /* tells which form they have */
};

/* A queue that may have requests parked on chunks. */
struct chunk_waiter {
    uint32_t parked; /* atomic: how many. Raised before the state of a chunk is looked at again */
    void (*wake)(struct chunk_waiter *waiter);
    struct chunk_waiter *next;
};

#define CHUNK_STORE_MAX_BLOBS 65536

/* All blobs of the process, the ring that asks for their chunks, and who waits for them. */
struct chunk_store {
    struct upcall_ring upcalls;
    pthread_mutex_t lock; /* blobs (slots), waiters */
    struct blob **blobs;
    uint32_t blob_capacity;
    uint32_t last_handle;
    struct chunk_waiter *waiters;
};

struct chunk_store *chunk_store_new(void);
void chunk_store_free(struct chunk_store *store); /* every blob and waiter must be gone */
void chunk_store_add_waiter(struct chunk_store *store, struct chunk_waiter *waiter);
void chunk_store_remove_waiter(struct chunk_store *store, struct chunk_waiter *waiter);
/* Wakes who waits; after the states have changed. */
void chunk_store_wake(struct chunk_store *store);
/* A handle that no blob of the store has had. */
uint32_t chunk_store_new_handle(struct chunk_store *store);
/* What was asked for, by handle, has been dealt with elsewhere. Unknown handles and chunks do not matter. */
void chunk_store_settle(struct chunk_store *store, const struct upcall_record *records, unsigned count);
/* For blob.c: gives a blob its slot and a handle. -ENOMEM. */
int chunk_store_put_in(struct chunk_store *store, struct blob *blob);
void chunk_store_take_out(struct chunk_store *store, struct blob *blob);

/* Duplicates data_fd, maps the two files. -EINVAL: a file's size does not fit chunk_count. */
int blob_open(struct chunk_store *store, int data_fd, int chunk_map_fd, int meta_fd, uint32_t chunk_count,
              uint64_t uncompressed_size, struct blob **out);
/* Gives it an area in memory, and a bitmap of visited chunks, or others than it has. One call at a time.
 * Errors as blob_open. */
int blob_add_memory(struct blob *blob, int data_fd, int map_fd);
int blob_add_visited(struct blob *blob, int fd);
/* Has the blob fetched by way of a link, which knows it by that handle. Before anything serves it. */
void blob_set_link(struct blob *blob, struct chunk_link *link, uint32_t handle);
/* Gives up the owner's reference; the files stay mapped while a request holds another. */
void blob_close(struct chunk_store *store, struct blob *blob);
struct blob *blob_get(struct blob *blob);
void blob_put(struct blob *blob);

/* Whether chunk `index` starts at `offset` of the uncompressed blob and holds `end` bytes or more.
 * A bootstrap that says otherwise must not be believed: the READY bit would be another chunk's. */
bool blob_chunk_covers(const struct blob *blob, uint32_t index, uint64_t offset, uint64_t end);
enum chunk_state blob_state(const struct blob *blob, uint32_t index);
/* Of a chunk that is ABSENT: it was asked for and could not be had. Else it was evicted: ask again. */
bool blob_has_failed(const struct blob *blob, uint32_t index);
/* Where a chunk lies, NULL if it is not READY. What is read there counts only if the area is still at
 * `generation` afterwards (chunk_area_is_at). */
struct chunk_area *blob_find(struct blob *blob, uint32_t index, uint64_t *generation);
/* The area in memory, or NULL. */
struct chunk_area *blob_memory(const struct blob *blob);
static inline const struct visited_map *blob_visited(const struct blob *blob) { return __atomic_load_n(&blob->visited, __ATOMIC_ACQUIRE); }
/* The chunk is being read; and whether it was since the last time that was asked. */
void blob_visit(struct blob *blob, uint32_t index);
bool blob_was_visited(struct blob *blob, uint32_t index);
/* Tries ABSENT -> PENDING. true: the caller won and must see to it that the chunk is fetched. */
bool blob_claim(struct blob *blob, uint32_t index);
/* Claims and asks for every ABSENT chunk of [first, first+count). false: the ring is full, and some
 * chunks stay ABSENT: try again. */
bool blob_request(struct chunk_store *store, struct blob *blob, uint32_t first, uint32_t count);
/* Whether the ring that asks for its chunks has room. */
bool blob_may_request(struct chunk_store *store, struct blob *blob);
/* Clears PENDING, as far as there are such chunks, and wakes nobody. has_failed: they could not be had. */
void blob_settle(struct blob *blob, uint32_t first, uint32_t count, bool has_failed);

void blob_complete(struct chunk_store *store, struct blob *blob, uint32_t first, uint32_t count);
/* The same for chunks that were written to this area of the blob; blob_complete means the disk. */
void blob_complete_in(struct chunk_store *store, struct blob *blob, struct chunk_area *area, uint32_t first, uint32_t count);
/* PENDING -> whatever the READY bits say: who waits looks again, and asks again for what is not there. */
void blob_unclaim(struct chunk_store *store, struct blob *blob, uint32_t first, uint32_t count);
void blob_fail(struct chunk_store *store, struct blob *blob, uint32_t first, uint32_t count);
/* READY -> ABSENT, for chunks that must be verified again; their bytes stay. */
void blob_forget(struct blob *blob, uint32_t first, uint32_t count);
#endif
