/* Operations on names. See posix.h. */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "posix.h"

static int64_t op_create(struct run *run, char **w)
{
    int fd = open(w[1], O_WRONLY | O_CREAT | O_EXCL, w[2] ? mode_of(w[2]) : 0644);

    if (fd < 0)
        return -errno;
    return result(close(fd));
}

/* create with a text in it */
static int64_t op_make(struct run *run, char **w)
{
    int fd = open(w[1], O_WRONLY | O_CREAT | O_EXCL, 0644);
    size_t size = strlen(w[2]);

    if (fd < 0)
        return -errno;
    if (write(fd, w[2], size) != (ssize_t)size)
        return -errno;
    return result(close(fd));
}

static int64_t op_mkdir(struct run *run, char **w) { return result(mkdir(w[1], w[2] ? mode_of(w[2]) : 0755)); }
static int64_t op_rmdir(struct run *run, char **w) { return result(rmdir(w[1])); }
static int64_t op_unlink(struct run *run, char **w) { return result(unlink(w[1])); }
static int64_t op_symlink(struct run *run, char **w) { return result(symlink(w[1], w[2])); }

static int64_t op_link(struct run *run, char **w)
{
    return result(linkat(AT_FDCWD, w[1], AT_FDCWD, w[2], w[3] ? flags(w[3]) : 0));
}

static int64_t op_rename(struct run *run, char **w)
{
    return result(syscall(SYS_renameat2, AT_FDCWD, w[1], AT_FDCWD, w[2], w[3] ? flags(w[3]) : 0));
}

/* mknod NAME p|s|c|b|f MODE [MAJOR MINOR] */
static int64_t op_mknod(struct run *run, char **w)
{
    static const struct {
        char letter;
        mode_t type;
    } types[] = { { 'p', S_IFIFO }, { 's', S_IFSOCK }, { 'c', S_IFCHR }, { 'b', S_IFBLK }, { 'f', S_IFREG }, { 'd', S_IFDIR } };
    dev_t device = w[4] && w[5] ? makedev((unsigned)number(w[4]), (unsigned)number(w[5])) : 0;

    for (unsigned i = 0; i < sizeof(types) / sizeof(*types); i++)
        if (types[i].letter == *w[2])
            return result(mknod(w[1], types[i].type | mode_of(w[3]), device));
    die("mknod: no type %s", w[2]);
}

static int64_t op_readlink(struct run *run, char **w)
{
    char target[5000];
    ssize_t size = readlink(w[1], target, sizeof(target) - 1);

    if (size < 0)
        return -errno;
    target[size] = 0;
    if (size > 100)
        detail(run, "%zd bytes", size);
    else
        detail(run, "%s", target);
    return size;
}

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static char letter_of(unsigned char type)
{
    switch (type) {
    case DT_REG: return 'f';
    case DT_DIR: return 'd';
    case DT_LNK: return 'l';
    case DT_FIFO: return 'p';
    case DT_SOCK: return 's';
    case DT_CHR: return 'c';
    case DT_BLK: return 'b';
    default: return '?';
    }
}

/* A name; what would spoil a line of output in hex. */
static void show(struct run *run, const char *name)
{
    for (; *name; name++)
        detail(run, *name > ' ' && *name < 127 ? "%c" : "%%%02X", (unsigned char)*name);
}

/* The names in a folder, sorted, each with its type; "." and ".." have to be there. */
static int64_t op_ls(struct run *run, char **w)
{
    DIR *stream = opendir(w[1]);
    char *found[256];
    unsigned count = 0, dots = 0;
    struct dirent *entry;

    if (!stream)
        return -errno;
    for (errno = 0; (entry = readdir(stream));) {
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) {
            dots += entry->d_type == DT_DIR;
            continue;
        }
        if (count == 256 || asprintf(&found[count], "%s:%c", entry->d_name, letter_of(entry->d_type)) < 0)
            die("ls: %u names", count);
        count++;
    }
    int error = errno;
    closedir(stream);
    if (error)
        return -error;
    qsort(found, count, sizeof(*found), by_name);
    detail(run, "%s", dots == 2 ? "[" : "no-dots[");
    for (unsigned i = 0; i < count; i++) {
        detail(run, "%s", i ? "+" : "");
        show(run, strlen(found[i]) > 100 ? "long" : found[i]);
    }
    detail(run, "]");
    return count;
}

static int64_t op_cd(struct run *run, char **w) { return result(chdir(w[1])); }

const struct op path_ops[] = {
    { "create", 1, 2, op_create },   { "make", 2, 2, op_make },     { "mkdir", 1, 2, op_mkdir },   { "rmdir", 1, 1, op_rmdir },
    { "unlink", 1, 1, op_unlink },   { "symlink", 2, 2, op_symlink }, { "link", 2, 3, op_link },   { "rename", 2, 3, op_rename },
    { "mknod", 3, 5, op_mknod },     { "readlink", 1, 1, op_readlink }, { "ls", 1, 1, op_ls },     { "cd", 1, 1, op_cd },
    { 0 },
};
