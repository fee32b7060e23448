/* Data files and chunk maps. See chunk_area.h. */
#include "chunk_area.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/magic.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "barrier.h"
#include "map_file.h"
#include "rafs_format.h"

/* The header is declared packed; its generation is aligned all the same. */
_Static_assert(offsetof(struct rafs_chunk_map_header, eviction_generation) % sizeof(uint64_t) == 0, "atomic");
static uint64_t *generation_of(const struct chunk_area *area)
{
    return (uint64_t *)(area->map + offsetof(struct rafs_chunk_map_header, eviction_generation));
}

static uint8_t *byte_of(const struct chunk_area *area, uint32_t index) { return &area->map[RAFS_CHUNK_MAP_HEADER_SIZE + index / 8]; }

int chunk_area_open(struct chunk_area *area, int data_fd, int map_fd, uint32_t chunk_count)
{
    struct statfs fs;
    int flags = fcntl(map_fd, F_GETFL), err;

    *area = (struct chunk_area){ .data_fd = -1 };
    err = map_file(map_fd, flags >= 0 && (flags & O_ACCMODE) == O_RDONLY ? PROT_READ : PROT_READ | PROT_WRITE, &area->map_length,
                   &area->map);
    if (err)
        return err;
    if (area->map_length != RAFS_CHUNK_MAP_HEADER_SIZE + (chunk_count + 7) / 8)
        return -EINVAL;
    area->all_ready = ((const struct rafs_chunk_map_header *)area->map)->all_ready == RAFS_CHUNK_MAP_ALL_READY;
    area->data_fd = fcntl(data_fd, F_DUPFD_CLOEXEC, 0);
    if (area->data_fd < 0)
        return -errno;
    if (fstatfs(data_fd, &fs) == 0)
        area->reads_never_block = fs.f_type == TMPFS_MAGIC || fs.f_type == RAMFS_MAGIC;
    return 0;
}

void chunk_area_close(struct chunk_area *area)
{
    if (area->map)
        munmap(area->map, area->map_length);
    if (area->data_fd >= 0)
        close(area->data_fd);
}

bool chunk_area_is_ready(const struct chunk_area *area, uint32_t index)
{
    /* acquire (R2): the data written before the bit was set is seen by the read that follows */
    return __atomic_load_n(&area->all_ready, __ATOMIC_RELAXED) || (__atomic_load_n(byte_of(area, index), __ATOMIC_ACQUIRE) & rafs_chunk_bit(index));
}

void chunk_area_set_ready(struct chunk_area *area, uint32_t index)
{
    /* release: the data before the bit, for readers here and in other processes */
    __atomic_fetch_or(byte_of(area, index), rafs_chunk_bit(index), __ATOMIC_RELEASE);
}

int chunk_area_evict(struct chunk_area *area, const struct chunk_run *runs, uint32_t run_count, const struct byte_range *holes,
                     uint32_t hole_count)
{
    int err = 0;

    __atomic_store_n(&area->all_ready, false, __ATOMIC_RELAXED); /* a part of E1 */
    for (uint32_t i = 0; i < run_count; i++)
        for (uint32_t index = runs[i].first; index < runs[i].first + runs[i].count; index++)
            __atomic_fetch_and(byte_of(area, index), (uint8_t)~rafs_chunk_bit(index), __ATOMIC_RELAXED); /* E1 */
    __atomic_fetch_add(generation_of(area), 1, __ATOMIC_RELEASE); /* E2: after E1 */
    full_fence();                                                                   /* E3 */
    for (uint32_t i = 0; i < hole_count; i++) {                                     /* E4 */
        int result;
        do
            result = fallocate(area->data_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)holes[i].offset, (off_t)holes[i].length);
        while (result < 0 && errno == EINTR);
        if (result < 0 && !err)
            err = -errno;
    }
    return err;
}

uint64_t chunk_area_generation(const struct chunk_area *area)
{
    return __atomic_load_n(generation_of(area), __ATOMIC_ACQUIRE); /* R1: before R2 */
}

bool chunk_area_is_at(const struct chunk_area *area, uint64_t generation)
{
    __atomic_thread_fence(__ATOMIC_ACQUIRE); /* R4: pairs with E3; the bytes were read before what follows */
    return __atomic_load_n(generation_of(area), __ATOMIC_RELAXED) == generation; /* R5 */
}
