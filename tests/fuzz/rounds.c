/*
 * Drives a fuzz target without libFuzzer: its seeds, and mutations of them that are the same each time.
 *
 *   fuzz_x [ROUNDS]        run (default: what `make test-c` affords)
 *   fuzz_x --seeds FOLDER  write the seeds as files, for libFuzzer to begin with
 *   fuzz_x --file FILE     run one input, such as a crash that libFuzzer left
 */
#include <stdio.h>
#include <stdlib.h>

#include "fuzz.h"

enum { DEFAULT_ROUNDS = 10000 };

static uint64_t state = 1;

static uint32_t next_random(uint32_t below)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33) % below;
}

static size_t mutate(uint8_t *data, size_t size)
{
    static const uint8_t borders[] = { 0, 1, 0x7F, 0x80, 0xFE, 0xFF };

    for (uint32_t hits = 1 + next_random(8); hits; hits--) {
        uint32_t at = size ? next_random((uint32_t)size) : 0;
        switch (next_random(6)) {
        case 0:
        case 1:
            if (size)
                data[at] = (uint8_t)next_random(256);
            break;
        case 2:
            if (size)
                data[at] = borders[next_random(sizeof(borders))];
            break;
        case 3:
            if (size)
                data[at] ^= (uint8_t)(1 << next_random(8));
            break;
        case 4: /* longer */
            for (uint32_t more = 1 + next_random(24); more && size < FUZZ_MAX_INPUT; more--)
                data[size++] = (uint8_t)next_random(256);
            break;
        default: /* a piece of it elsewhere, or shorter */
            if (next_random(4) == 0)
                size = at;
            else if (size)
                memmove(data + next_random((uint32_t)size - at + 1), data, at);
        }
    }
    return size;
}

static int write_seeds(const char *folder)
{
    static uint8_t data[FUZZ_MAX_INPUT];
    size_t size;

    for (unsigned i = 0; (size = fuzz_seed(i, data)); i++) {
        char path[4096];
        FILE *file;
        snprintf(path, sizeof(path), "%s/seed-%u", folder, i);
        file = fopen(path, "wb");
        if (!file || fwrite(data, 1, size, file) != size || fclose(file)) {
            perror(path);
            return 1;
        }
    }
    return 0;
}

static int run_file(const char *path)
{
    static uint8_t data[1 << 20];
    FILE *file = fopen(path, "rb");

    if (!file) {
        perror(path);
        return 1;
    }
    size_t size = fread(data, 1, sizeof(data), file);
    fclose(file);
    return LLVMFuzzerTestOneInput(data, size);
}

int main(int argc, char **argv)
{
    static uint8_t data[FUZZ_MAX_INPUT];
    unsigned seeds = 0, rounds = argc == 2 ? (unsigned)atoi(argv[1]) : DEFAULT_ROUNDS;

    if (argc == 3)
        return !strcmp(argv[1], "--seeds") ? write_seeds(argv[2]) : run_file(argv[2]);
    for (size_t size; (size = fuzz_seed(seeds, data)); seeds++)
        LLVMFuzzerTestOneInput(data, size);
    for (unsigned round = 0; round < rounds; round++) {
        size_t size = mutate(data, fuzz_seed(round % seeds, data));
        uint8_t *guarded = malloc(size ? size : 1); /* so that ASan sees reads past it */
        memcpy(guarded, data, size);
        LLVMFuzzerTestOneInput(guarded, size);
        free(guarded);
    }
    return 0;
}
