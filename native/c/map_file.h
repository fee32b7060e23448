/* Mapping the files beside a blob's data: chunk maps, metadata, bitmaps. */
#ifndef VHOSTFS_MAP_FILE_H
#define VHOSTFS_MAP_FILE_H
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>

/* Maps a whole file of one block or more, shared. -EINVAL: it is shorter. */
int map_file(int fd, int protection, size_t *length, uint8_t **out);
#endif
