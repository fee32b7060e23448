/* The operations of fsx: each on the file and on its copy. See fsx.h. */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "fsx.h"

#define PAGE 4096u

/* A range that `file` may grow to. */
static void choose_range(size_t limit, size_t *offset, size_t *size)
{
    *offset = random_below(limit);
    *size = 1 + random_below(random_below(4) ? 3 * PAGE : MAX_OPERATION);
    if (!random_below(3)) { /* often at the borders of pages */
        *offset = *offset / PAGE * PAGE;
        *size = (*size + PAGE - 1) / PAGE * PAGE;
    }
    if (*offset + *size > limit)
        *size = limit - *offset;
}

static void compare(const struct file *file, const uint8_t *bytes, size_t offset, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (bytes[i] != file->copy[offset + i])
            fail("%s: byte %zu is %#x, not %#x", file->name, offset + i, bytes[i], file->copy[offset + i]);
}

static void grow(struct file *file, size_t end)
{
    if (end > file->size)
        file->size = end; /* what is behind the end of the copy is zero at all times */
}

static void fill(uint8_t *bytes, size_t size)
{
    uint8_t start = (uint8_t)random_below(255) + 1;

    for (size_t i = 0; i < size; i++)
        bytes[i] = (uint8_t)(start + i + (i >> 8)) ? (uint8_t)(start + i + (i >> 8)) : 1;
}

static uint8_t *buffer(void)
{
    static uint8_t *memory;

    if (!memory && posix_memalign((void **)&memory, PAGE, MAX_SIZE))
        fail("no memory");
    return memory;
}

