/*
 * Patterns that change files: writes, copies, writes made durable, names that come and go.
 *
 * A pattern of several requests has streams, each with one request in flight: its step says which.
 */
#ifndef BENCH_CHANGE_H
#define BENCH_CHANGE_H
#include "workload.h"

#define CREATE_UNLINK_STEPS 4 /* CREATE, RELEASE, UNLINK, FORGET */
#define WRITE_FSYNC_STEPS 2   /* WRITE, FSYNC */

/* The load's next request. */
void change_add(struct load *load, struct ring *ring, struct slot *slot);
/* Takes the reply in, good or not; whether what it says is right. A good one that ends a pattern counts as an entry. */
bool change_end(struct load *load, struct slot *slot, bool is_good);
#endif
