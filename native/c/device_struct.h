/* What a device is made of: for device.c and device_vring.c alone. */
#ifndef VHOSTFS_DEVICE_STRUCT_H
#define VHOSTFS_DEVICE_STRUCT_H
#include "device.h"
#include "namespace.h"
#include "queue.h"

struct vfs_device {
    struct chunk_store *store;
    struct fuse_server server;
    struct namespace namespace;
    int proc_fd; /* /proc/self/fd, opened before a sandbox can hide it */
    struct gpa_table memory;
    struct io_pools pools;
    struct fuse_context pool_contexts[3][IO_POOL_THREADS];
    struct queue_limits limits;
    unsigned queue_count;
    struct queue queues[];
};

/* The fd of a queue, replaced by one that never makes its thread wait (device_vring.c). */
void device_replace_fd(int *fd, int new_fd);
#endif
