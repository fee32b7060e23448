/*
 * The FUSE session: requests as the Linux client forms them, and the walk from names to node ids.
 *
 * Calls here are synchronous, on one ring, with every reply checked; a wrong one ends the program.
 */
#ifndef BENCH_SESSION_H
#define BENCH_SESSION_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ring.h"

struct session {
    struct ring *ring;
    struct waiter waiter; /* on this ring alone */
    struct fuse_init_out init;
};

/* A regular file or directory of the share, open. */
struct target {
    const char *path;
    uint64_t parent_nodeid, nodeid, fh;
    const char *name; /* last component */
    struct fuse_attr attr;
};

struct entry {
    char *name;
    uint64_t nodeid;
    struct fuse_attr attr;
};
struct listing {
    struct entry *entries; /* without . and .. */
    size_t count;
};

/* Fills in the header and copies the arguments into the slot. */
void request_fill(struct slot *slot, uint32_t opcode, uint64_t nodeid, const void *args, size_t args_size);
/* Sends the first `size` bytes of the slot's data behind them. */
void request_send(struct slot *slot, uint32_t size);
/* Whether the reply to `slot` is one: unique, length in header and used ring, error. */
bool reply_is_sound(const struct slot *slot, uint32_t used_len);

void session_start(struct session *session, struct ring *ring, unsigned timeout_s);
void session_end(struct session *session); /* DESTROY */
/* One request; returns the error (0 or negative errno). `slot` is the caller's until it gives it back. */
int session_call(struct session *session, struct slot *slot, uint32_t out_args_size, uint32_t data_size, uint32_t *got);
void session_open(struct session *session, const char *path, bool is_directory, struct target *target);
/* The same for a file to write: it is open for reading and writing. */
void session_open_to_write(struct session *session, const char *path, struct target *target);
/* A handle of a directory; 0 where the back-end needs none. */
uint64_t session_opendir(struct session *session, uint64_t nodeid);
void session_list(struct session *session, const struct target *directory, struct listing *listing);
/* READ into `slot`, which the caller gives back. Returns the number of bytes or a negative errno. */
int64_t session_read(struct session *session, const struct target *file, uint64_t offset, uint32_t size, struct slot *slot);

/* Walks a READDIRPLUS reply: the entry at `at`, NULL at the end; *next is where to go on. */
const struct fuse_direntplus *direntplus_at(const uint8_t *data, uint32_t size, uint32_t at, uint32_t *next);
#endif
