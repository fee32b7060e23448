/*
 * Landlock by its system calls; the C library has no wrappers. Which rights an ABI knows is the caller's
 * business (native/sandbox.py); our own struct carries fields that older headers lack.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/landlock.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "sandbox.h"

/* struct landlock_ruleset_attr as of ABI 6. An older kernel takes it while the fields that it lacks are 0. */
struct ruleset_attr {
    uint64_t handled_access_fs;
    uint64_t handled_access_net;
    uint64_t scoped;
};

int vfs_landlock_abi(void)
{
    long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);

    return abi < 0 ? 0 : (int)abi;
}

int vfs_landlock_new(uint64_t access_fs, uint64_t access_net, uint64_t scoped)
{
    struct ruleset_attr attr = { access_fs, access_net, scoped };
    int ruleset = (int)syscall(SYS_landlock_create_ruleset, &attr, sizeof(attr), 0);

    return ruleset < 0 ? -errno : ruleset;
}

int vfs_landlock_allow(int ruleset, const char *path, uint64_t access_fs)
{
    struct landlock_path_beneath_attr rule = { .allowed_access = access_fs };
    int err = 0;

    rule.parent_fd = open(path, O_PATH | O_CLOEXEC);
    if (rule.parent_fd < 0)
        return -errno;
    if (syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) < 0)
        err = -errno;
    close(rule.parent_fd);
    return err;
}

int vfs_landlock_restrict(int ruleset) { return syscall(SYS_landlock_restrict_self, ruleset, 0) < 0 ? -errno : 0; }
