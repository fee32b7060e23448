/*
 * The directories above the mounts: what a guest sees at the root when several file systems are
 * mounted, such as /containers and /rafs/<id>/lowerdir.
 *
 * A pseudofs is never changed: each mount or umount makes a new one and replaces the old one as
 * mount 0 (fuse_replace), so look-ups take no lock. Directories are never removed: a guest may
 * remember them for ever, and a path that was unmounted can be mounted again.
 */
#ifndef VHOSTFS_PSEUDOFS_H
#define VHOSTFS_PSEUDOFS_H
#include "fuse_server.h"

struct pseudo_node {
    char *name; /* shared by all versions of the tree; the caller's */
    uint32_t parent;
    uint32_t first_child, next_sibling; /* node numbers, in ascending order; 0: none */
    uint16_t mount; /* index of what is mounted here; 0: nothing */
};

/* Copies `nodes`. Node 0 is not used, node 1 is the root. NULL: no memory. */
struct fuse_fs *pseudofs_new(struct fuse_server *server, const struct pseudo_node *nodes, uint32_t count);
#endif
