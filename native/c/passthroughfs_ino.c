/* The numbers that users of a guest see. See passthroughfs_ino.h. */
#include "passthroughfs_ino.h"

#include <errno.h>
#include <stdlib.h>

#define LOW_MASK ((1ull << INO_LOW_BITS) - 1)

int ino_map_init(struct ino_map *map)
{
    *map = (struct ino_map){ .slots = calloc(INO_SLOTS, sizeof(*map->slots)) };
    if (!map->slots)
        return -ENOMEM;
    pthread_mutex_init(&map->lock, NULL);
    return 0;
}

void ino_map_destroy(struct ino_map *map)
{
    free(map->slots);
    pthread_mutex_destroy(&map->lock);
}

/* A 64-bit finaliser: every bit of the result depends on every bit of `x`. */
static uint64_t scramble(uint64_t x)
{
    x = (x ^ x >> 33) * 0xFF51AFD7ED558CCDull;
    x = (x ^ x >> 33) * 0xC4CEB9FE1A85EC53ull;
    return x ^ x >> 33;
}

/* The slot of the pair, or the free one where it belongs. At most half of the slots are ever used. */
static struct ino_slot *find(const struct ino_map *map, uint64_t dev, uint64_t high, uint32_t *group_plus_1)
{
    struct ino_slot *slot;

    for (uint64_t at = scramble(dev) ^ high;; at++) {
        slot = &map->slots[at % INO_SLOTS];
        /* acquire: the pair was written before its group was */
        *group_plus_1 = __atomic_load_n(&slot->group_plus_1, __ATOMIC_ACQUIRE);
        if (!*group_plus_1 || (slot->dev == dev && slot->high == high))
            return slot;
    }
}

static uint32_t add(struct ino_map *map, uint64_t dev, uint64_t high)
{
    uint32_t group_plus_1;
    struct ino_slot *slot;

    pthread_mutex_lock(&map->lock);
    slot = find(map, dev, high, &group_plus_1);
    if (!group_plus_1 && map->groups < INO_GROUPS) {
        slot->dev = dev;
        slot->high = high;
        group_plus_1 = ++map->groups;
        __atomic_store_n(&slot->group_plus_1, group_plus_1, __ATOMIC_RELEASE); /* see find */
    }
    pthread_mutex_unlock(&map->lock);
    return group_plus_1;
}

uint64_t ino_map_number(struct ino_map *map, uint64_t dev, uint64_t ino)
{
    uint64_t high = ino >> INO_LOW_BITS;
    uint32_t group_plus_1;

    find(map, dev, high, &group_plus_1);
    if (!group_plus_1)
        group_plus_1 = add(map, dev, high);
    if (!group_plus_1) /* all are taken */
        return (uint64_t)INO_GROUPS << INO_LOW_BITS | (scramble(ino ^ scramble(dev)) & LOW_MASK);
    return (uint64_t)(group_plus_1 - 1) << INO_LOW_BITS | (ino & LOW_MASK);
}
