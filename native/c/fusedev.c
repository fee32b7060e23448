/* The life of a session on /dev/fuse, and the thread of its parking lot. See fusedev.h. */
#include "fusedev.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/uio.h>
#include <unistd.h>

#include "device.h"
#include "monotonic.h"

#define LOT_STACK (512 << 10)
#define LONGEST_SLEEP_MS 60000

/* Answers EINTR to what was interrupted and is parked by now. */
static void carry_out_interrupts(struct vfs_session *session)
{
    struct fusedev_interrupt interrupts[FUSEDEV_INTERRUPTS];
    uint64_t now = monotonic_ns();

    pthread_mutex_lock(&session->lock);
    memcpy(interrupts, session->interrupts, sizeof(interrupts));
    pthread_mutex_unlock(&session->lock);
    for (unsigned i = 0; i < FUSEDEV_INTERRUPTS; i++) {
        uint64_t unique = interrupts[i].unique;
        if (!unique || (now <= interrupts[i].expires_ns && !parking_lot_give_up(&session->lot, unique, -EINTR)))
            continue;
        pthread_mutex_lock(&session->lock);
        if (session->interrupts[i].unique == unique) /* else another one stands there by now */
            session->interrupts[i].unique = 0;
        pthread_mutex_unlock(&session->lock);
    }
}

static int sleep_ms(const struct vfs_session *session, uint64_t deadline)
{
    uint64_t until = session->lot.next_deadline_ns, now;

    if (deadline && (!until || deadline < until))
        until = deadline;
    if (!until)
        return -1;
    now = monotonic_ns();
    until = until > now ? (until - now) / 1000000 + 1 : 0;
    return until < LONGEST_SLEEP_MS ? (int)until : LONGEST_SLEEP_MS;
}

/* Whether nothing is left that could still be answered; past the deadline what waits is failed. */
static bool may_stop(struct vfs_session *session, uint64_t deadline)
{
    struct parking_lot *lot = &session->lot;
    bool pool_is_done;

    pthread_mutex_lock(&lot->lock);
    pool_is_done = !__atomic_load_n(&lot->in_pool, __ATOMIC_RELAXED) && !__atomic_load_n(&lot->arrived, __ATOMIC_RELAXED);
    pthread_mutex_unlock(&lot->lock);
    if (lot->parked && monotonic_ns() >= deadline)
        parking_lot_fail_all(lot);
    return pool_is_done && !lot->parked;
}

static void *lot_main(void *argument)
{
    struct vfs_session *session = argument;
    struct parking_lot *lot = &session->lot;

    for (;;) {
        bool attention = __atomic_exchange_n(&lot->attention, false, __ATOMIC_ACQUIRE);
        uint64_t deadline = __atomic_load_n(&session->stop_deadline_ns, __ATOMIC_ACQUIRE);
        struct pollfd wake = { .fd = lot->wake_fd, .events = POLLIN };
        eventfd_t ignored;

        if (attention || (lot->next_deadline_ns && monotonic_ns() >= lot->next_deadline_ns)) {
            parking_lot_collect(lot);
            parking_lot_scan(lot);
            carry_out_interrupts(session);
        }
        if (deadline && may_stop(session, deadline))
            return NULL;
        if (__atomic_load_n(&lot->attention, __ATOMIC_RELAXED))
            continue;
        poll(&wake, 1, sleep_ms(session, deadline));
        (void)!eventfd_read(lot->wake_fd, &ignored);
    }
}

static int start_lot(struct vfs_session *session)
{
    pthread_attr_t attr;
    sigset_t all, before;
    int err;

    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, LOT_STACK);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    err = -pthread_create(&session->lot_thread, &attr, lot_main, session);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    session->lot_started = !err;
    if (!err)
        pthread_setname_np(session->lot_thread, "vfs-fuse-lot");
    return err;
}

static int init_channel(struct vfs_session *session, struct fusedev_channel *channel, int fd)
{
    channel->session = session;
    channel->fd = fd;
    channel->request = malloc(FUSEDEV_REQUEST_SIZE);
    channel->reply = malloc(FUSEDEV_REPLY_SIZE);
    fuse_add_context(session->server, &channel->context);
    return channel->request && channel->reply ? 0 : -ENOMEM;
}

static void free_session(struct vfs_session *session)
{
    chunk_store_remove_waiter(session->store, &session->lot.waiter);
    for (unsigned i = 0; i < session->channel_count; i++) {
        fuse_remove_context(session->server, &session->channels[i].context);
        free(session->channels[i].request);
        free(session->channels[i].reply);
    }
    fuse_remove_context(session->server, &session->lot.context);
    parking_lot_destroy(&session->lot);
    pthread_mutex_destroy(&session->lock);
    if (session->ended_fd >= 0)
        close(session->ended_fd);
    free(session->lot_reply);
    free(session);
}

