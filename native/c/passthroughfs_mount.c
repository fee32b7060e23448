/* The mounts of the host inside a share, and how each request gets to one. See passthroughfs_inode.h. */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "passthroughfs_inode.h"

#ifndef F2FS_SUPER_MAGIC
#define F2FS_SUPER_MAGIC 0xF2F52010
#endif
#ifndef XFS_SUPER_MAGIC
#define XFS_SUPER_MAGIC 0x58465342
#endif
#define ZFS_SUPER_MAGIC 0x2FC12FC1

static void classify(struct host_mount *mount, int fd)
{
    struct statfs fs;

    if (fstatfs(fd, &fs) < 0)
        return; /* then nothing is taken for granted */
    switch ((unsigned long)fs.f_type & 0xFFFFFFFF) {
    case TMPFS_MAGIC:
    case RAMFS_MAGIC:
        mount->reads_never_block = true;
        /* fall through */
    case EXT4_SUPER_MAGIC:
    case F2FS_SUPER_MAGIC:
    case ZFS_SUPER_MAGIC:
    case EROFS_SUPER_MAGIC_V1:
    case SQUASHFS_MAGIC:
        mount->is_local = true;
        break;
    case XFS_SUPER_MAGIC:
    case BTRFS_SUPER_MAGIC:
        mount->is_local = mount->clones = true;
        break;
    case OVERLAYFS_SUPER_MAGIC:
        mount->is_local = mount->copies_at_open = true;
        break;
    case FUSE_SUPER_MAGIC:
    case MSDOS_SUPER_MAGIC:
        /* Their handles stand only as long as the kernel remembers the inode by itself. */
        mount->has_handles = false;
        break;
    default: /* a network's, or unknown: every call may wait for somebody else */
        break;
    }
}

/* Whether handles of this mount can be made, and opened by us. mount_fd < 0: not known how to open. */
static bool try_handles(int fd, int mount_fd)
{
    struct host_handle handle;
    int opened;

    if (host_get_handle(fd, &handle) < 0)
        return false;
    opened = host_open_handle(mount_fd, &handle, O_PATH);
    if (opened < 0)
        return false;
    close(opened);
    return true;
}

static struct host_mount *new_mount(struct inode_table *table, const char *name, const struct statx *stat)
{
    struct host_mount *mount = calloc(1, sizeof(*mount) + strlen(name) + 1);

    if (!mount)
        return NULL;
    strcpy(mount->name, name);
    mount->mnt_id = stat->stx_mnt_id;
    mount->dev = host_dev(stat);
    mount->root_ino = stat->stx_ino;
    mount->root_type = stat->stx_mode & S_IFMT;
    mount->refs = 1;
    mount->fd = -1;
    mount->has_handles = table->handles_wanted;
    pthread_mutex_init(&mount->lock, NULL);
    return mount;
}

int host_mount_new_source(struct inode_table *table, int source_fd, const struct statx *stat, struct host_mount **out)
{
    struct host_mount *mount = new_mount(table, "", stat);

    if (!mount)
        return -ENOMEM;
    classify(mount, source_fd);
    mount->has_handles = mount->has_handles && try_handles(source_fd, source_fd);
    mount->fd = source_fd;
    mount->users = 1; /* never closed before the table is */
    *out = mount;
    return 0;
}

/* Whether `stat` is of the mount's root. A handle must not be opened on another file system than its own. */
static bool is_root_of(const struct host_mount *mount, const struct statx *stat)
{
    return mount->mnt_id == stat->stx_mnt_id && mount->dev == host_dev(stat) && mount->root_ino == stat->stx_ino;
}

static struct host_mount *find_locked(struct inode_table *table, const struct host_inode *parent, const char *name, const struct statx *stat)
{
    struct host_mount *mount = table->mounts[stat->stx_mnt_id % HOST_MOUNT_BUCKETS];

    while (mount && (!is_root_of(mount, stat) || mount->parent != parent || strcmp(mount->name, name)))
        mount = mount->next;
    return mount;
}

