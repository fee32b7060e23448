/* The log of first accesses. See trace.h; its memory is touched only as far as it is used. */
#include "trace.h"

#include <stdbool.h>
#include <stdlib.h>
#include <time.h>

_Static_assert(sizeof(struct vfs_trace_header) == 128, "the header of a trace file");
_Static_assert(sizeof(struct vfs_trace_record) == 48, "a record of a trace file");

struct slot {
    uint32_t is_written; /* atomic */
    struct vfs_trace_record record;
};

struct trace {
    uint64_t began_ns;
    uint64_t tail; /* atomic: slots taken, and accesses beyond the last one */
    uint32_t capacity;
    uint32_t blob_count;
    struct slot *slots;
    uint64_t *first_bits; /* of each blob's chunks in `touched` */
    uint8_t *touched;     /* atomic bytes: a bit a chunk */
};

static uint64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

struct trace *trace_new(const struct rafs_image *image, uint32_t capacity)
{
    struct trace *trace = calloc(1, sizeof(*trace));
    uint64_t bits = 0;

    if (!trace)
        return NULL;
    trace->blob_count = image->blob_count;
    trace->first_bits = calloc(image->blob_count + 1, sizeof(*trace->first_bits));
    for (uint32_t i = 0; trace->first_bits && i < image->blob_count; i++) {
        bits += image->blobs[i].chunk_count;
        trace->first_bits[i + 1] = bits;
    }
    trace->capacity = bits < capacity ? (uint32_t)bits : capacity;
    trace->touched = calloc(1, bits / 8 + 1);
    trace->slots = calloc(trace->capacity + 1, sizeof(*trace->slots));
    trace->began_ns = now_ns();
    if (trace->first_bits && trace->touched && trace->slots)
        return trace;
    trace_free(trace);
    return NULL;
}

void trace_free(struct trace *trace)
{
    free(trace->slots);
    free(trace->touched);
    free(trace->first_bits);
    free(trace);
}

static bool is_first(struct trace *trace, uint32_t blob_index, uint32_t chunk_index)
{
    uint64_t number = trace->first_bits[blob_index] + chunk_index;
    uint8_t *byte = &trace->touched[number / 8], bit = (uint8_t)(1 << (number & 7));

    /* relaxed: it orders nothing but who is first */
    return !(__atomic_load_n(byte, __ATOMIC_RELAXED) & bit) && !(__atomic_fetch_or(byte, bit, __ATOMIC_RELAXED) & bit);
}

void trace_touch(struct trace *trace, struct vfs_trace_record access)
{
    uint64_t place;

    if (!is_first(trace, access.blob_index, access.chunk_index))
        return;
    place = __atomic_fetch_add(&trace->tail, 1, __ATOMIC_RELAXED);
    if (place >= trace->capacity)
        return;
    access.time_ns = now_ns() - trace->began_ns;
    trace->slots[place].record = access;
    __atomic_store_n(&trace->slots[place].is_written, 1, __ATOMIC_RELEASE); /* the record before the word */
}

uint32_t trace_read(const struct trace *trace, uint32_t from, struct vfs_trace_record *out, uint32_t limit)
{
    uint32_t count = 0;

    while (count < limit && from + count < trace->capacity && __atomic_load_n(&trace->slots[from + count].is_written, __ATOMIC_ACQUIRE)) {
        out[count] = trace->slots[from + count].record;
        count++;
    }
    return count;
}

uint64_t trace_dropped(const struct trace *trace)
{
    uint64_t tail = __atomic_load_n(&trace->tail, __ATOMIC_RELAXED);

    return tail > trace->capacity ? tail - trace->capacity : 0;
}

uint64_t trace_duration_ns(const struct trace *trace) { return now_ns() - trace->began_ns; }
