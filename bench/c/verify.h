/* The separate pass that compares everything with a local copy of the share. */
#ifndef BENCH_VERIFY_H
#define BENCH_VERIFY_H
#include <stdint.h>

#include "workload.h"

/* The local copy ROOT/PATH of a file, mapped. Dies when its size is not the share's. */
const uint8_t *verify_map(const char *root, const struct target *file);
/* Reads the file whole, at odd places, over and past its end, and compares; compares every entry of
 * the directory, by READDIRPLUS and by LOOKUP, with lstat. Prints a JSON line; returns what was bad. */
uint64_t verify(const struct share *share, const char *root, const struct target *file, const uint8_t *local);
#endif
