/* The clock by which deadlines and pauses are measured. */
#ifndef VHOSTFS_MONOTONIC_H
#define VHOSTFS_MONOTONIC_H
#include <stdint.h>
#include <time.h>

static inline uint64_t monotonic_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}
#endif
