/*
 * A request of a host mount that waits. It keeps what was read; the buffer for its reply, which may
 * be a megabyte, it gets when it runs again: the lot's, or one of its own in the pool.
 */
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "fusedev.h"

#define COPY_LIMIT (16u << 10) /* what is longer is not copied: the channel gives its buffer away */

struct fusedev_parked {
    struct parked parked; /* first */
    struct vfs_session *session;
    int fd;
    bool is_answered;
    struct fusedev_waiting waiting;
    struct iovec readable, writable, scratch[4];
    uint8_t *given; /* the channel's buffer, or NULL: the bytes follow */
    uint8_t *reply; /* of a run in the pool */
    uint8_t header[sizeof(struct fuse_out_header)];
};

void fusedev_send(struct vfs_session *session, int fd, const void *reply, int64_t size)
{
    if (size > 0)
        (void)!write(fd, reply, (size_t)size); /* ENOENT: interrupted; ENODEV: unmounted */
}

static void list(struct fusedev_parked *copy)
{
    struct vfs_session *session = copy->session;
    const struct fuse_in_header *in = &copy->parked.request.in;
    struct fusedev_waiting *waiting = &copy->waiting;
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    waiting->told = (struct vfs_in_flight){ .unique = in->unique, .nodeid = in->nodeid, .since_s = (uint64_t)now.tv_sec, .opcode = in->opcode };
    pthread_mutex_lock(&session->lock);
    waiting->next = session->waiting;
    waiting->at = &session->waiting;
    if (waiting->next)
        waiting->next->at = &waiting->next;
    session->waiting = waiting;
    pthread_mutex_unlock(&session->lock);
}

static void unlist(struct fusedev_parked *copy)
{
    pthread_mutex_lock(&copy->session->lock);
    *copy->waiting.at = copy->waiting.next;
    if (copy->waiting.next)
        copy->waiting.next->at = copy->waiting.at;
    pthread_mutex_unlock(&copy->session->lock);
}

/* Bytes that a reply to it may have. */
static size_t reply_size(const struct fuse_request *request)
{
    size_t payload = 8 << 10; /* more than any fixed part, name or link */

    switch (request->in.opcode) {
    case FUSE_READ:
    case FUSE_READDIR:
    case FUSE_READDIRPLUS:
        payload = ((const struct fuse_read_in *)request->args)->size;
        break;
    case FUSE_GETXATTR:
    case FUSE_LISTXATTR:
        payload += ((const struct fuse_getxattr_in *)request->args)->size;
        break;
    }
    return sizeof(struct fuse_out_header) + (payload < FUSE_MAX_IO ? payload : FUSE_MAX_IO);
}

static void set_writable(struct fusedev_parked *copy, void *base, size_t size)
{
    copy->writable = (struct iovec){ base, size };
    copy->parked.request.writable_size = size;
}

static bool prepare(struct parked *parked, bool in_pool)
{
    struct fusedev_parked *copy = (struct fusedev_parked *)parked;

    if (!in_pool) {
        set_writable(copy, copy->session->lot_reply, FUSEDEV_REPLY_SIZE);
        return true;
    }
    size_t size = reply_size(&parked->request);
    if (!copy->reply)
        copy->reply = malloc(size);
    if (copy->reply)
        set_writable(copy, copy->reply, size);
    else
        set_writable(copy, copy->header, sizeof(copy->header));
    return copy->reply;
}

/* By the pool thread that has the result, without a detour to the lot's. */
static void answer(struct parked *parked)
{
    struct fusedev_parked *copy = (struct fusedev_parked *)parked;

    fusedev_send(copy->session, copy->fd, copy->writable.iov_base, parked->result);
    copy->is_answered = true;
}

static void finish(struct parked *parked, int64_t result)
{
    struct fusedev_parked *copy = (struct fusedev_parked *)parked;

    if (!copy->is_answered && !copy->session->is_abandoned)
        fusedev_send(copy->session, copy->fd, copy->writable.iov_base, result);
    unlist(copy);
    free(copy->reply);
    free(copy->given);
    free(copy);
}

const struct parking_type fusedev_parking = { .prepare = prepare, .answer = answer, .finish = finish };

void fusedev_park(struct fusedev_channel *channel, const struct fuse_request *request, size_t size)
{
    bool gives = size > COPY_LIMIT;
    uint8_t *fresh = gives ? malloc(FUSEDEV_REQUEST_SIZE) : NULL;
    size_t bytes = sizeof(struct fusedev_parked) + (gives ? 0 : size);
    struct fusedev_parked *copy = gives && !fresh ? NULL : malloc(bytes);
    uint8_t *base;

    if (!copy) {
        free(fresh);
        if (request->wait_blob)
            blob_put(request->wait_blob);
        fusedev_send(channel->session, channel->fd, channel->reply, fuse_reply_error(request, -ENOMEM));
        return;
    }
    *copy = (struct fusedev_parked){ .parked = { .request = *request, .bytes = bytes + (gives ? FUSEDEV_REQUEST_SIZE : 0) },
                                     .session = channel->session,
                                     .fd = channel->fd };
    if (gives) {
        base = copy->given = channel->request;
        channel->request = fresh;
    } else {
        base = memcpy(copy + 1, channel->request, size);
    }
    copy->readable = (struct iovec){ base, size };
    copy->parked.request.args = base + sizeof(struct fuse_in_header);
    copy->parked.request.readable = &copy->readable;
    copy->parked.request.writable = &copy->writable;
    copy->parked.request.scratch = copy->scratch;
    list(copy);
    parking_lot_bring(&channel->session->lot, &copy->parked);
}
