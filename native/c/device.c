/*
 * The virtio-fs device: guest memory, its virtqueues, and what they serve.
 *
 * Called by the control plane alone, one call at a time. Whatever a running queue reads is changed
 * between pause and resume; a queue that is not started may be changed freely.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "barrier.h"
#include "device_struct.h"
#include "image_api.h"
#include "namespace.h"
#include "passthroughfs.h"
#include "queue.h"
#include "rafsfs.h"

#define MAX_QUEUES 65 /* hiprio and 64 request queues */

static int init_queue(struct vfs_device *device, unsigned index)
{
    struct queue *queue = &device->queues[index];
    int err = queue_init(queue);

    if (err)
        return err;
    queue->index = index;
    queue->server = queue->lot.server = &device->server;
    queue->memory = &device->memory;
    queue->lot.pools = &device->pools;
    queue->lot.timeout_ns = &device->limits.miss_timeout_ns;
    queue->limits = &device->limits;
    device->queue_count++;
    chunk_store_add_waiter(device->store, &queue->lot.waiter);
    fuse_add_context(&device->server, &queue->lot.context);
    return 0;
}

static void init_pool(struct vfs_device *device, struct io_pool *pool, struct fuse_context *contexts)
{
    io_pool_init(pool);
    for (unsigned i = 0; i < IO_POOL_THREADS; i++) {
        pool->contexts[i] = &contexts[i];
        fuse_add_context(&device->server, &contexts[i]);
    }
}

struct vfs_device *vfs_device_new(struct chunk_store *store, unsigned queues, int is_shared, uint64_t miss_timeout_ns, uint64_t poll_ns)
{
    struct vfs_device *device = NULL;
    int err = queues == 1 || queues > MAX_QUEUES ? -EINVAL : 0;

    if (!err)
        device = calloc(1, sizeof(*device) + queues * sizeof(device->queues[0]));
    if (!err && !device)
        err = -ENOMEM;
    if (err) {
        errno = -err;
        return NULL;
    }
    device->store = device->server.store = store;
    device->server.profile = is_shared ? FUSE_PROFILE_SHARED : FUSE_PROFILE_IMMUTABLE;
    device->proc_fd = open("/proc/self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC); /* asked for when it is needed */
    device->limits = (struct queue_limits){ miss_timeout_ns, poll_ns };
    init_pool(device, &device->pools.disk, device->pool_contexts[0]);
    init_pool(device, &device->pools.host, device->pool_contexts[1]);
    init_pool(device, &device->pools.remote, device->pool_contexts[2]);
    err = fuse_mounts_init(&device->server);
    if (!err)
        err = namespace_init(&device->namespace, &device->server);
    for (unsigned i = 0; i < queues && !err; i++)
        err = init_queue(device, i);
    if (err) {
        vfs_device_free(device);
        errno = -err;
        return NULL;
    }
    return device;
}

void vfs_device_free(struct vfs_device *device)
{
    vfs_device_reset(device);
    io_pool_destroy(&device->pools.disk);
    io_pool_destroy(&device->pools.host);
    io_pool_destroy(&device->pools.remote);
    for (unsigned i = 0; i < device->queue_count; i++) {
        chunk_store_remove_waiter(device->store, &device->queues[i].lot.waiter);
        queue_destroy(&device->queues[i]);
    }
    fuse_mounts_destroy(&device->server);
    namespace_destroy(&device->namespace);
    if (device->proc_fd >= 0)
        close(device->proc_fd);
    free(device);
}

struct fuse_server *device_server(struct vfs_device *device) { return &device->server; }
struct namespace *device_namespace(struct vfs_device *device) { return &device->namespace; }
struct io_pools *device_pools(struct vfs_device *device) { return &device->pools; }
const uint64_t *device_miss_timeout(const struct vfs_device *device) { return &device->limits.miss_timeout_ns; }

static int mount(struct vfs_device *device, const char *path, struct fuse_fs *fs, struct fuse_counters *counters)
{
    int err;

    if (fs)
        fs->counters = counters;
    err = fs ? namespace_mount(&device->namespace, path, fs) : -ENOMEM;

    if (err && fs)
        fs->type->free(fs);
    return err;
}

int vfs_device_mount_image(struct vfs_device *device, const char *path, const struct vfs_image *image, struct blob **blobs,
                           struct fuse_counters *counters)
{
    if (image->rafs.flags & RAFS_FLAG_HAS_XATTR)
        device->server.has_xattrs = true;
    return mount(device, path, rafsfs_new(&image->rafs, blobs), counters);
}

static uint64_t wanted_flags(uint32_t flags)
{
    return (flags & VFS_DIRECTORY_WRITEBACK ? FUSE_WRITEBACK_CACHE : 0) |
           (flags & VFS_DIRECTORY_LOCKS ? FUSE_POSIX_LOCKS | FUSE_FLOCK_LOCKS : 0) |
           (flags & VFS_DIRECTORY_SUBMOUNTS ? FUSE_SUBMOUNTS : 0);
}

int vfs_device_mount_directory(struct vfs_device *device, const char *path, int source_fd, const struct vfs_directory_options *options,
                               struct fuse_counters *counters)
{
    struct fuse_fs *fs;
    int err, kept;