/* Makes a mount known. `fd` is open on its root, O_PATH. */
static int add(struct inode_table *table, struct host_inode *parent, const char *name, int fd, const struct statx *stat, struct host_mount **out)
{
    struct host_mount *mount = new_mount(table, name, stat), *other;
    struct host_mount **bucket = &table->mounts[stat->stx_mnt_id % HOST_MOUNT_BUCKETS];

    if (!mount)
        return -ENOMEM;
    classify(mount, fd);
    if (S_ISDIR(stat->stx_mode) && mount->has_handles) {
        int real = host_open_child(fd, ".", O_RDONLY | O_DIRECTORY, true);
        mount->has_handles = real >= 0 && try_handles(fd, real);
        if (real >= 0)
            close(real);
    }
    __atomic_add_fetch(&parent->refs, 1, __ATOMIC_RELAXED); /* the caller has one */
    mount->parent = parent;
    pthread_mutex_lock(&table->mounts_lock);
    other = find_locked(table, parent, name, stat);
    if (other) {
        other->refs++;
    } else {
        mount->next = *bucket;
        *bucket = mount;
    }
    pthread_mutex_unlock(&table->mounts_lock);
    *out = other ? other : mount;
    if (other) { /* another thread was faster */
        inode_put(table, parent);
        pthread_mutex_destroy(&mount->lock);
        free(mount);
    }
    return 0;
}

int host_mount_find(struct inode_table *table, struct host_inode *parent, const char *name, int fd,
                    const struct statx *stat, bool may_block, struct host_mount **out)
{
    struct host_mount *mount;

    pthread_mutex_lock(&table->mounts_lock);
    mount = find_locked(table, parent, name, stat);
    if (mount)
        mount->refs++;
    pthread_mutex_unlock(&table->mounts_lock);
    *out = mount;
    if (mount)
        return 0;
    return may_block ? add(table, parent, name, fd, stat, out) : -EAGAIN;
}

void host_mount_get(struct inode_table *table, struct host_mount *mount)
{
    pthread_mutex_lock(&table->mounts_lock);
    mount->refs++;
    pthread_mutex_unlock(&table->mounts_lock);
}

void host_mount_put(struct inode_table *table, struct host_mount *mount)
{
    struct host_mount **at = &table->mounts[mount->mnt_id % HOST_MOUNT_BUCKETS];
    bool is_last;

    pthread_mutex_lock(&table->mounts_lock);
    is_last = --mount->refs == 0;
    if (is_last && mount->parent) {
        while (*at != mount)
            at = &(*at)->next;
        *at = mount->next;
    }
    pthread_mutex_unlock(&table->mounts_lock);
    if (!is_last)
        return;
    if (mount->fd >= 0)
        close(mount->fd);
    if (mount->parent)
        inode_put(table, mount->parent);
    pthread_mutex_destroy(&mount->lock);
    free(mount);
}

int host_mount_walk(struct inode_table *table, struct host_mount *mount, int flags, bool may_block)
{
    struct host_path parent;
    struct statx stat;
    int fd = inode_path(table, mount->parent, may_block, &parent);

    if (fd < 0)
        return fd;
    fd = host_open_child(parent.fd, mount->name, flags, may_block);
    host_path_close(&parent);
    if (fd < 0) /* the directory that it was mounted on is gone, or a file is there now */
        return fd == -ENOENT || fd == -ENOTDIR || fd == -ELOOP ? -ESTALE : fd;
    if (host_stat_nowait(fd, &stat) < 0 || !is_root_of(mount, &stat)) {
        close(fd);
        return -ESTALE;
    }
    return fd;
}

int host_mount_enter(struct inode_table *table, struct host_mount *mount, bool may_block)
{
    int fd, walked = -1;

    pthread_mutex_lock(&mount->lock);
    if (mount->fd < 0) { /* the lock is not held over the walk, which may block */
        pthread_mutex_unlock(&mount->lock);
        walked = host_mount_walk(table, mount, O_RDONLY | O_DIRECTORY, may_block);
        if (walked < 0)
            return walked;
        pthread_mutex_lock(&mount->lock);
        if (mount->fd < 0) {
            mount->fd = walked;
            walked = -1;
        }
    }
    mount->users++;
    fd = mount->fd;
    pthread_mutex_unlock(&mount->lock);
    if (walked >= 0)
        close(walked);
    return fd;
}

