/*
 * Inode numbers as a guest sees them: unique over all mounts, images and devices of the host.
 *
 * A guest sees one device, so overlayfs and tar in it take equal numbers for one file. A number is
 * the mount's index in 16 bits (as in all node ids), 12 bits for the host's device and the upper
 * part of its own number, and the lower 36 bits of that. Each pair of device and upper part that is
 * met gets the next of 4,095 values, for the life of the mount; a device with numbers below 2^36
 * uses one. What comes after gets 36 bits of a hash: then two files may look alike, and LOOKUP and
 * READDIR still agree about each.
 */
#ifndef VHOSTFS_PASSTHROUGHFS_INO_H
#define VHOSTFS_PASSTHROUGHFS_INO_H
#include <pthread.h>
#include <stdint.h>

#define INO_LOW_BITS 36
#define INO_GROUPS 4095 /* 0 to 4094; 4095 is that of the hashed */
#define INO_SLOTS 8192

struct ino_slot {
    uint64_t dev, high;
    uint32_t group_plus_1; /* atomic; 0: free */
};

struct ino_map {
    pthread_mutex_t lock; /* to add */
    uint32_t groups;
    struct ino_slot *slots; /* INO_SLOTS */
};

int ino_map_init(struct ino_map *map);
void ino_map_destroy(struct ino_map *map);
/* 48 bits for the host's inode `ino` on device `dev`. */
uint64_t ino_map_number(struct ino_map *map, uint64_t dev, uint64_t ino);
#endif
