/* Files, each with its copy in memory, and what is done to both. See fsx.c. */
#ifndef TESTS_FSX_H
#define TESTS_FSX_H
#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#define MAX_FILES 16
#define MAX_SIZE (1024u << 10)
#define MAX_OPERATION (160u << 10) /* more than one page list of a small request, less than a large one */
#define DROP_EVERY 5000

struct file {
    char name[32];
    unsigned number, renames;
    int fd;
    uint8_t copy[MAX_SIZE];
    size_t size;
};

uint64_t random_below(uint64_t limit);
/* What the step does, for who reads of a failure. */
void note(const char *format, ...) __attribute__((format(printf, 1, 2)));
_Noreturn void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

void fsx_create(struct file *file, unsigned number);
void fsx_drop_caches(void);

/* One operation each, at random places; `other` is for those that need two. */
void fsx_read(struct file *file, struct file *other);
void fsx_write(struct file *file, struct file *other);
void fsx_append(struct file *file, struct file *other);
void fsx_direct(struct file *file, struct file *other);
void fsx_mapread(struct file *file, struct file *other);
void fsx_mapwrite(struct file *file, struct file *other);
void fsx_truncate(struct file *file, struct file *other);
void fsx_extend(struct file *file, struct file *other);
void fsx_fallocate(struct file *file, struct file *other);
void fsx_punch(struct file *file, struct file *other);
void fsx_zero(struct file *file, struct file *other);
void fsx_copy(struct file *file, struct file *other);
void fsx_fsync(struct file *file, struct file *other);
void fsx_reopen(struct file *file, struct file *other);
void fsx_rename(struct file *file, struct file *other);
void fsx_holes(struct file *file, struct file *other);
void fsx_whole(struct file *file, struct file *other);
void fsx_size(struct file *file, struct file *other);
#endif
