/*
 * Recording who reads which chunk first, for a mount that is traced.
 *
 * A log, not a ring: a chunk is recorded once, so there is an end to it, and what comes after the
 * log's capacity is counted and dropped. Any number of threads add without a lock; one reads.
 */
#ifndef VHOSTFS_TRACE_H
#define VHOSTFS_TRACE_H
#include <stdint.h>

#include "rafs_image.h"
#include "trace_format.h"

struct trace;

/* Of an image's chunks; recording time begins now. NULL: no memory. */
struct trace *trace_new(const struct rafs_image *image, uint32_t capacity);
void trace_free(struct trace *trace); /* no mount records to it any more */
/* Records an access unless there was one to this chunk before. The time is filled in here. */
void trace_touch(struct trace *trace, struct vfs_trace_record access);
/* Copies up to `limit` records from number `from` on; returns how many there were. */
uint32_t trace_read(const struct trace *trace, uint32_t from, struct vfs_trace_record *out, uint32_t limit);
uint64_t trace_dropped(const struct trace *trace);
uint64_t trace_duration_ns(const struct trace *trace);
#endif
