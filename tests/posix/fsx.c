/*
 * fsx FOLDER SEED OPERATIONS [FILES]: random operations on FILES files (4) against copies of them in memory.
 *
 * Reads, writes, mappings, truncation, fallocate in its modes, copies within and between files, renames and links,
 * closing and opening with other flags, fsync, dropping the kernel's caches. After each operation what was read is
 * compared with the copy; every file as a whole from time to time and at the end. A difference ends the program
 * with status 1 after the last operations were printed: the same seed does the same again.
 */
#include "fsx.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HISTORY 40

static struct file files[MAX_FILES];
static unsigned file_count = 4;
static uint64_t state;
static char history[HISTORY][128];
static uint64_t step;

uint64_t random_below(uint64_t limit)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return limit ? state % limit : 0;
}

void note(const char *format, ...)
{
    va_list arguments;
    char *line = history[step % HISTORY];
    int at = snprintf(line, sizeof(*history), "%" PRIu64 ": ", step);

    va_start(arguments, format);
    vsnprintf(line + at, sizeof(*history) - (size_t)at, format, arguments);
    va_end(arguments);
}

void fail(const char *format, ...)
{
    va_list arguments;

    for (uint64_t i = step < HISTORY ? 0 : step - HISTORY + 1; i <= step; i++)
        printf("%s\n", history[i % HISTORY]);
    printf("fsx: ");
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    printf("\n");
    fflush(stdout);
    _exit(1);
}

static const struct {
    const char *name;
    unsigned weight;
    void (*perform)(struct file *file, struct file *other);
} operations[] = {
    { "read", 20, fsx_read },         { "write", 25, fsx_write },         { "mapread", 8, fsx_mapread },   { "mapwrite", 10, fsx_mapwrite },
    { "truncate", 8, fsx_truncate },  { "extend", 4, fsx_extend },        { "fallocate", 4, fsx_fallocate }, { "punch", 5, fsx_punch },
    { "zero", 4, fsx_zero },          { "copy", 6, fsx_copy },            { "append", 4, fsx_append },     { "direct", 4, fsx_direct },
    { "fsync", 2, fsx_fsync },        { "reopen", 4, fsx_reopen },        { "rename", 2, fsx_rename },     { "holes", 2, fsx_holes },
    { "whole", 1, fsx_whole },        { "size", 4, fsx_size },
};
#define OPERATIONS (sizeof(operations) / sizeof(*operations))

static void choose_and_perform(void)
{
    unsigned sum = 0, at = 0;
    uint64_t choice;

    for (unsigned i = 0; i < OPERATIONS; i++)
        sum += operations[i].weight;
    choice = random_below(sum);
    while (choice >= operations[at].weight)
        choice -= operations[at++].weight;
    note("%s", operations[at].name);
    operations[at].perform(&files[random_below(file_count)], &files[random_below(file_count)]);
}

int main(int argc, char **argv)
{
    uint64_t count;

    if (argc < 4 || argc > 5 || chdir(argv[1]))
        return 2;
    state = strtoull(argv[2], NULL, 0) * 2 + 1;
    count = strtoull(argv[3], NULL, 0);
    if (argc > 4)
        file_count = (unsigned)atoi(argv[4]);
    if (!file_count || file_count > MAX_FILES)
        return 2;
    random_below(1);
    for (unsigned i = 0; i < file_count; i++)
        fsx_create(&files[i], i);
    for (step = 0; step < count; step++) {
        choose_and_perform();
        if (step % DROP_EVERY == DROP_EVERY - 1)
            fsx_drop_caches();
    }
    note("the end");
    for (unsigned i = 0; i < file_count; i++)
        fsx_whole(&files[i], NULL);
    printf("fsx: %" PRIu64 " operations, sizes", count);
    for (unsigned i = 0; i < file_count; i++)
        printf(" %zu", files[i].size);
    printf("\n");
    return 0;
}
