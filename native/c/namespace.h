/*
 * The mount namespace: paths to mounted file systems. The control plane's side of fuse_mounts.c.
 *
 * Either one file system is mounted at "/", or any number of them below pseudo directories. Paths
 * are absolute; empty components are dropped, "." and ".." are refused.
 */
#ifndef VHOSTFS_NAMESPACE_H
#define VHOSTFS_NAMESPACE_H
#include "fuse_server.h"
#include "pseudofs.h"

struct namespace {
    struct fuse_server *server;
    struct pseudo_node *nodes;
    uint32_t count;
};

int namespace_init(struct namespace *namespace, struct fuse_server *server);
void namespace_destroy(struct namespace *namespace);
/* Takes over `fs` if it returns 0. -EEXIST: something is mounted there, or there are mounts below;
 * -EINVAL: no such path can be; -ENOTDIR: the path leads through another mount. */
int namespace_mount(struct namespace *namespace, const char *path, struct fuse_fs *fs);
/* What is mounted at `path`. -ENOENT: nothing is. */
int namespace_find(struct namespace *namespace, const char *path, struct fuse_fs **out);
/* Returns when no request uses the file system any more. -ENOENT: nothing is mounted there. */
int namespace_umount(struct namespace *namespace, const char *path);
#endif
