/*
 * The virtqueues of a device, one at a time: what SET_VRING_* asks for. Called as device.c is.
 */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "barrier.h"
#include "device_struct.h"

static struct queue *queue_at(struct vfs_device *device, unsigned index)
{
    return index < device->queue_count ? &device->queues[index] : NULL;
}

/* Changes of one queue: paused if it runs, resumed after. */
static struct queue *begin_change(struct vfs_device *device, unsigned index)
{
    struct queue *queue = queue_at(device, index);

    if (queue) {
        queue_pause_begin(queue);
        queue_pause_wait(queue);
    }
    return queue;
}

void vfs_device_set_features(struct vfs_device *device, int indirect, int event_idx)
{
    for (unsigned i = 0; i < device->queue_count; i++) {
        struct queue *queue = begin_change(device, i);
        queue->vq.indirect = indirect;
        queue->vq.event_idx = event_idx;
        queue_resume(queue);
    }
}

int vfs_vring_set_num(struct vfs_device *device, unsigned index, uint32_t num)
{
    struct queue *queue = queue_at(device, index);

    if (!queue || num == 0 || num > VRING_MAX_NUM || (num & (num - 1)))
        return -EINVAL;
    if (queue->started)
        return -EBUSY; /* all that is sized by it is in use */
    queue->vq.num = num;
    (void)vring_resolve(&queue->vq, &device->memory); /* addresses that do not fit the size may be given anew */
    return 0;
}

int vfs_vring_set_addr(struct vfs_device *device, unsigned index, uint64_t desc, uint64_t avail, uint64_t used)
{
    struct queue *queue = begin_change(device, index);
    int err;

    if (!queue)
        return -EINVAL;
    queue->vq.desc_user_addr = desc;
    queue->vq.avail_user_addr = avail;
    queue->vq.used_user_addr = used;
    queue->vq.has_addresses = true;
    err = vring_resolve(&queue->vq, &device->memory);
    queue_resume(queue);
    return err;
}

int vfs_vring_set_base(struct vfs_device *device, unsigned index, uint32_t base)
{
    struct queue *queue = queue_at(device, index);

    if (!queue || base > UINT16_MAX)
        return -EINVAL;
    if (queue->started)
        return -EBUSY;
    queue->vq.next_avail = (uint16_t)base;
    return 0;
}

/* An fd that a queue thread will write to. It must not wait for a front-end that does not read: a
 * full counter or pipe would hold the thread, and whoever pauses it, for ever. */
void device_replace_fd(int *fd, int new_fd)
{
    if (*fd >= 0)
        close(*fd);
    if (new_fd >= 0)
        (void)fcntl(new_fd, F_SETFL, fcntl(new_fd, F_GETFL) | O_NONBLOCK);
    *fd = new_fd;
}

int vfs_vring_set_kick(struct vfs_device *device, unsigned index, int fd)
{
    struct queue *queue = queue_at(device, index);

    if (!queue || !queue->vq.num || !queue->vq.used)
        return -EINVAL; /* no size, or no areas in guest memory yet */
    queue_stop(queue, 0); /* a new kick fd starts the ring over, where it stands */
    /* Where the driver left off: what was popped and not answered before is gone. */
    queue->vq.next_used = shared_load_relaxed(&queue->vq.used->idx);
    queue->vq.signalled_used_valid = false;
    return queue_start(queue, fd);
}

int vfs_vring_set_call(struct vfs_device *device, unsigned index, int fd)
{
    struct queue *queue = begin_change(device, index);

    if (!queue)
        return -EINVAL;
    device_replace_fd(&queue->call_fd, fd);
    queue->vq.signalled_used_valid = false; /* the new fd has told the driver nothing yet */
    queue_resume(queue);
    return 0;
}

int vfs_vring_set_err(struct vfs_device *device, unsigned index, int fd)
{
    struct queue *queue = begin_change(device, index);

    if (!queue)
        return -EINVAL;
    device_replace_fd(&queue->err_fd, fd);
    queue_resume(queue);
    return 0;
}

int vfs_vring_set_enable(struct vfs_device *device, unsigned index, int enabled)
{
    struct queue *queue = begin_change(device, index);

    if (!queue)
        return -EINVAL;
    queue->enabled = enabled;
    queue_resume(queue);
    return 0;
}

int64_t vfs_vring_stop(struct vfs_device *device, unsigned index, unsigned drain_ms)
{
    struct queue *queue = queue_at(device, index);

    if (!queue)
        return -EINVAL;
    queue_stop(queue, drain_ms);
    return queue->vq.next_avail;
}
