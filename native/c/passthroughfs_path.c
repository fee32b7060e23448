/* Descriptors of remembered inodes. See passthroughfs_inode.h. */
#include <errno.h>
#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#include "passthroughfs_inode.h"

uint32_t host_now_s(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return (uint32_t)now.tv_sec + 1; /* never 0 */
}

bool inode_is_warm(const struct host_inode *inode)
{
    uint32_t used = __atomic_load_n(&inode->used_s, __ATOMIC_RELAXED);

    return inode->mount->is_local && used && host_now_s() - used <= INODE_WARM_S;
}

void inode_used(struct host_inode *inode)
{
    uint32_t now = host_now_s();

    if (__atomic_load_n(&inode->used_s, __ATOMIC_RELAXED) != now) /* do not dirty the line for nothing */
        __atomic_store_n(&inode->used_s, now, __ATOMIC_RELAXED);
}

static int by_handle(struct inode_table *table, struct host_inode *inode, int flags, bool may_block)
{
    int fd = host_mount_enter(table, inode->mount, may_block), opened;

    if (fd < 0)
        return fd;
    opened = host_open_handle(fd, &inode->handle, flags);
    host_mount_leave(inode->mount);
    return opened;
}

/* The file that is mounted on a name; whatever is there now must still be it. */
static int by_walking(struct inode_table *table, struct host_inode *inode, bool may_block)
{
    struct statx stat;
    int fd = host_mount_walk(table, inode->mount, O_PATH, may_block);

    if (fd >= 0 && (host_stat(fd, &stat) < 0 || host_dev(&stat) != inode->dev || stat.stx_ino != inode->ino)) {
        close(fd);
        return -ESTALE;
    }
    return fd;
}

int inode_path(struct inode_table *table, struct host_inode *inode, bool may_block, struct host_path *path)
{
    int fd;

    if (!may_block && !inode_is_warm(inode))
        return -EAGAIN;
    if (inode->path_fd >= 0) {
        *path = (struct host_path){ .fd = inode->path_fd };
        inode_used(inode);
        return 0;
    }
    fd = inode->is_mounted_file ? by_walking(table, inode, may_block) : by_handle(table, inode, O_PATH | O_NOFOLLOW, may_block);
    if (fd < 0)
        return fd;
    *path = (struct host_path){ .fd = fd, .is_ours = true };
    inode_used(inode);
    return 0;
}

void host_path_close(struct host_path *path)
{
    if (path->is_ours)
        close(path->fd);
}

int inode_open(struct inode_table *table, struct host_inode *inode, int flags, bool may_block)
{
    struct host_path path;
    int fd;

    if (inode->type != S_IFREG && inode->type != S_IFDIR)
        return inode->type == S_IFLNK ? -ELOOP : -ENXIO;
    if (inode->path_fd < 0 && !inode->is_mounted_file) {
        if (!may_block && !inode_is_warm(inode))
            return -EAGAIN;
        fd = by_handle(table, inode, flags, may_block);
    } else {
        fd = inode_path(table, inode, may_block, &path);
        if (fd < 0)
            return fd;
        fd = host_reopen(table->proc_fd, path.fd, flags);
        host_path_close(&path);
    }
    if (fd >= 0)
        inode_used(inode);
    return fd;
}
