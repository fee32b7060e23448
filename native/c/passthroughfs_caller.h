/*
 * Acting for the guest's process: what it makes belongs to it, with its umask, groups and label.
 *
 * Everything else is done with our own rights: the guest's kernel has checked the caller's
 * (a virtio-fs driver always does), and knows capabilities and groups that we do not.
 */
#ifndef VHOSTFS_PASSTHROUGHFS_CALLER_H
#define VHOSTFS_PASSTHROUGHFS_CALLER_H
#include <stdbool.h>
#include <stdint.h>

#include "fuse_server.h"

/* What follows the names of a request that makes something. */
struct caller_extensions {
    bool has_group;
    uint32_t group; /* that the caller is in, and the directory's */
    const char *label_name; /* an extended attribute for what is made; NULL: none */
    const uint8_t *label;
    uint32_t label_size;
};

/* Parses what lies from `at` of request->args on. -EINVAL: it is not what the protocol says. */
int caller_parse_extensions(const struct fuse_server *server, const struct fuse_request *request, uint32_t at,
                            struct caller_extensions *extensions);

/* Makes the calling thread act as the request's uid and gid, with `umask`, until caller_end. The
 * rights of our own that outlive the change of uid are those that do not concern files, and
 * CAP_DAC_OVERRIDE: the caller's process may have had it, which the request does not tell. overlayfs
 * makes what belongs to an ordinary user by rights of its own, in a work directory of mode 0.
 * `extensions` NULL: no group, and without that right. */
int caller_begin(const struct fuse_server *server, const struct fuse_request *request,
                 const struct caller_extensions *extensions, uint32_t umask);
/* Ends the process if the thread cannot be made us again, as caller_restore_fsetid does. */
void caller_end(const struct fuse_request *request);

/* Lets the kernel clear set-user-id and set-group-id bits as it does for an ordinary writer. With
 * `gid` other than -1, as for one who is in this group only. */
int caller_drop_fsetid(int64_t gid);
void caller_restore_fsetid(int64_t gid);
#endif