void fsx_create(struct file *file, unsigned number)
{
    file->number = number;
    snprintf(file->name, sizeof(file->name), "file-%u", number);
    file->fd = open(file->name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (file->fd < 0)
        fail("%s: %s", file->name, strerror(errno));
}

void fsx_drop_caches(void)
{
    int fd = open("/proc/sys/vm/drop_caches", O_WRONLY | O_CLOEXEC);

    if (fd >= 0) {
        if (write(fd, "3", 1) != 1)
            fail("drop_caches: %s", strerror(errno));
        close(fd);
    }
}

static void check_read(struct file *file, int fd, size_t offset, size_t size)
{
    size_t wanted = offset >= file->size ? 0 : size < file->size - offset ? size : file->size - offset;
    ssize_t got = pread(fd, buffer(), size, (off_t)offset);

    if (got != (ssize_t)wanted)
        fail("%s: reading %zu at %zu of %zu: %zd (%s)", file->name, size, offset, file->size, got, got < 0 ? strerror(errno) : "short");
    compare(file, buffer(), offset, wanted);
}

void fsx_read(struct file *file, struct file *other)
{
    size_t offset, size;

    choose_range(MAX_SIZE, &offset, &size);
    if (random_below(4))
        offset = random_below(file->size + 1);
    note("read %s %zu at %zu", file->name, size, offset);
    check_read(file, file->fd, offset, size);
}

void fsx_whole(struct file *file, struct file *other)
{
    note("whole %s", file->name);
    check_read(file, file->fd, 0, MAX_SIZE);
    fsx_size(file, other);
}

static void write_range(struct file *file, int fd, size_t offset, size_t size)
{
    fill(buffer(), size);
    ssize_t got = pwrite(fd, buffer(), size, (off_t)offset);
    if (got != (ssize_t)size)
        fail("%s: writing %zu at %zu: %zd (%s)", file->name, size, offset, got, got < 0 ? strerror(errno) : "short");
    memcpy(file->copy + offset, buffer(), size);
    grow(file, offset + size);
}

void fsx_write(struct file *file, struct file *other)
{
    size_t offset, size;

    choose_range(MAX_SIZE, &offset, &size);
    if (random_below(4))
        offset = random_below(file->size + 1);
    if (offset + size > MAX_SIZE)
        size = MAX_SIZE - offset;
    note("write %s %zu at %zu", file->name, size, offset);
    if (size)
        write_range(file, file->fd, offset, size);
}

void fsx_append(struct file *file, struct file *other)
{
    size_t size = 1 + random_below(PAGE);
    int fd = open(file->name, O_WRONLY | O_APPEND | O_CLOEXEC);

    note("append %s %zu at %zu", file->name, size, file->size);
    if (fd < 0)
        fail("%s: %s", file->name, strerror(errno));
    if (file->size + size <= MAX_SIZE) {
        fill(buffer(), size);
        if (write(fd, buffer(), size) != (ssize_t)size)
            fail("%s: appending %zu: %s", file->name, size, strerror(errno));
        memcpy(file->copy + file->size, buffer(), size);
        file->size += size;
    }
    close(fd);
}

/* Reads or writes past the cache, in whole pages. */
void fsx_direct(struct file *file, struct file *other)
{
    size_t offset, size;
    int fd = open(file->name, O_RDWR | O_DIRECT | O_CLOEXEC);

    choose_range(MAX_SIZE - PAGE, &offset, &size);
    offset = offset / PAGE * PAGE;
    size = (size + PAGE - 1) / PAGE * PAGE;
    if (offset + size > MAX_SIZE)
        size = MAX_SIZE - offset;
    if (fd < 0)
        fail("%s: O_DIRECT: %s", file->name, strerror(errno));
    if (random_below(2)) {
        note("direct read %s %zu at %zu", file->name, size, offset);
        check_read(file, fd, offset, size);
    } else {
        note("direct write %s %zu at %zu", file->name, size, offset);
        write_range(file, fd, offset, size);
    }
    close(fd);
}

/* The pages of a range, mapped. */
static uint8_t *map_range(struct file *file, size_t offset, size_t size, size_t *start, size_t *length)
{
    *start = offset / PAGE * PAGE;
    *length = offset + size - *start;
    uint8_t *map = mmap(NULL, *length, PROT_READ | PROT_WRITE, MAP_SHARED, file->fd, (off_t)*start);
    if (map == MAP_FAILED)
        fail("%s: mmap of %zu at %zu: %s", file->name, *length, *start, strerror(errno));
    return map;
}

void fsx_mapread(struct file *file, struct file *other)
{
    size_t offset, size, start, length;

    choose_range(MAX_SIZE, &offset, &size);
    if (!file->size)
        return;
    offset %= file->size;
    if (offset + size > file->size)
        size = file->size - offset;
    note("mapread %s %zu at %zu", file->name, size, offset);
    uint8_t *map = map_range(file, offset, size, &start, &length);
    compare(file, map + offset - start, offset, size);
    munmap(map, length);
}

void fsx_mapwrite(struct file *file, struct file *other)
{
    size_t offset, size, start, length;

    choose_range(MAX_SIZE, &offset, &size);
    if (file->size < offset + size) { /* a mapping does not make a file longer */
        if (ftruncate(file->fd, (off_t)(offset + size)))
            fail("%s: ftruncate to %zu: %s", file->name, offset + size, strerror(errno));
        file->size = offset + size;
    }
    note("mapwrite %s %zu at %zu", file->name, size, offset);
    uint8_t *map = map_range(file, offset, size, &start, &length);
    fill(buffer(), size);
    memcpy(map + offset - start, buffer(), size);
    memcpy(file->copy + offset, buffer(), size);
    if (random_below(2) && msync(map, length, MS_SYNC))
        fail("%s: msync: %s", file->name, strerror(errno));
    munmap(map, length);
}

static void set_size(struct file *file, size_t size)
{
    if (random_below(2) ? ftruncate(file->fd, (off_t)size) : truncate(file->name, (off_t)size))
        fail("%s: truncate to %zu: %s", file->name, size, strerror(errno));
    if (size < file->size)
        memset(file->copy + size, 0, file->size - size);
    file->size = size;
}

void fsx_truncate(struct file *file, struct file *other)
{
    size_t size = random_below(file->size + 1);

    note("truncate %s %zu to %zu", file->name, file->size, size);
    set_size(file, size);
}

void fsx_extend(struct file *file, struct file *other)
{
    size_t size = file->size + random_below(MAX_SIZE - file->size + 1);

    note("extend %s %zu to %zu", file->name, file->size, size);
    set_size(file, size);
}

static void allocate(struct file *file, int mode, size_t offset, size_t size)
{
    if (fallocate(file->fd, mode, (off_t)offset, (off_t)size))
        fail("%s: fallocate %#x of %zu at %zu: %s", file->name, (unsigned)mode, size, offset, strerror(errno));
    if (mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE))
        memset(file->copy + offset, 0, size);
    if (!(mode & FALLOC_FL_KEEP_SIZE))
        grow(file, offset + size);
}

void fsx_fallocate(struct file *file, struct file *other)
{
    size_t offset, size;
    int mode = random_below(2) ? FALLOC_FL_KEEP_SIZE : 0;

    choose_range(MAX_SIZE, &offset, &size);
    note("fallocate %s %zu at %zu, mode %d", file->name, size, offset, mode);
    allocate(file, mode, offset, size);
}