    if (device->server.profile != FUSE_PROFILE_SHARED)
        return -EINVAL;
    kept = fcntl(source_fd, F_DUPFD_CLOEXEC, 0); /* the caller keeps its own until all is well */
    if (kept < 0)
        return -errno;
    err = passthroughfs_new(&device->server, kept, device->proc_fd, options, &fs);
    if (err) {
        close(kept);
        return err;
    }
    err = mount(device, path, fs, counters);
    if (err)
        return err;
    __atomic_or_fetch(&device->server.wanted_flags, wanted_flags(options->flags), __ATOMIC_RELAXED);
    close(source_fd);
    return 0;
}

int vfs_device_directory_facts(struct vfs_device *device, const char *path, struct vfs_directory_facts *facts)
{
    struct fuse_fs *fs;
    int err = namespace_find(&device->namespace, path, &fs);

    return err ? err : passthroughfs_facts(fs, facts);
}

void vfs_device_serve_host(struct vfs_device *device)
{
    device->server.is_on_host = true;
    device->server.has_xattrs = true; /* of images that are mounted after INIT */
}

int vfs_device_make_directory(struct vfs_device *device, const char *path) { return namespace_make_directory(&device->namespace, path); }

int vfs_device_node(const struct vfs_device *device, uint32_t number, char *path, size_t size, uint16_t *index)
{
    return namespace_node(&device->namespace, number, path, size, index);
}

void vfs_device_next_index(struct vfs_device *device, uint16_t index) { device->server.last_index = (uint16_t)(index - 1); }

int vfs_device_umount(struct vfs_device *device, const char *path) { return namespace_umount(&device->namespace, path); }

void vfs_device_pause(struct vfs_device *device)
{
    for (unsigned i = 0; i < device->queue_count; i++)
        queue_pause_begin(&device->queues[i]);
    for (unsigned i = 0; i < device->queue_count; i++)
        queue_pause_wait(&device->queues[i]);
}

int vfs_device_resume(struct vfs_device *device)
{
    int err = 0;

    for (unsigned i = 0; i < device->queue_count; i++) {
        struct queue *queue = &device->queues[i];
        if (vring_resolve(&queue->vq, &device->memory) && queue->started)
            err = -EFAULT; /* such a ring stands still until its areas are given anew */
        queue_resume(queue);
    }
    return err;
}

int vfs_device_add_region(struct vfs_device *device, uint64_t gpa, uint64_t size, uint64_t user_addr, uint64_t mmap_offset, int fd)
{
    return gpa_add_region(&device->memory, gpa, size, user_addr, mmap_offset, fd);
}

int vfs_device_remove_region(struct vfs_device *device, uint64_t gpa, uint64_t size, uint64_t user_addr)
{
    return gpa_remove_region(&device->memory, gpa, size, user_addr);
}

void vfs_device_clear_regions(struct vfs_device *device) { gpa_clear(&device->memory); }

void vfs_device_reset(struct vfs_device *device)
{
    for (unsigned i = 0; i < device->queue_count; i++) {
        struct queue *queue = &device->queues[i];
        queue_stop(queue, 0);
        device_replace_fd(&queue->call_fd, -1);
        device_replace_fd(&queue->err_fd, -1);
        queue->vq = (struct virtqueue){ 0 };
        queue->enabled = false;
    }
    gpa_clear(&device->memory);
    __atomic_store_n(&device->server.has_session, false, __ATOMIC_RELEASE);
    if (device->server.mounts)
        fuse_end_session(&device->server, NULL);
}

int vfs_device_session_terms(const struct vfs_device *device, struct vfs_session_terms *terms)
{
    const struct fuse_server *server = &device->server;

    if (!__atomic_load_n(&server->has_session, __ATOMIC_ACQUIRE))
        return -ENOTCONN;
    *terms = (struct vfs_session_terms){ .flags = server->flags, .minor = server->minor };
    return 0;
}

int vfs_device_adopt_session(struct vfs_device *device, const struct vfs_session_terms *terms)
{
    struct fuse_server *server = &device->server;

    if (terms->minor < FUSE_OLDEST_MINOR || terms->minor > FUSE_OUR_MINOR)
        return -EPROTO;
    server->flags = terms->flags;
    server->minor = terms->minor;
    __atomic_store_n(&server->has_session, true, __ATOMIC_RELEASE);
    return 0;
}

int vfs_device_statistics(const struct vfs_device *device, unsigned index, struct vfs_statistics *statistics)
{
    const uint64_t *from;
    uint64_t *to = (uint64_t *)statistics;

    if (index >= device->queue_count)
        return -EINVAL;
    from = (const uint64_t *)&device->queues[index].statistics;
    for (size_t i = 0; i < sizeof(*statistics) / sizeof(*to); i++)
        to[i] = shared_load_relaxed(&from[i]);
    return 0;
}
