/* What every C test needs: CHECK, and RUN to name what runs. A failed check ends the program. */
#ifndef VHOSTFS_TESTS_CHECK_H
#define VHOSTFS_TESTS_CHECK_H
#include <stdio.h>
#include <stdlib.h>

#define CHECK(condition)                                                             \
    do {                                                                             \
        if (!(condition)) {                                                          \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
            abort();                                                                 \
        }                                                                            \
    } while (0)

#define CHECK_EQ(got, expected)                                                                        \
    do {                                                                                               \
        long long got_ = (long long)(got), expected_ = (long long)(expected);                          \
        if (got_ != expected_) {                                                                       \
            fprintf(stderr, "%s:%d: %s is %lld, not %lld\n", __FILE__, __LINE__, #got, got_, expected_); \
            abort();                                                                                   \
        }                                                                                              \
    } while (0)

#define RUN(test)                      \
    do {                               \
        fprintf(stderr, "  " #test "\n"); \
        test();                        \
    } while (0)
#endif
