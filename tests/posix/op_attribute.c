/* Operations on attributes. See posix.h. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#include "posix.h"

#define NOW_WITHIN_S 3600

static char letter_of(mode_t mode)
{
    switch (mode & S_IFMT) {
    case S_IFREG: return 'f';
    case S_IFDIR: return 'd';
    case S_IFLNK: return 'l';
    case S_IFIFO: return 'p';
    case S_IFSOCK: return 's';
    case S_IFCHR: return 'c';
    case S_IFBLK: return 'b';
    default: return '?';
    }
}

/* type mode : uid : gid : nlink : size or device */
static void describe(struct run *run, const struct stat *stat)
{
    detail(run, "%c%o:%u:%u:%lu", letter_of(stat->st_mode), stat->st_mode & 07777, stat->st_uid, stat->st_gid, (unsigned long)stat->st_nlink);
    if (S_ISCHR(stat->st_mode) || S_ISBLK(stat->st_mode))
        detail(run, ":%u.%u", major(stat->st_rdev), minor(stat->st_rdev));
    else if (!S_ISDIR(stat->st_mode))
        detail(run, ":%lld", (long long)stat->st_size);
}

static int64_t op_stat(struct run *run, char **w)
{
    struct stat stat;

    if (lstat(w[1], &stat))
        return -errno;
    describe(run, &stat);
    return 0;
}

/* Follows a symlink. */
static int64_t op_statf(struct run *run, char **w)
{
    struct stat found;

    if (stat(w[1], &found))
        return -errno;
    describe(run, &found);
    return 0;
}

static int64_t op_fstat(struct run *run, char **w)
{
    struct stat stat;

    if (fstat(fd_of(run, w[1]), &stat))
        return -errno;
    describe(run, &stat);
    return 0;
}

static int64_t op_statx(struct run *run, char **w)
{
    struct statx found;

    if (statx(AT_FDCWD, w[1], AT_SYMLINK_NOFOLLOW | (w[2] ? flags(w[2]) : 0), STATX_BASIC_STATS, &found))
        return -errno;
    if ((found.stx_mask & STATX_BASIC_STATS) != STATX_BASIC_STATS)
        return -ENODATA;
    detail(run, "%c%o:%u:%u:%u:%llu", letter_of(found.stx_mode), found.stx_mode & 07777u, found.stx_uid, found.stx_gid, found.stx_nlink,
           S_ISDIR(found.stx_mode) ? 0 : (unsigned long long)found.stx_size);
    return 0;
}

static bool same_file(const char *a, const char *b, int *error)
{
    struct stat one, other;

    *error = lstat(a, &one) || lstat(b, &other) ? errno : 0;
    return !*error && one.st_dev == other.st_dev && one.st_ino == other.st_ino;
}

static int64_t op_same(struct run *run, char **w)
{
    int error;
    bool is_same = same_file(w[1], w[2], &error);

    return error ? -error : is_same;
}

static int64_t op_chmod(struct run *run, char **w) { return result(chmod(w[1], mode_of(w[2]))); }
static int64_t op_fchmod(struct run *run, char **w) { return result(fchmod(fd_of(run, w[1]), mode_of(w[2]))); }

static int64_t op_chown(struct run *run, char **w) { return result(lchown(w[1], (uid_t)number(w[2]), (gid_t)number(w[3]))); }
static int64_t op_chownf(struct run *run, char **w) { return result(chown(w[1], (uid_t)number(w[2]), (gid_t)number(w[3]))); }
static int64_t op_fchown(struct run *run, char **w)
{
    return result(fchown(fd_of(run, w[1]), (uid_t)number(w[2]), (gid_t)number(w[3])));
}

static int64_t op_truncate(struct run *run, char **w) { return result(truncate(w[1], number(w[2]))); }
static int64_t op_ftruncate(struct run *run, char **w) { return result(ftruncate(fd_of(run, w[1]), number(w[2]))); }

/* NOW, OMIT or seconds.nanoseconds */
static struct timespec time_of(const char *word)
{
    struct timespec time = { 0, 0 };
    char *end;

    if (!strcmp(word, "NOW")) {
        time.tv_nsec = UTIME_NOW;
    } else if (!strcmp(word, "OMIT")) {
        time.tv_nsec = UTIME_OMIT;
    } else {
        time.tv_sec = strtoll(word, &end, 10);
        time.tv_nsec = *end ? strtol(end + 1, NULL, 10) : 0;
    }
    return time;
}

