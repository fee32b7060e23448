/* Operations on open files: a slot's number names one. See posix.h. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <unistd.h>

#include "posix.h"

#define DIRECT_ALIGNMENT 4096

static int64_t op_open(struct run *run, char **w)
{
    struct slot *slot = slot_of(run, w[1]);

    if (slot->fd >= 0)
        close(slot->fd);
    slot->fd = open(w[2], flags(w[3]) | O_CLOEXEC, w[4] ? mode_of(w[4]) : 0644);
    return slot->fd < 0 ? -errno : 0;
}

static int64_t op_close(struct run *run, char **w)
{
    struct slot *slot = slot_of(run, w[1]);
    int fd = slot->fd;

    slot->fd = -1;
    return result(close(fd));
}

/* Text as it is, if it can be shown; zeros as "N*0"; others as their first byte and length. */
static void describe_bytes(struct run *run, const uint8_t *bytes, size_t size)
{
    size_t printable = 0, zeros = 0;

    while (printable < size && bytes[printable] > ' ' && bytes[printable] < 127)
        printable++;
    while (zeros < size && !bytes[zeros])
        zeros++;
    if (!size) {
        detail(run, "nothing");
    } else if (printable == size && size < 100) {
        detail(run, "%.*s", (int)size, bytes);
    } else if (zeros == size) {
        detail(run, "%zu*0", size);
    } else {
        uint64_t hash = 14695981039346656037u; /* FNV-1a */
        for (size_t i = 0; i < size; i++)
            hash = (hash ^ bytes[i]) * 1099511628211u;
        detail(run, "%zu#%016llx", size, (unsigned long long)hash);
    }
}

/* Memory that O_DIRECT takes. */
static uint8_t *aligned(size_t size)
{
    void *memory;

    if (posix_memalign(&memory, DIRECT_ALIGNMENT, size + DIRECT_ALIGNMENT))
        die("no memory");
    return memory;
}

static int64_t op_pread(struct run *run, char **w)
{
    size_t size = (size_t)number(w[3]);
    uint8_t *bytes = aligned(size);
    ssize_t got = pread(fd_of(run, w[1]), bytes, size, number(w[2]));

    if (got >= 0)
        describe_bytes(run, bytes, (size_t)got);
    int64_t answer = result(got);
    free(bytes);
    return answer;
}

static int64_t op_read(struct run *run, char **w)
{
    size_t size = (size_t)number(w[2]);
    uint8_t *bytes = aligned(size);
    ssize_t got = read(fd_of(run, w[1]), bytes, size);

    if (got >= 0)
        describe_bytes(run, bytes, (size_t)got);
    int64_t answer = result(got);
    free(bytes);
    return answer;
}

/* pwrite SLOT OFFSET TEXT, or pwrite SLOT OFFSET x SIZE: so many of that letter */
static int64_t op_pwrite(struct run *run, char **w)
{
    size_t size = w[4] ? (size_t)number(w[4]) : strlen(w[3]);
    uint8_t *bytes = aligned(size);

    if (w[4])
        memset(bytes, *w[3], size);
    else
        memcpy(bytes, w[3], size);
    int64_t answer = result(pwrite(fd_of(run, w[1]), bytes, size, number(w[2])));
    free(bytes);
    return answer;
}

static int64_t op_write(struct run *run, char **w) { return result(write(fd_of(run, w[1]), w[2], strlen(w[2]))); }

static int64_t op_lseek(struct run *run, char **w) { return result(lseek(fd_of(run, w[1]), number(w[2]), flags(w[3]))); }
static int64_t op_fsync(struct run *run, char **w) { return result(fsync(fd_of(run, w[1]))); }
static int64_t op_fdatasync(struct run *run, char **w) { return result(fdatasync(fd_of(run, w[1]))); }

static int64_t op_getfl(struct run *run, char **w)
{
    int value = fcntl(fd_of(run, w[1]), F_GETFL);

    return value < 0 ? -errno : value & (O_ACCMODE | O_APPEND | O_DIRECT);
}

static int64_t op_setfl(struct run *run, char **w) { return result(fcntl(fd_of(run, w[1]), F_SETFL, flags(w[2]))); }

