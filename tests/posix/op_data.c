/* Operations on ranges of files, and on folders of many names. See posix.h. */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "posix.h"

/* fallocate SLOT MODE OFFSET SIZE */
static int64_t op_fallocate(struct run *run, char **w)
{
    return result(fallocate(fd_of(run, w[1]), flags(w[2]), number(w[3]), number(w[4])));
}

/* copy SLOT OFFSET SLOT OFFSET SIZE; all of it, however many calls that takes. Returns the bytes copied. */
static int64_t op_copy(struct run *run, char **w)
{
    loff_t from = number(w[2]), to = number(w[4]);
    int64_t left = number(w[5]), copied = 0;

    while (left) {
        ssize_t now = copy_file_range(fd_of(run, w[1]), &from, fd_of(run, w[3]), &to, (size_t)left, 0);
        if (now < 0)
            return -errno;
        if (!now)
            break;
        copied += now;
        left -= now;
    }
    return copied;
}

/* The data and holes of a file as SEEK_DATA and SEEK_HOLE tell them, as they must: "data@0-4096 ...". */
static int64_t op_extents(struct run *run, char **w)
{
    int fd = fd_of(run, w[1]);
    off_t end = lseek(fd, 0, SEEK_END), at = 0;

    while (at < end) {
        off_t data = lseek(fd, at, SEEK_DATA), hole;
        if (data < 0 && errno == ENXIO)
            break;
        if (data < 0)
            return -errno;
        hole = lseek(fd, data, SEEK_HOLE);
        if (hole < 0)
            return -errno;
        detail(run, "%s%lld-%lld", at ? "+" : "", (long long)data, (long long)hole);
        at = hole;
    }
    if (!run->detail[0])
        detail(run, "none");
    return 0;
}

static void name_of(char *name, size_t size, const char *folder, int64_t index) { snprintf(name, size, "%s/name-%lld", folder, (long long)index); }

static int64_t create_range(const char *folder, int64_t first, int64_t count)
{
    char name[256];

    for (int64_t i = first; i < first + count; i++) {
        name_of(name, sizeof(name), folder, i);
        int fd = open(name, O_WRONLY | O_CREAT | O_EXCL, 0644);
        if (fd < 0)
            return -errno;
        close(fd);
    }
    return count;
}

/* many FOLDER COUNT: so many files */
static int64_t op_many(struct run *run, char **w) { return create_range(w[1], 0, number(w[2])); }

/* Reads a folder to its end. Returns the names in it; -EEXIST when one came twice. */
static int64_t count_from(DIR *stream, uint8_t *seen, int64_t limit, int64_t stop)
{
    int64_t count = 0, index;
    struct dirent *entry;

    for (errno = 0; count < stop && (entry = readdir(stream));) {
        if (entry->d_name[0] == '.')
            continue;
        if (sscanf(entry->d_name, "name-%ld", &index) != 1 || index >= limit)
            return -EILSEQ;
        if (seen[index]++)
            return -EEXIST;
        count++;
    }
    return errno ? -errno : count;
}

#define MOST_NAMES 20000

static int64_t op_count(struct run *run, char **w)
{
    static uint8_t seen[MOST_NAMES];
    DIR *stream = opendir(w[1]);

    if (!stream)
        return -errno;
    memset(seen, 0, sizeof(seen));
    int64_t count = count_from(stream, seen, MOST_NAMES, MOST_NAMES);
    closedir(stream);
    return count;
}

/* Unlinks each name as it comes out of readdir; returns how many. */
static int64_t op_drain(struct run *run, char **w)
{
    DIR *stream = opendir(w[1]);
    struct dirent *entry;
    int64_t count = 0;

    if (!stream)
        return -errno;
    for (errno = 0; (entry = readdir(stream));) {
        if (entry->d_name[0] == '.')
            continue;
        if (unlinkat(dirfd(stream), entry->d_name, 0))
            break;
        count++;
    }
    int error = errno;
    closedir(stream);
    return error ? -error : count;
}

/*
 * churn FOLDER COUNT: with COUNT names there, reads some, makes as many new ones and removes every other of the old
 * ones, reads on. What stayed all the while has to come once, and nothing twice. Returns how many stayed.
 */
static int64_t op_churn(struct run *run, char **w)
{
    static uint8_t seen[MOST_NAMES];
    int64_t count = number(w[2]), answer;
    char name[256];
    DIR *stream = opendir(w[1]);

    if (!stream)
        return -errno;
    memset(seen, 0, sizeof(seen));
    answer = count_from(stream, seen, MOST_NAMES, 10);
    if (answer < 0)
        return answer;
    answer = create_range(w[1], count, count);
    for (int64_t i = 0; i < count && answer >= 0; i += 2) {
        name_of(name, sizeof(name), w[1], i);
        answer = result(unlink(name));
    }
    if (answer >= 0)
        answer = count_from(stream, seen, MOST_NAMES, MOST_NAMES);
    closedir(stream);
    if (answer < 0)
        return answer;
    for (int64_t i = 1; i < count; i += 2)
        if (!seen[i])
            return -ENOENT;
    return count / 2;
}

/* Reads half a folder, remembers where, reads the rest, goes back and reads the rest again: it has to be the same. */
static int64_t op_seekdir(struct run *run, char **w)
{
    static uint8_t seen[MOST_NAMES], before[MOST_NAMES], again[MOST_NAMES];
    DIR *stream = opendir(w[1]);

    if (!stream)
        return -errno;
    memset(before, 0, sizeof(before));
    int64_t half = count_from(stream, before, MOST_NAMES, number(w[2]) / 2);
    long position = telldir(stream);
    memcpy(seen, before, sizeof(seen));
    memcpy(again, before, sizeof(again));
    int64_t rest = count_from(stream, seen, MOST_NAMES, MOST_NAMES);
    seekdir(stream, position);
    int64_t once_more = count_from(stream, again, MOST_NAMES, MOST_NAMES);
    rewinddir(stream);
    memset(before, 0, sizeof(before));
    int64_t all = count_from(stream, before, MOST_NAMES, MOST_NAMES);
    closedir(stream);
    if (half < 0 || rest < 0 || once_more < 0 || all < 0)
        return half < 0 ? half : rest < 0 ? rest : once_more < 0 ? once_more : all;
    if (rest != once_more || memcmp(seen, again, sizeof(seen)) || all != half + rest)
        return -EILSEQ;
    return all;
}

const struct op data_ops[] = {
    { "fallocate", 4, 4, op_fallocate }, { "copy", 5, 5, op_copy },   { "extents", 1, 1, op_extents }, { "many", 2, 2, op_many },
    { "count", 1, 1, op_count },         { "drain", 1, 1, op_drain }, { "churn", 2, 2, op_churn },     { "seekdir", 2, 2, op_seekdir },
    { 0 },
};
