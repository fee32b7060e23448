/* What other transports than its virtqueues, and other files of its API, use of a device. */
#ifndef VHOSTFS_DEVICE_H
#define VHOSTFS_DEVICE_H
#include <stdint.h>

struct vfs_device;
struct fuse_server;
struct io_pools;
struct namespace;

struct namespace *device_namespace(struct vfs_device *device);
struct fuse_server *device_server(struct vfs_device *device);
struct io_pools *device_pools(struct vfs_device *device);
const uint64_t *device_miss_timeout(const struct vfs_device *device); /* ns; it does not change */
#endif