void fsx_punch(struct file *file, struct file *other)
{
    size_t offset, size;

    choose_range(MAX_SIZE, &offset, &size);
    note("punch %s %zu at %zu", file->name, size, offset);
    allocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, size);
}

void fsx_zero(struct file *file, struct file *other)
{
    size_t offset, size;
    int mode = FALLOC_FL_ZERO_RANGE | (random_below(2) ? FALLOC_FL_KEEP_SIZE : 0);

    choose_range(MAX_SIZE, &offset, &size);
    note("zero %s %zu at %zu, mode %#x", file->name, size, offset, (unsigned)mode);
    allocate(file, mode, offset, size);
}

void fsx_copy(struct file *file, struct file *other)
{
    size_t from = random_below(file->size + 1), to, size;
    off_t in, out;

    choose_range(MAX_SIZE, &to, &size);
    if (size > file->size - from)
        size = file->size - from;
    if (file == other && from < to + size && to < from + size)
        return; /* within a file ranges may not overlap */
    note("copy %s %zu at %zu to %s at %zu", file->name, size, from, other->name, to);
    in = (off_t)from;
    out = (off_t)to;
    for (size_t left = size; left;) {
        ssize_t got = copy_file_range(file->fd, &in, other->fd, &out, left, 0);
        if (got <= 0)
            fail("%s: copy_file_range: %s", file->name, got ? strerror(errno) : "nothing copied");
        left -= (size_t)got;
    }
    memmove(other->copy + to, file->copy + from, size);
    if (size)
        grow(other, to + size);
}

void fsx_fsync(struct file *file, struct file *other)
{
    note("fsync %s", file->name);
    if (random_below(2) ? fsync(file->fd) : fdatasync(file->fd))
        fail("%s: fsync: %s", file->name, strerror(errno));
}

void fsx_reopen(struct file *file, struct file *other)
{
    note("reopen %s", file->name);
    if (close(file->fd))
        fail("%s: close: %s", file->name, strerror(errno));
    file->fd = open(file->name, O_RDWR | O_CLOEXEC | (random_below(8) ? 0 : O_SYNC));
    if (file->fd < 0)
        fail("%s: %s", file->name, strerror(errno));
}

void fsx_rename(struct file *file, struct file *other)
{
    char name[sizeof(file->name)];

    snprintf(name, sizeof(name), "file-%u-%u", file->number, ++file->renames);
    note("rename %s to %s", file->name, name);
    if (random_below(2) ? rename(file->name, name) : link(file->name, name) || unlink(file->name))
        fail("%s: rename to %s: %s", file->name, name, strerror(errno));
    memcpy(file->name, name, sizeof(name));
}

/* What SEEK_DATA skips has to be zero, and the end has to be where it is. FUSE asks the device, which
 * knows nothing of pages that were changed by a mapping (or of any, where writes are gathered) and are
 * not written yet. */
void fsx_holes(struct file *file, struct file *other)
{
    off_t at = 0;

    note("holes %s", file->name);
    if (fsync(file->fd))
        fail("%s: fsync: %s", file->name, strerror(errno));
    while ((size_t)at < file->size) {
        off_t data = lseek(file->fd, at, SEEK_DATA);
        size_t until = data < 0 ? file->size : (size_t)data;
        if (data < 0 && errno != ENXIO)
            fail("%s: SEEK_DATA at %lld: %s", file->name, (long long)at, strerror(errno));
        for (size_t i = (size_t)at; i < until; i++)
            if (file->copy[i])
                fail("%s: byte %zu is %#x and in a hole", file->name, i, file->copy[i]);
        if (data < 0)
            break;
        at = lseek(file->fd, data, SEEK_HOLE);
        if (at <= data || (size_t)at > file->size)
            fail("%s: SEEK_HOLE at %lld: %lld", file->name, (long long)data, (long long)at);
    }
}

void fsx_size(struct file *file, struct file *other)
{
    struct stat by_fd, by_name;

    note("size %s", file->name);
    if (fstat(file->fd, &by_fd) || stat(file->name, &by_name))
        fail("%s: stat: %s", file->name, strerror(errno));
    if (by_fd.st_size != (off_t)file->size || by_name.st_size != (off_t)file->size || by_fd.st_ino != by_name.st_ino)
        fail("%s: size %lld by fd, %lld by name, not %zu", file->name, (long long)by_fd.st_size, (long long)by_name.st_size, file->size);
}
