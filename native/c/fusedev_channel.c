/* A thread that reads requests from /dev/fuse and answers what does not have to wait. See fusedev.h. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "fusedev.h"
#include "monotonic.h"

#define CHANNEL_STACK (512 << 10)
/* Ends a read that waits. No other way wakes one channel of many that share a descriptor, and to poll
 * first would cost each request a system call. */
#define CHANNEL_SIGNAL (SIGRTMIN + 6)

static void nothing(int number) { (void)number; }

static void note_interrupt(struct vfs_session *session, const struct fuse_request *request)
{
    const struct fuse_interrupt_in *in = (const struct fuse_interrupt_in *)request->args;

    if (request->args_size < sizeof(*in))
        return;
    pthread_mutex_lock(&session->lock);
    session->interrupts[session->next_interrupt++ % FUSEDEV_INTERRUPTS] =
        (struct fusedev_interrupt){ in->unique, monotonic_ns() + FUSEDEV_INTERRUPT_NS };
    pthread_mutex_unlock(&session->lock);
    parking_lot_wake(&session->lot);
}

static void serve(struct fusedev_channel *channel, size_t size)
{
    struct vfs_session *session = channel->session;
    struct iovec readable = { channel->request, size }, writable = { channel->reply, FUSEDEV_REPLY_SIZE }, scratch[4];
    struct fuse_request request = {
        .args = channel->request + sizeof(request.in),
        .args_size = (uint32_t)(size - sizeof(request.in) < FUSE_MAX_COPIED ? size - sizeof(request.in) : FUSE_MAX_COPIED),
        .readable = &readable,
        .readable_count = 1,
        .writable = &writable,
        .writable_count = 1,
        .writable_size = writable.iov_len,
        .scratch = scratch,
        .context = &channel->context,
    };
    int64_t result;

    memcpy(&request.in, channel->request, sizeof(request.in));
    STATISTIC_ADD(&channel->statistics, requests, 1);
    if (request.in.opcode == FUSE_READ)
        STATISTIC_ADD(&channel->statistics, reads, 1);
    if (request.in.opcode == FUSE_INTERRUPT) {
        note_interrupt(session, &request);
        return;
    }
    result = fuse_handle(session->server, &request);
    if (result == FUSE_PARKED) {
        fusedev_park(channel, &request, size);
        return;
    }
    STATISTIC_ADD(&channel->statistics, replies, 1);
    if (request.in.opcode == FUSE_READ && result > (int64_t)sizeof(struct fuse_out_header))
        STATISTIC_ADD(&channel->statistics, read_bytes, (uint64_t)result - sizeof(struct fuse_out_header));
    fusedev_send(session, channel->fd, channel->reply, result);
}

static void *channel_main(void *argument)
{
    struct fusedev_channel *channel = argument;
    struct vfs_session *session = channel->session;

    while (!__atomic_load_n(&session->is_stopping, __ATOMIC_ACQUIRE)) {
        ssize_t size = read(channel->fd, channel->request, FUSEDEV_REQUEST_SIZE);
        if (size >= (ssize_t)sizeof(struct fuse_in_header)) {
            serve(channel, (size_t)size);
        } else if (size >= 0 || (errno != EINTR && errno != EAGAIN && errno != ENOENT)) {
            (void)!eventfd_write(session->ended_fd, 1); /* ENODEV: unmounted, or aborted */
            break;
        }
    }
    __atomic_store_n(&channel->has_ended, true, __ATOMIC_RELEASE);
    return NULL;
}

int fusedev_channel_start(struct fusedev_channel *channel)
{
    struct sigaction action = { .sa_handler = nothing }; /* no SA_RESTART: read returns */
    pthread_attr_t attr;
    sigset_t set, before;
    int err;

    sigaction(CHANNEL_SIGNAL, &action, NULL);
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, CHANNEL_STACK);
    sigfillset(&set); /* all others belong to the interpreter's main thread */
    sigdelset(&set, CHANNEL_SIGNAL);
    pthread_sigmask(SIG_SETMASK, &set, &before);
    channel->has_ended = false;
    err = -pthread_create(&channel->thread, &attr, channel_main, channel);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    channel->started = !err;
    if (!err) {
        char name[16];
        snprintf(name, sizeof(name), "vfs-fuse-%u", (unsigned)(channel - channel->session->channels));
        pthread_setname_np(channel->thread, name);
    }
    return err;
}

/* The signal may come between its look at is_stopping and its read: so it is sent until it is heard. */
void fusedev_channel_stop(struct fusedev_channel *channel)
{
    const struct timespec pause = { .tv_nsec = 1000000 };

    if (!channel->started)
        return;
    while (!__atomic_load_n(&channel->has_ended, __ATOMIC_ACQUIRE)) {
        pthread_kill(channel->thread, CHANNEL_SIGNAL);
        nanosleep(&pause, NULL);
    }
    pthread_join(channel->thread, NULL);
    channel->started = false;
}