/* The name that an open file may be linked by. */
static int64_t op_linkfd(struct run *run, char **w)
{
    char path[64];

    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd_of(run, w[1]));
    return result(linkat(AT_FDCWD, path, AT_FDCWD, w[2], AT_SYMLINK_FOLLOW));
}

/* map SLOT SIZE [private] */
static int64_t op_map(struct run *run, char **w)
{
    struct slot *slot = slot_of(run, w[1]);
    int access = fcntl(slot->fd, F_GETFL) & O_ACCMODE;
    void *map;

    slot->map_size = (size_t)number(w[2]);
    map = mmap(NULL, slot->map_size, access == O_RDWR || w[3] ? PROT_READ | PROT_WRITE : PROT_READ, w[3] ? MAP_PRIVATE : MAP_SHARED, slot->fd, 0);
    if (map == MAP_FAILED)
        return -errno;
    slot->map = map;
    return 0;
}

static struct slot *mapped(struct run *run, const char *word, int64_t offset, size_t size)
{
    struct slot *slot = slot_of(run, word);

    if (!slot->map || offset < 0 || (size_t)offset + size > slot->map_size)
        die("slot %s is not mapped so far", word);
    return slot;
}

static int64_t op_poke(struct run *run, char **w)
{
    struct slot *slot = mapped(run, w[1], number(w[2]), strlen(w[3]));

    memcpy(slot->map + number(w[2]), w[3], strlen(w[3]));
    return 0;
}

static int64_t op_peek(struct run *run, char **w)
{
    struct slot *slot = mapped(run, w[1], number(w[2]), (size_t)number(w[3]));

    describe_bytes(run, slot->map + number(w[2]), (size_t)number(w[3]));
    return 0;
}

static int64_t op_msync(struct run *run, char **w)
{
    struct slot *slot = mapped(run, w[1], 0, 0);

    return result(msync(slot->map, slot->map_size, MS_SYNC));
}

static int64_t op_unmap(struct run *run, char **w)
{
    struct slot *slot = mapped(run, w[1], 0, 0);
    uint8_t *map = slot->map;

    slot->map = NULL;
    return result(munmap(map, slot->map_size));
}

static int64_t op_flock(struct run *run, char **w) { return result(flock(fd_of(run, w[1]), flags(w[2]))); }

/* setlk SLOT TYPE START SIZE [ofd] */
static int64_t op_setlk(struct run *run, char **w)
{
    struct flock lock = { .l_type = (short)flags(w[2]), .l_whence = SEEK_SET, .l_start = number(w[3]), .l_len = number(w[4]) };

    return result(fcntl(fd_of(run, w[1]), w[5] ? F_OFD_SETLK : F_SETLK, &lock));
}

static int64_t op_getlk(struct run *run, char **w)
{
    struct flock lock = { .l_type = (short)flags(w[2]), .l_whence = SEEK_SET, .l_start = number(w[3]), .l_len = number(w[4]) };

    if (fcntl(fd_of(run, w[1]), F_GETLK, &lock))
        return -errno;
    detail(run, "%s", lock.l_type == F_UNLCK ? "free" : lock.l_type == F_RDLCK ? "read" : "write");
    if (lock.l_type != F_UNLCK)
        detail(run, ":%lld:%lld", (long long)lock.l_start, (long long)lock.l_len);
    return 0;
}

const struct op file_ops[] = {
    { "open", 3, 4, op_open },     { "close", 1, 1, op_close },   { "pread", 3, 3, op_pread },   { "read", 2, 2, op_read },
    { "pwrite", 3, 4, op_pwrite }, { "write", 2, 2, op_write },   { "lseek", 3, 3, op_lseek },   { "fsync", 1, 1, op_fsync },
    { "fdatasync", 1, 1, op_fdatasync }, { "getfl", 1, 1, op_getfl }, { "setfl", 2, 2, op_setfl }, { "linkfd", 2, 2, op_linkfd },
    { "map", 2, 3, op_map },       { "poke", 3, 3, op_poke },     { "peek", 3, 3, op_peek },     { "msync", 1, 1, op_msync },
    { "unmap", 1, 1, op_unmap },   { "flock", 2, 2, op_flock },   { "setlk", 4, 5, op_setlk },   { "getlk", 4, 4, op_getlk },
    { 0 },
};
