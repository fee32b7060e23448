/* Opening an image, between rafs_image.c and the files of the two versions; nobody else includes this. */
#ifndef VHOSTFS_RAFS_PARSE_H
#define VHOSTFS_RAFS_PARSE_H
#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct rafs_image;

struct reason {
    char *text;
    size_t size;
};

/* Writes the sentence, and returns `err`. */
__attribute__((format(printf, 3, 4))) static inline int refuse(struct reason why, int err, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(why.text, why.size, format, args);
    va_end(args);
    return err;
}

static inline bool one_bit(uint64_t value) { return value && !(value & (value - 1)); }

/* What both versions ask of the flags, of the chunk size, and of an entry of the blob table. They set it
 * in the image. */
int rafs_check_flags(struct rafs_image *image, uint64_t flags, struct reason why);
int rafs_check_chunk_size(struct rafs_image *image, uint32_t chunk_size, struct reason why);
int rafs_check_blob(const struct rafs_image *image, unsigned index, struct reason why);
/* The super block of either version; `image` has base and size. */
int rafs5_parse(struct rafs_image *image, struct reason why);
int rafs6_parse(struct rafs_image *image, struct reason why);

extern const struct rafs_reader rafs5_reader, rafs6_reader;
#endif