int vfs_session_new(struct vfs_device *device, const int *fds, unsigned fd_count, unsigned channels, struct vfs_session **out)
{
    struct vfs_session *session;
    int err;

    if (fd_count == 0 || channels < fd_count || channels > FUSEDEV_MAX_CHANNELS)
        return -EINVAL;
    session = calloc(1, sizeof(*session) + channels * sizeof(session->channels[0]));
    if (!session)
        return -ENOMEM;
    session->server = session->lot.server = device_server(device);
    session->store = session->server->store;
    session->fd_count = fd_count;
    session->lot.type = &fusedev_parking;
    session->lot.pools = device_pools(device);
    session->lot.timeout_ns = device_miss_timeout(device);
    session->lot.statistics = &session->lot_statistics;
    pthread_mutex_init(&session->lock, NULL);
    session->ended_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    err = session->ended_fd < 0 ? -errno : 0;
    session->lot_reply = malloc(FUSEDEV_REPLY_SIZE);
    if (!session->lot_reply)
        err = -ENOMEM;
    if (parking_lot_init(&session->lot))
        err = -EMFILE;
    fuse_add_context(session->server, &session->lot.context);
    chunk_store_add_waiter(session->store, &session->lot.waiter);
    for (; session->channel_count < channels && !err; session->channel_count++)
        err = init_channel(session, &session->channels[session->channel_count], fds[session->channel_count % fd_count]);
    if (err) {
        free_session(session);
        return err;
    }
    *out = session;
    return 0;
}

int vfs_session_start(struct vfs_session *session)
{
    int err = start_lot(session);

    for (unsigned i = 0; i < session->channel_count && !err; i++)
        err = fusedev_channel_start(&session->channels[i]);
    return err;
}

void vfs_session_stop(struct vfs_session *session, unsigned drain_ms, int abandon)
{
    __atomic_store_n(&session->is_stopping, true, __ATOMIC_RELEASE);
    for (unsigned i = 0; i < session->channel_count; i++)
        fusedev_channel_stop(&session->channels[i]);
    if (!session->lot_started)
        return;
    session->is_abandoned = abandon;
    /* release: is_abandoned before the lot's thread sees that it has to end */
    __atomic_store_n(&session->stop_deadline_ns, monotonic_ns() + (uint64_t)drain_ms * 1000000 + 1, __ATOMIC_RELEASE);
    parking_lot_wake(&session->lot);
    pthread_join(session->lot_thread, NULL);
    session->lot_started = false;
}

void vfs_session_free(struct vfs_session *session)
{
    vfs_session_stop(session, 0, 0);
    for (unsigned i = 0; i < session->fd_count; i++)
        close(session->channels[i].fd);
    free_session(session);
}

int vfs_session_ended_fd(const struct vfs_session *session) { return session->ended_fd; }

/* Asks the kernel for all that was read from this session's descriptors and never answered. */
int vfs_session_resend(const struct vfs_session *session)
{
    struct fuse_out_header notify = { .len = sizeof(notify), .error = FUSE_NOTIFY_RESEND };

    return write(session->channels[0].fd, &notify, sizeof(notify)) < 0 ? -errno : 0;
}

int vfs_session_forget_entry(const struct vfs_session *session, uint64_t parent, const char *name)
{
    struct fuse_out_header header = { .error = FUSE_NOTIFY_INVAL_ENTRY };
    struct fuse_notify_inval_entry_out entry = { .parent = parent, .namelen = (uint32_t)strlen(name) };
    struct iovec parts[] = { { &header, sizeof(header) }, { &entry, sizeof(entry) }, { (void *)(uintptr_t)name, entry.namelen + 1 } };

    header.len = (uint32_t)(sizeof(header) + sizeof(entry) + entry.namelen + 1);
    return writev(session->channels[0].fd, parts, 3) < 0 ? -errno : 0;
}

unsigned vfs_session_in_flight(struct vfs_session *session, struct vfs_in_flight *requests, unsigned limit)
{
    unsigned count = 0;

    pthread_mutex_lock(&session->lock);
    for (const struct fusedev_waiting *waiting = session->waiting; waiting && count < limit; waiting = waiting->next)
        requests[count++] = waiting->told;
    pthread_mutex_unlock(&session->lock);
    return count;
}

void vfs_session_statistics(const struct vfs_session *session, struct vfs_statistics *statistics)
{
    uint64_t *to = (uint64_t *)statistics;

    memset(statistics, 0, sizeof(*statistics));
    for (unsigned i = 0; i <= session->channel_count; i++) {
        const uint64_t *from = (const uint64_t *)(i < session->channel_count ? &session->channels[i].statistics : &session->lot_statistics);
        for (size_t field = 0; field < sizeof(*statistics) / sizeof(*to); field++)
            to[field] += shared_load_relaxed(&from[field]);
    }
}
