/* Capabilities and no_new_privs. Called by the control plane before it has a second thread. */
#include <errno.h>
#include <linux/capability.h>
#include <stdbool.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "sandbox.h"

static int drop_from_bounding_set(uint64_t kept, bool may_drop)
{
    for (unsigned capability = 0; capability < 64; capability++) {
        int held = prctl(PR_CAPBSET_READ, capability, 0, 0, 0);
        if (held < 0)
            break; /* beyond the last one that this kernel knows */
        if (held && !(kept >> capability & 1) && may_drop && prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) < 0)
            return -errno;
    }
    return 0;
}

int vfs_sandbox_keep_capabilities(uint64_t kept)
{
    struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
    struct __user_cap_data_struct sets[2];
    bool may_drop;
    int err;

    if (syscall(SYS_capget, &header, sets) < 0)
        return -errno;
    /* Without CAP_SETPCAP the bounding set cannot shrink, nor matter: nothing is held that it bounds. */
    may_drop = sets[0].effective & 1u << CAP_SETPCAP;
    if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0)
        return -errno;
    err = drop_from_bounding_set(kept, may_drop);
    for (unsigned word = 0; word < 2; word++) {
        sets[word].permitted &= (uint32_t)(kept >> (32 * word));
        sets[word].effective = sets[word].permitted;
        sets[word].inheritable = 0;
    }
    if (!err && syscall(SYS_capset, &header, sets) < 0)
        err = -errno;
    return err;
}

int vfs_sandbox_set_no_new_privs(void) { return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ? -errno : 0; }
