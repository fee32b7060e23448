/*
 * Guest memory: the regions of the front-end's memory table, mapped into this process.
 *
 * Three kinds of address meet here and only here: gpa (guest physical, in descriptors), user_addr
 * (the front-end's virtual, in SET_VRING_ADDR) and hva (a pointer of ours). The table changes only
 * while every queue thread is paused, so look-ups take no lock.
 */
#ifndef VHOSTFS_GPA_H
#define VHOSTFS_GPA_H
#include <stddef.h>
#include <stdint.h>

#define GPA_MAX_REGIONS 509 /* what Linux's vhost and the peers offer as memory slots */

struct gpa_region {
    uint64_t gpa;
    uint64_t size;
    uint64_t user_addr;
    uint8_t *hva;      /* of the first byte of the region */
    void *map_base;    /* what mmap returned */
    size_t map_length; /* what munmap takes */
};

struct gpa_table {
    unsigned count;
    struct gpa_region regions[GPA_MAX_REGIONS]; /* sorted by gpa, disjoint */
};

/* Maps `size` bytes of `fd` from `mmap_offset` as a region; the caller keeps the fd.
 * -EINVAL: empty, wrapping or overlapping region, or a file shorter than it; -ENOSPC: table full. */
int gpa_add_region(struct gpa_table *table, uint64_t gpa, uint64_t size, uint64_t user_addr,
                   uint64_t mmap_offset, int fd);
/* Unmaps the region that has exactly these three values. -ENOENT: there is none. */
int gpa_remove_region(struct gpa_table *table, uint64_t gpa, uint64_t size, uint64_t user_addr);
void gpa_clear(struct gpa_table *table);

/* Pointer to the byte at `gpa`, and in *available how many bytes follow it in its region.
 * NULL: not guest memory. *hint is the caller's own memory of where the last one was. */
uint8_t *gpa_to_hva(const struct gpa_table *table, uint64_t gpa, uint64_t *available, unsigned *hint);
/* Pointer to `length` bytes at a front-end user address, all in one region; NULL if they are not. */
void *gpa_user_to_hva(const struct gpa_table *table, uint64_t user_addr, uint64_t length);
#endif
