/* Histogram and clocks. See report.h. */
#include "report.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <time.h>

static unsigned bucket_of(uint64_t ns)
{
    unsigned octave = ns < HISTOGRAM_STEPS ? 0 : 63 - (unsigned)__builtin_clzll(ns) - 5; /* 64..127 ns is octave 1 */
    unsigned bucket = octave ? octave * HISTOGRAM_STEPS + (unsigned)((ns >> (octave - 1)) - HISTOGRAM_STEPS) : (unsigned)ns;
    unsigned last = 40 * HISTOGRAM_STEPS - 1;

    return bucket < last ? bucket : last;
}

static double middle_of(unsigned bucket)
{
    unsigned octave = bucket / HISTOGRAM_STEPS, step = bucket % HISTOGRAM_STEPS;

    return octave ? (double)((uint64_t)(step + HISTOGRAM_STEPS) << (octave - 1)) + (double)(1ull << (octave - 1)) / 2 : step;
}

void histogram_add(struct histogram *histogram, uint64_t ns)
{
    histogram->count++;
    histogram->buckets[bucket_of(ns)]++;
    if (ns > histogram->worst_ns)
        histogram->worst_ns = ns;
}

double histogram_percentile_us(const struct histogram *histogram, double percent)
{
    uint64_t below = (uint64_t)((double)histogram->count * percent / 100), seen = 0;

    for (unsigned i = 0; i < 40 * HISTOGRAM_STEPS; i++) {
        seen += histogram->buckets[i];
        if (seen > below)
            return (middle_of(i) < (double)histogram->worst_ns ? middle_of(i) : (double)histogram->worst_ns) / 1000;
    }
    return (double)histogram->worst_ns / 1000;
}

uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t cpu_time_ns(int pid)
{
    char path[400];
    uint64_t total = 0, ns;
    int child;

    snprintf(path, sizeof(path), "/proc/%d/task", pid);
    DIR *tasks = opendir(path);
    for (struct dirent *task; tasks && (task = readdir(tasks));) {
        if (task->d_name[0] == '.')
            continue;
        snprintf(path, sizeof(path), "/proc/%d/task/%s/schedstat", pid, task->d_name);
        FILE *file = fopen(path, "r");
        if (file && fscanf(file, "%" SCNu64, &ns) == 1)
            total += ns;
        if (file)
            fclose(file);
        snprintf(path, sizeof(path), "/proc/%d/task/%s/children", pid, task->d_name);
        file = fopen(path, "r");
        while (file && fscanf(file, "%d", &child) == 1)
            total += cpu_time_ns(child);
        if (file)
            fclose(file);
    }
    if (tasks)
        closedir(tasks);
    return total;
}