/* Takes the descriptor from a mount that nothing uses. */
static int take_idle_locked(struct host_mount *mount)
{
    int fd = mount->users || mount->open_files ? -1 : mount->fd;

    if (fd >= 0)
        mount->fd = -1;
    return fd;
}

void host_mount_leave(struct host_mount *mount)
{
    int idle;

    pthread_mutex_lock(&mount->lock);
    mount->users--;
    idle = take_idle_locked(mount);
    pthread_mutex_unlock(&mount->lock);
    if (idle >= 0)
        close(idle);
}

void host_mount_file_opened(struct host_mount *mount)
{
    pthread_mutex_lock(&mount->lock);
    mount->open_files++;
    pthread_mutex_unlock(&mount->lock);
}

void host_mount_file_closed(struct host_mount *mount)
{
    int idle;

    pthread_mutex_lock(&mount->lock);
    mount->open_files--;
    idle = take_idle_locked(mount);
    pthread_mutex_unlock(&mount->lock);
    if (idle >= 0)
        close(idle);
}

/* Not before it is known to be this mount, whose root is a file for ever. */
static int open_mounted_file(struct inode_table *table, struct host_mount *mount)
{
    int fd = host_mount_walk(table, mount, O_PATH, true), opened;

    if (fd < 0)
        return fd;
    opened = host_reopen(table->proc_fd, fd, O_RDONLY | O_NONBLOCK);
    close(fd);
    return opened;
}

/* 1: it was written; 0: there is nothing of ours to write. */
static int sync_mount(struct inode_table *table, struct host_mount *mount)
{
    bool is_file = mount->root_type == S_IFREG;
    int fd, err;

    if (!is_file && mount->root_type != S_IFDIR)
        return 0; /* a device or a socket that is mounted */
    fd = is_file ? open_mounted_file(table, mount) : host_mount_enter(table, mount, true);
    if (fd < 0)
        return fd == -ESTALE ? 0 : fd; /* it was unmounted */
    err = syncfs(fd) < 0 ? -errno : 1;
    if (is_file)
        close(fd);
    else
        host_mount_leave(mount);
    return err;
}

/* All mounts that are known, each with a reference: their number, or a negative errno. */
static int64_t collect(struct inode_table *table, struct host_mount ***out)
{
    struct host_mount **all = NULL;
    size_t count = 0;

    pthread_mutex_lock(&table->mounts_lock);
    for (unsigned i = 0; i < HOST_MOUNT_BUCKETS; i++) {
        for (struct host_mount *mount = table->mounts[i]; mount; mount = mount->next)
            count++;
    }
    all = calloc(count + 1, sizeof(*all));
    count = 0;
    for (unsigned i = 0; all && i < HOST_MOUNT_BUCKETS; i++) {
        for (struct host_mount *mount = table->mounts[i]; mount; mount = mount->next) {
            mount->refs++;
            all[count++] = mount;
        }
    }
    pthread_mutex_unlock(&table->mounts_lock);
    *out = all;
    return all ? (int64_t)count : -ENOMEM;
}

/* 1: it was written; 0: there was nothing to write. Each device is written once, however often it is
 * mounted; `devs` are those that were. */
static int sync_once(struct inode_table *table, struct host_mount *mount, const uint64_t *devs, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        if (devs[i] == mount->dev)
            return 0;
    }
    return sync_mount(table, mount);
}

int host_mounts_sync(struct inode_table *table)
{
    struct host_mount **all;
    int64_t count = collect(table, &all), written = 0;
    uint64_t *devs = count < 0 ? NULL : calloc((size_t)count + 1, sizeof(*devs));
    int err = devs ? 0 : -ENOMEM;

    for (int64_t i = -1; devs && i < count; i++) { /* the source's own mount is not in the list */
        struct host_mount *mount = i < 0 ? table->root->mount : all[i];
        int result = sync_once(table, mount, devs, written);
        if (result > 0)
            devs[written++] = mount->dev;
        else if (result < 0)
            err = err ? err : result;
    }
    for (int64_t i = 0; i < count; i++)
        host_mount_put(table, all[i]);
    if (count >= 0)
        free(all);
    free(devs);
    return err;
}