static int64_t op_utimens(struct run *run, char **w)
{
    struct timespec times[2] = { time_of(w[2]), time_of(w[3]) };

    return result(utimensat(AT_FDCWD, w[1], times, AT_SYMLINK_NOFOLLOW));
}

/* Both times to now without naming them: what touch does, and a right to write is enough for. */
static int64_t op_touch(struct run *run, char **w) { return result(utimensat(AT_FDCWD, w[1], NULL, 0)); }

static int64_t op_futimens(struct run *run, char **w)
{
    struct timespec times[2] = { time_of(w[2]), time_of(w[3]) };

    return result(futimens(fd_of(run, w[1]), times));
}

static void describe_time(struct run *run, const struct timespec *when)
{
    long long distance = (long long)(time(NULL) - when->tv_sec);

    if (distance > -NOW_WITHIN_S && distance < NOW_WITHIN_S)
        detail(run, "now");
    else
        detail(run, "%lld.%09ld", (long long)when->tv_sec, when->tv_nsec);
}

static int64_t op_times(struct run *run, char **w)
{
    struct stat stat;

    if (lstat(w[1], &stat))
        return -errno;
    describe_time(run, &stat.st_atim);
    detail(run, "/");
    describe_time(run, &stat.st_mtim);
    return 0;
}

/* Remembers a file's times and lets every clock that may be asked go on. */
static int64_t op_mark(struct run *run, char **w)
{
    struct timespec now, start;

    if (lstat(w[1], &run->mark))
        return -errno;
    clock_gettime(CLOCK_MONOTONIC, &start);
    do
        clock_gettime(CLOCK_MONOTONIC, &now);
    while ((now.tv_sec - start.tv_sec) * 1000000000 + now.tv_nsec - start.tv_nsec < 25000000);
    return 0;
}

static bool differs(const struct timespec *a, const struct timespec *b) { return a->tv_sec != b->tv_sec || a->tv_nsec != b->tv_nsec; }

/* Which of mtime and ctime are other ones than when marked: "-", "m", "c", "mc". */
static int64_t op_changed(struct run *run, char **w)
{
    struct stat now;

    if (lstat(w[1], &now))
        return -errno;
    detail(run, "%s%s", differs(&now.st_mtim, &run->mark.st_mtim) ? "m" : "", differs(&now.st_ctim, &run->mark.st_ctim) ? "c" : "");
    if (!run->detail[0])
        detail(run, "-");
    return 0;
}

static int64_t op_access(struct run *run, char **w)
{
    return result(syscall(SYS_faccessat2, AT_FDCWD, w[1], flags(w[2]), AT_EACCESS)); /* the library's own would guess */
}

static int64_t op_statvfs(struct run *run, char **w)
{
    struct statvfs stat;

    if (statvfs(w[1], &stat))
        return -errno;
    if (!stat.f_blocks || stat.f_bfree > stat.f_blocks || stat.f_bavail > stat.f_bfree || stat.f_ffree > stat.f_files)
        return -ERANGE;
    detail(run, "%lu:%lu:%lu", stat.f_bsize, stat.f_frsize, stat.f_namemax);
    return 0;
}

/* Whether a file has fewer blocks than its size needs. */
static int64_t op_sparse(struct run *run, char **w)
{
    struct stat stat;

    if (lstat(w[1], &stat))
        return -errno;
    return (int64_t)stat.st_blocks * 512 < stat.st_size;
}

const struct op attribute_ops[] = {
    { "stat", 1, 1, op_stat },         { "statf", 1, 1, op_statf },       { "fstat", 1, 1, op_fstat },         { "statx", 1, 2, op_statx },
    { "same", 2, 2, op_same },         { "chmod", 2, 2, op_chmod },       { "fchmod", 2, 2, op_fchmod },       { "chown", 3, 3, op_chown },
    { "chownf", 3, 3, op_chownf },     { "fchown", 3, 3, op_fchown },     { "truncate", 2, 2, op_truncate },   { "ftruncate", 2, 2, op_ftruncate },
    { "utimens", 3, 3, op_utimens },   { "futimens", 3, 3, op_futimens }, { "touch", 1, 1, op_touch },         { "times", 1, 1, op_times },
    { "mark", 1, 1, op_mark },         { "changed", 1, 1, op_changed },   { "access", 2, 2, op_access },       { "statvfs", 1, 1, op_statvfs },
    { "sparse", 1, 1, op_sparse },     { 0 },
};
