/* See map_file.h. */
#include "map_file.h"

#include <errno.h>
#include <sys/stat.h>

#include "rafs_format.h"

#define MAX_LOCKED (16u << 20)

int map_file(int fd, int protection, size_t *length, uint8_t **out)
{
    struct stat st;
    void *map;

    if (fstat(fd, &st) < 0)
        return -errno;
    if (st.st_size < RAFS_BLOCK_SIZE)
        return -EINVAL;
    *length = (size_t)st.st_size;
    map = mmap(NULL, *length, protection, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED)
        return -errno;
    /* Queue threads look at these pages at every read: they must not wait for a disk to get them
     * back. Best effort, and only while it is cheap: 16 MiB are the records of a million chunks. */
    if (*length <= MAX_LOCKED)
        (void)!mlock(map, *length);
    *out = map;
    return 0;
}
