/*
 * What Python may see of the sandbox; native/sandbox.py is its one user. These are mechanisms: which
 * paths, capabilities and system calls a process keeps is decided in vhostfs/sandbox*.py.
 *
 * Functions return 0 or a negative errno unless they say otherwise. All but vfs_seccomp_load act on the
 * calling thread and what it starts later, so they are for a process that has one thread still.
 */
#ifndef VHOSTFS_SANDBOX_H
#define VHOSTFS_SANDBOX_H
#include <stdint.h>

/* ---- mounts (sandbox_mounts.c) ---- */
#define VFS_MOUNT_RDONLY 1
#define VFS_MOUNT_NOSUID 2
#define VFS_MOUNT_NODEV 4
#define VFS_MOUNT_NOEXEC 8

/* A mount namespace of our own that follows the one we come from (MS_SLAVE); with_user: in a new user
 * namespace that maps our ids only; with_network: and, if it can be had, an empty
 * network namespace. */
int vfs_sandbox_unshare(int with_user, int with_network);
int vfs_sandbox_mount_tmpfs(const char *target);
/* The tree at `source` (recursive: and what is mounted below it) appears at `target` too, with these
 * VFS_MOUNT_* set beside those it has. */
int vfs_sandbox_bind(const char *source, const char *target, unsigned flags, int recursive);
int vfs_sandbox_umount(const char *target); /* lazily, with what is mounted below */
int vfs_sandbox_set_mount_flags(const char *target, unsigned flags);
/* `path`, a mount, becomes the root; the old one is let go of. The working directory is / after. */
int vfs_sandbox_pivot(const char *path);

/* ---- privileges (sandbox_privileges.c) ---- */
/* Keeps capabilities whose bits (1 << CAP_*) are set, among those held; ambient and inheritable ones go. */
int vfs_sandbox_keep_capabilities(uint64_t kept);
int vfs_sandbox_set_no_new_privs(void);

/* ---- Landlock (sandbox_landlock.c) ---- */
int vfs_landlock_abi(void); /* 0: the kernel has none */
/* Returns the descriptor of a ruleset that forbids all of `access_fs` (LANDLOCK_ACCESS_FS_*),
 * `access_net` and `scoped`. */
int vfs_landlock_new(uint64_t access_fs, uint64_t access_net, uint64_t scoped);
int vfs_landlock_allow(int ruleset, const char *path, uint64_t access_fs);
int vfs_landlock_restrict(int ruleset);

/* ---- system calls (sandbox_seccomp.c, over libseccomp) ---- */
struct seccomp_filter;

#define VFS_SECCOMP_ALLOW 0
#define VFS_SECCOMP_ERRNO 1
#define VFS_SECCOMP_KILL 2

#define VFS_COMPARE_EQUAL 0        /* argument == value */
#define VFS_COMPARE_MASKED_EQUAL 1 /* (argument & mask) == value */
#define VFS_COMPARE_GREATER 2      /* argument > value, unsigned */

struct vfs_seccomp_condition {
    uint32_t argument; /* 0 to 5, each at most once in a rule */
    uint32_t compare;
    uint64_t mask;
    uint64_t value;
};

/* What no rule matches gets `action` (with `error` if it is VFS_SECCOMP_ERRNO). is_logged: the kernel
 * logs what is refused. NULL: see errno. */
struct seccomp_filter *vfs_seccomp_new(unsigned action, unsigned error, int is_logged);
void vfs_seccomp_free(struct seccomp_filter *filter);
/* All conditions of a rule must hold. -EOPNOTSUPP: libseccomp does not know the system call. */
int vfs_seccomp_add(struct seccomp_filter *filter, unsigned action, unsigned error, const char *name,
                    const struct vfs_seccomp_condition *conditions, unsigned count);
int vfs_seccomp_load(struct seccomp_filter *filter); /* for all threads of the process */
#endif
