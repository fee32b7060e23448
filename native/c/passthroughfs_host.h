/*
 * The host's system calls as a passthrough uses them: by descriptor, one path component at a time,
 * never through a symlink of the share. Functions return a descriptor or 0, or a negative errno.
 *
 * `may_block` false is for queue threads: what the kernel has not in its caches is -EAGAIN.
 */
#ifndef VHOSTFS_PASSTHROUGHFS_HOST_H
#define VHOSTFS_PASSTHROUGHFS_HOST_H
#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#include "fuse_abi.h"

#ifndef STATX_MNT_ID_UNIQUE /* Linux 6.8 */
#define STATX_MNT_ID_UNIQUE 0x4000U
#endif

#define HOST_HANDLE_MAX 128 /* MAX_HANDLE_SZ */

/* What name_to_handle_at says: the kernel's own name of an inode, its generation included. */
struct host_handle {
    uint32_t size;
    int32_t type;
    uint8_t bytes[HOST_HANDLE_MAX];
};

/* Opens `name` in `dir`, as O_PATH says or for real; a symlink is opened itself (O_PATH) or is
 * -ELOOP. A mount on `name` is entered. `name` has one component and is not "..". */
int host_open_child(int dir, const char *name, int flags, bool may_block);
/* Opens again what `fd` (which may be O_PATH) is open on; proc_fd is a descriptor of /proc/self/fd. */
int host_reopen(int proc_fd, int fd, int flags);
/* Both of `name` in the directory `fd`, a symlink itself, or of `fd` where the name is "". The mount
 * id in stx_mnt_id is the unique one where the kernel has it. */
int host_stat_at(int fd, const char *name, struct statx *stat);
int host_get_handle_at(int fd, const char *name, struct host_handle *handle);
static inline int host_stat(int fd, struct statx *stat) { return host_stat_at(fd, "", stat); }
/* The same without asking anybody: for a network's file system, which may not answer, only what tells
 * it apart is sure to be right. */
int host_stat_nowait_at(int fd, const char *name, struct statx *stat);
static inline int host_stat_nowait(int fd, struct statx *stat) { return host_stat_nowait_at(fd, "", stat); }
static inline int host_get_handle(int fd, struct host_handle *handle) { return host_get_handle_at(fd, "", handle); }
int host_open_handle(int mount_fd, const struct host_handle *handle, int flags);

/* Gives the calling thread a working directory and a umask of its own, once; then sets them. */
int host_set_umask(uint32_t umask);
int host_enter(int directory_fd);

/* Descriptors that guests make us keep (open files, inodes without handles) are counted over the
 * whole process and bounded, so that sockets and cache files still find room. */
bool host_take_fd(void); /* false: no more */
void host_give_fd(void);

static inline uint64_t host_dev(const struct statx *stat) { return (uint64_t)stat->stx_dev_major << 32 | stat->stx_dev_minor; }
/* FUSE's coding of a device number is the kernel's 32-bit one. */
static inline uint32_t host_pack_rdev(const struct statx *stat)
{
    return (stat->stx_rdev_minor & 0xFF) | stat->stx_rdev_major << 8 | (stat->stx_rdev_minor & ~0xFFu) << 12;
}
#endif
