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
/* The directory at `path`, made when it is not there: without a mount. */
int namespace_make_directory(struct namespace *namespace, const char *path);
/* The path of node `number` (from FUSE_ROOT_ID + 1 on, in the order of their making), and the index of what
 * is mounted there (0: nothing). Node ids are made of these two numbers: a successor that makes the same
 * directories in the same order, and mounts by the same indexes, has the same ones. -ENOENT: there are no
 * more; -ERANGE: the path is longer than `size`. */
int namespace_node(const struct namespace *namespace, uint32_t number, char *path, size_t size, uint16_t *index);
/* What is mounted at `path`. -ENOENT: nothing is. */
int namespace_find(struct namespace *namespace, const char *path, struct fuse_fs **out);
/* Returns when no request uses the file system any more. -ENOENT: nothing is mounted there. */
int namespace_umount(struct namespace *namespace, const char *path);
#endif
