/* How the load generator gives up: one line on stderr that says what went wrong, status 2. */
#ifndef BENCH_CHECK_H
#define BENCH_CHECK_H
#include <stdio.h>
#include <stdlib.h>

#define die(...)                      \
    do {                              \
        fputs("loadgen: ", stderr);   \
        fprintf(stderr, __VA_ARGS__); \
        fputc('\n', stderr);          \
        exit(2);                      \
    } while (0)
#endif
