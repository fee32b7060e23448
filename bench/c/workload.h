/*
 * Workloads: a table of request patterns, and the loop that keeps `depth` of them in flight on each
 * request queue for some time.
 *
 * One thread drives all queues: it completes what is there, tops up every queue, publishes, and
 * sleeps until an interrupt when nothing has completed. It never spins, as a guest does not.
 * Every reply is checked (unique, error, length, used length, node id; data with `local`).
 */
#ifndef BENCH_WORKLOAD_H
#define BENCH_WORKLOAD_H
#include <stdbool.h>
#include <stdint.h>

#include "report.h"
#include "session.h"

/* How far a stream of a pattern of several requests is: see change.c. */
struct stream {
    struct stream *next;
    uint64_t fh, offset, nodeid;
    unsigned number, step;
};

struct pattern {
    const char *name;
    uint32_t opcode; /* its first request */
    uint32_t io_size;
    bool is_random;    /* offset, or name in the directory */
    bool is_scattered; /* no two pages of the buffer are neighbours */
    bool writes;       /* its file is opened to be written */
    uint8_t streams;   /* every request is the next of a stream; it is over after so many steps */
};
/* NULL: no such pattern. */
const struct pattern *pattern_find(const char *name);
void pattern_print_names(void);

/* What requests are about, shared by all loads of a run. */
struct share {
    struct session *session;
    struct target directory;
    struct listing listing; /* of it */
};

#define MAX_LOADS 5

/* One pattern at one depth on one file, and what came of it. */
struct load {
    const struct pattern *pattern;
    unsigned depth; /* in flight on each queue */
    const struct share *share;
    const struct target *file;
    bool once;            /* ends when the file was read once, whatever the time */
    const uint8_t *local; /* what the file should hold; NULL: data is not compared */
    /* state of the run */
    unsigned *in_flight; /* by queue */
    uint64_t position, random_state;
    struct stream *streams, *free_streams;
    /* results */
    struct histogram histogram;
    uint64_t bytes, entries, bad;
    uint64_t operations_in_time, bytes_in_time, entries_in_time; /* while the clock ran */
    int first_error;
};

struct bench {
    struct ring *rings;
    unsigned ring_count;
    struct waiter waiter;
    int backend_pid; /* 0: unknown */
    bool signal_backend; /* SIGUSR1 when a workload starts */
};

/* Runs up to MAX_LOADS side by side for `seconds`, or for as long as the first is `once`; prints a JSON line about the first, with the second
 * as its "background" and all others than the first as its "backgrounds". Returns the number of bad replies. */
uint64_t load_next_random(struct load *load);
uint64_t bench_run(struct bench *bench, struct load *loads, unsigned count, double seconds);
#endif
