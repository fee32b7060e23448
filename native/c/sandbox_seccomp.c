/*
 * Filters of system calls, built by libseccomp. The tables stand in vhostfs/syscalls.py; here is only how a
 * rule becomes one of libseccomp's.
 *
 * A process may load several filters; the strictest answer counts. A filter cannot be taken back.
 */
#include <errno.h>
#include <seccomp.h>
#include <stdlib.h>

#include "sandbox.h"

struct seccomp_filter {
    scmp_filter_ctx context;
};

static uint32_t libseccomp_action(unsigned action, unsigned error)
{
    if (action == VFS_SECCOMP_ALLOW)
        return SCMP_ACT_ALLOW;
    return action == VFS_SECCOMP_ERRNO ? SCMP_ACT_ERRNO(error) : SCMP_ACT_KILL_PROCESS;
}

struct seccomp_filter *vfs_seccomp_new(unsigned action, unsigned error, int is_logged)
{
    struct seccomp_filter *filter = calloc(1, sizeof(*filter));
    int err = filter ? 0 : -ENOMEM;

    if (!err) {
        filter->context = seccomp_init(libseccomp_action(action, error));
        if (!filter->context)
            err = -ENOMEM;
    }
    if (!err)
        err = seccomp_attr_set(filter->context, SCMP_FLTATR_CTL_NNP, 0); /* ours to set, or not */
    if (!err)
        err = seccomp_attr_set(filter->context, SCMP_FLTATR_CTL_TSYNC, 1);
    if (!err && is_logged)
        err = seccomp_attr_set(filter->context, SCMP_FLTATR_CTL_LOG, 1);
    if (!err)
        err = seccomp_attr_set(filter->context, SCMP_FLTATR_CTL_OPTIMIZE, 2); /* a tree, not a list */
    if (!err)
        err = seccomp_attr_set(filter->context, SCMP_FLTATR_API_SYSRAWRC, 1); /* the kernel's own errno */
    if (err) {
        vfs_seccomp_free(filter);
        errno = -err;
        return NULL;
    }
    return filter;
}

void vfs_seccomp_free(struct seccomp_filter *filter)
{
    if (filter && filter->context)
        seccomp_release(filter->context);
    free(filter);
}

static struct scmp_arg_cmp comparison(const struct vfs_seccomp_condition *condition)
{
    if (condition->compare == VFS_COMPARE_MASKED_EQUAL)
        return SCMP_CMP64(condition->argument, SCMP_CMP_MASKED_EQ, condition->mask, condition->value);
    return SCMP_CMP64(condition->argument, condition->compare == VFS_COMPARE_EQUAL ? SCMP_CMP_EQ : SCMP_CMP_GT,
                      condition->value, 0);
}

int vfs_seccomp_add(struct seccomp_filter *filter, unsigned action, unsigned error, const char *name,
                    const struct vfs_seccomp_condition *conditions, unsigned count)
{
    struct scmp_arg_cmp comparisons[6];
    int number = seccomp_syscall_resolve_name(name);

    if (number == __NR_SCMP_ERROR)
        return -EOPNOTSUPP;
    if (count > 6)
        return -EINVAL;
    for (unsigned i = 0; i < count; i++) {
        if (conditions[i].argument > 5)
            return -EINVAL;
        comparisons[i] = comparison(&conditions[i]);
    }
    /* (a call that this machine does not have is no error: libseccomp leaves the rule out) */
    return seccomp_rule_add_array(filter->context, libseccomp_action(action, error), number, count, comparisons);
}

int vfs_seccomp_load(struct seccomp_filter *filter) { return seccomp_load(filter->context); }
