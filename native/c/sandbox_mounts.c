/*
 * A mount namespace with a root of our making. Called by the control plane before it has a second thread.
 *
 * The namespace is a slave of the one we come from: what is mounted or unmounted there, below a tree that
 * we have bound, is mounted or unmounted here too, and nothing goes the other way. A copy of a mount must
 * never keep its original busy, so the old root is dropped as a whole.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "sandbox.h"

/* <sys/mount.h> clashes with <linux/mount.h> in some versions of the C library; this is all we need of it. */
extern int mount(const char *source, const char *target, const char *type, unsigned long flags, const void *data);
extern int umount2(const char *target, int flags);
#define UMOUNT_DETACH 2

static int write_file(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    int err = fd < 0 ? -errno : 0;

    if (!err && write(fd, text, strlen(text)) < 0)
        err = -errno;
    if (fd >= 0)
        close(fd);
    return err;
}

static int map_ids(unsigned uid, unsigned gid)
{
    char map[64];
    int err = write_file("/proc/self/setgroups", "deny"); /* the kernel's condition for a gid map without privilege */

    snprintf(map, sizeof(map), "%u %u 1", uid, uid);
    if (!err)
        err = write_file("/proc/self/uid_map", map);
    snprintf(map, sizeof(map), "%u %u 1", gid, gid);
    return err ? err : write_file("/proc/self/gid_map", map);
}

int vfs_sandbox_unshare(int with_user, int with_network)
{
    unsigned uid = geteuid(), gid = getegid(); /* as they are outside */
    int flags = CLONE_NEWNS | (with_user ? CLONE_NEWUSER : 0);
    int err;

    /* Without a network namespace, where none can be had, the filter of system calls is what is left. */
    if (!with_network || unshare(flags | CLONE_NEWNET) < 0) {
        if (unshare(flags) < 0)
            return -errno;
    }
    err = with_user ? map_ids(uid, gid) : 0;
    if (!err && mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0)
        err = -errno;
    return err;
}

int vfs_sandbox_mount_tmpfs(const char *target)
{
    return mount("vhostfs", target, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0755,size=1m") < 0 ? -errno : 0;
}

int vfs_sandbox_umount(const char *target) { return umount2(target, UMOUNT_DETACH) < 0 ? -errno : 0; }

static uint64_t attributes(unsigned flags)
{
    return (flags & VFS_MOUNT_RDONLY ? MOUNT_ATTR_RDONLY : 0) | (flags & VFS_MOUNT_NOSUID ? MOUNT_ATTR_NOSUID : 0) |
           (flags & VFS_MOUNT_NODEV ? MOUNT_ATTR_NODEV : 0) | (flags & VFS_MOUNT_NOEXEC ? MOUNT_ATTR_NOEXEC : 0);
}

static int set_attributes(int dir_fd, const char *path, unsigned at_flags, unsigned flags)
{
    struct mount_attr attr = { .attr_set = attributes(flags) };

    return syscall(SYS_mount_setattr, dir_fd, path, at_flags, &attr, sizeof(attr)) < 0 ? -errno : 0;
}

int vfs_sandbox_bind(const char *source, const char *target, unsigned flags, int recursive)
{
    unsigned at_flags = recursive ? AT_RECURSIVE : 0;
    int tree = (int)syscall(SYS_open_tree, AT_FDCWD, source, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | at_flags);
    int err = tree < 0 ? -errno : 0;

    /* The copy gets its flags before anybody can reach it. */
    if (!err)
        err = set_attributes(tree, "", AT_EMPTY_PATH | at_flags, flags);
    if (!err && syscall(SYS_move_mount, tree, "", AT_FDCWD, target, MOVE_MOUNT_F_EMPTY_PATH) < 0)
        err = -errno;
    if (tree >= 0)
        close(tree);
    return err;
}

int vfs_sandbox_set_mount_flags(const char *target, unsigned flags) { return set_attributes(AT_FDCWD, target, 0, flags); }

int vfs_sandbox_pivot(const char *path)
{
    /* pivot_root(".", ".") puts the old root on top of the new one, at the same place, from where it is detached. */
    if (chdir(path) < 0 || syscall(SYS_pivot_root, ".", ".") < 0 || umount2(".", UMOUNT_DETACH) < 0 || chdir("/") < 0)
        return -errno;
    return 0;
}
