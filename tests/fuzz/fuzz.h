/* What a fuzz target has: libFuzzer's entry point, and seeds for both drivers (libFuzzer and rounds.c). */
#ifndef VHOSTFS_TESTS_FUZZ_H
#define VHOSTFS_TESTS_FUZZ_H
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define FUZZ_MAX_INPUT 4096

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
/* Writes seed `index`, at most FUZZ_MAX_INPUT bytes, and returns its size; 0: there are no more. */
size_t fuzz_seed(unsigned index, uint8_t *to);

/* Takes numbers from the input; zeros when it is used up. */
struct fuzz_input {
    const uint8_t *data;
    size_t left;
};

static inline uint64_t fuzz_take(struct fuzz_input *input, size_t size)
{
    uint64_t value = 0;
    size_t here = size < input->left ? size : input->left;

    memcpy(&value, input->data, here);
    input->data += here;
    input->left -= here;
    return value;
}
#endif
