/* What is measured: latencies as a histogram, CPU time of the back-end, and JSON lines. */
#ifndef BENCH_REPORT_H
#define BENCH_REPORT_H
#include <stdint.h>

/* 64 steps an octave: a percentile is within 1.6 % of the truth; the worst is exact. */
#define HISTOGRAM_STEPS 64
struct histogram {
    uint64_t count, worst_ns;
    uint32_t buckets[40 * HISTOGRAM_STEPS];
};
void histogram_add(struct histogram *histogram, uint64_t ns);
double histogram_percentile_us(const struct histogram *histogram, double percent);

uint64_t now_ns(void);
/* CPU time of all threads of a process and of its children (a sandboxed back-end works in one). */
uint64_t cpu_time_ns(int pid);
#endif
