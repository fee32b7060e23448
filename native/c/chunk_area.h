/*
 * Where chunks of a blob lie: a data file, and a chunk map whose READY bits say which are there.
 *
 * A blob has one area on the disk (specification 6.1, 6.3) and may have one in memory, for what the
 * disk had no room for. Both files are shared: readers may be other processes, with the map mapped
 * read-only. One process at a time evicts.
 *
 * How eviction never hands zeros to a reader. Evicting is, in this order:
 *
 *   E1  the READY bits of the victims are cleared
 *   E2  the map's eviction generation goes up by one
 *   E3  full fence
 *   E4  holes are punched; only after that may anyone write the chunks again and set their bits
 *
 * and reading
 *
 *   R1  the generation is loaded (acquire)
 *   R2  the READY bit is loaded (acquire)
 *   R3  the bytes are read
 *   R4  acquire fence
 *   R5  the generation is loaded again: if it is not the one of R1, the bytes mean nothing
 *
 * Say that R3 saw something of E4, or of a write after it. If R1 saw E2, or a later value, then R2 comes after
 * E1 (E2 is a release, R1 an acquire) and saw the bit cleared, so nothing was read; or saw it set again,
 * which is after E4 and the write of the right bytes (R2 acquires what that release published), so what
 * R3 saw is not this E4 but a later one, for which the same is asked again. If R1 did not see E2: what R3
 * saw was stored after the fence E3, and R3 is before the fence R4, so R5 sees E2 or later, and differs
 * from R1. Either way zeros are never believed. The generation is only ever raised and has 64 bits.
 *
 * No value of it means "being evicted": who dies in the middle leaves nothing that a reader waits
 * for. Bits cleared and holes not punched is space lost until the next fill, no more.
 */
#ifndef VHOSTFS_CHUNK_AREA_H
#define VHOSTFS_CHUNK_AREA_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct chunk_area {
    int data_fd;             /* -1: there is no such area */
    bool reads_never_block;  /* it is in memory */
    bool nowait_unsupported; /* atomic: the file system cannot say whether a read would block */
    bool all_ready;          /* atomic: the map said so when it was opened (nydusd wrote it). Other processes know it
                              * for ever, so the map of an area that is evicted from does not say so */
    uint8_t *map;            /* the chunk map file */
    size_t map_length;
};

struct chunk_run {
    uint32_t first, count;
};

struct byte_range {
    uint64_t offset, length;
};

/* Duplicates data_fd and maps the map, for reading only if it is open so. -EINVAL: its size does not fit chunk_count. On failure the
 * area is to be closed all the same. */
int chunk_area_open(struct chunk_area *area, int data_fd, int map_fd, uint32_t chunk_count);
void chunk_area_close(struct chunk_area *area);

bool chunk_area_is_ready(const struct chunk_area *area, uint32_t index);
/* The chunk's bytes are in the data file. */
void chunk_area_set_ready(struct chunk_area *area, uint32_t index);
/* Evicts `runs` and punches `holes` into the data file. The caller knows that nobody fills these
 * chunks, nor any other chunk that lies in a hole. 0, or the errno of the first hole that could not
 * be punched: the chunks are gone all the same. */
int chunk_area_evict(struct chunk_area *area, const struct chunk_run *runs, uint32_t run_count, const struct byte_range *holes,
                     uint32_t hole_count);

/* R1, and R4 with R5. */
uint64_t chunk_area_generation(const struct chunk_area *area);
bool chunk_area_is_at(const struct chunk_area *area, uint64_t generation);
#endif
