/* System calls by descriptor. See passthroughfs_host.h. */
#include "passthroughfs_host.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Of RLIMIT_NOFILE, for what is not the guest's: sockets, vrings, guest memory, cache files. */
#define FDS_OF_OURS 512

static unsigned taken_fds; /* atomic */

static int result(long returned) { return returned < 0 ? -errno : (int)returned; }

int host_open_child(int dir, const char *name, int flags, bool may_block)
{
    struct open_how how = {
        .flags = (uint64_t)flags | O_NOFOLLOW | O_CLOEXEC,
        /* One component cannot lead out anyway; should that ever change, the kernel still refuses. */
        .resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | (may_block ? 0 : RESOLVE_CACHED),
    };
    int fd = result(syscall(SYS_openat2, dir, name, &how, sizeof(how)));

    return fd == -EINVAL && !may_block ? -EAGAIN : fd; /* a kernel before 5.12 has no RESOLVE_CACHED */
}

int host_reopen(int proc_fd, int fd, int flags)
{
    char name[16];

    snprintf(name, sizeof(name), "%d", fd);
    return result(openat(proc_fd, name, flags | O_CLOEXEC));
}

static int stat_at(int fd, const char *name, int sync, struct statx *stat)
{
    const int flags = AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | sync;
    const unsigned mask = STATX_BASIC_STATS | STATX_BTIME | STATX_MNT_ID;
    static bool unique_unknown; /* atomic: this kernel reuses mount ids */

    if (!__atomic_load_n(&unique_unknown, __ATOMIC_RELAXED)) {
        if (statx(fd, name, flags, mask | STATX_MNT_ID_UNIQUE, stat) < 0)
            return -errno;
        if (stat->stx_mask & STATX_MNT_ID_UNIQUE)
            return 0;
        __atomic_store_n(&unique_unknown, true, __ATOMIC_RELAXED);
    }
    return statx(fd, name, flags, mask, stat) < 0 ? -errno : 0;
}

int host_stat_at(int fd, const char *name, struct statx *stat) { return stat_at(fd, name, AT_STATX_SYNC_AS_STAT, stat); }

int host_stat_nowait_at(int fd, const char *name, struct statx *stat) { return stat_at(fd, name, AT_STATX_DONT_SYNC, stat); }

/* struct file_handle is declared with a flexible array, which <fcntl.h> hides; its layout is fixed. */
_Static_assert(sizeof(struct host_handle) == sizeof(struct file_handle) + HOST_HANDLE_MAX, "struct file_handle");

int host_get_handle_at(int fd, const char *name, struct host_handle *handle)
{
    int mount_id;

    handle->size = HOST_HANDLE_MAX;
    return result(name_to_handle_at(fd, name, (struct file_handle *)handle, &mount_id, AT_EMPTY_PATH));
}

int host_open_handle(int mount_fd, const struct host_handle *handle, int flags)
{
    return result(open_by_handle_at(mount_fd, (struct file_handle *)handle, flags | O_CLOEXEC));
}

static int own_fs(void)
{
    static __thread bool is_own;

    if (!is_own) {
        if (unshare(CLONE_FS) < 0)
            return -errno;
        is_own = true;
    }
    return 0;
}

int host_set_umask(uint32_t mask)
{
    int err = own_fs();

    if (!err)
        umask(mask & 0777);
    return err;
}

int host_enter(int directory_fd)
{
    int err = own_fs();

    return err ? err : result(fchdir(directory_fd));
}

bool host_take_fd(void)
{
    struct rlimit limit;
    unsigned taken = __atomic_add_fetch(&taken_fds, 1, __ATOMIC_RELAXED);

    /* asked each time: the limit may be raised while we run */
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || taken + FDS_OF_OURS <= limit.rlim_cur)
        return true;
    host_give_fd();
    return false;
}

void host_give_fd(void) { __atomic_sub_fetch(&taken_fds, 1, __ATOMIC_RELAXED); }
