/*
 * A session on /dev/fuse: the transport of a mount on this host, as virtqueues are a guest's.
 *
 * Channels are threads that read requests, each from a descriptor of its own for the session or all
 * from one. They answer what they can at once. What waits stands in one parking lot, whose thread
 * answers it. The kernel is trusted; whoever uses the mount is not.
 *
 * A descriptor that is closed takes the requests with it that were read from it: the kernel fails them. Where
 * the session has to outlive this process, and the descriptor is kept elsewhere, all channels must
 * share it.
 */
#ifndef VHOSTFS_FUSEDEV_H
#define VHOSTFS_FUSEDEV_H
#include "dataplane.h"
#include "fuse_parked.h"
#include "fuse_server.h"
#include "io_pool.h"

#define FUSEDEV_MAX_CHANNELS 32
#define FUSEDEV_REQUEST_SIZE (FUSE_MAX_IO + FUSE_MAX_COPIED) /* the longest WRITE, and header and arguments of any */
#define FUSEDEV_REPLY_SIZE (FUSE_MAX_IO + sizeof(struct fuse_out_header))

/* Requests that INTERRUPT named and that were not parked yet: it may overtake the thread that read them. */
#define FUSEDEV_INTERRUPTS 64
#define FUSEDEV_INTERRUPT_NS 1000000000ull

struct fusedev_interrupt {
    uint64_t unique; /* 0: none */
    uint64_t expires_ns;
};

/* A request that is parked, as it is told of (vfs_session_in_flight). */
struct fusedev_waiting {
    struct vfs_in_flight told;
    struct fusedev_waiting *next, **at;
};

struct fusedev_channel {
    struct vfs_session *session;
    pthread_t thread;
    bool started;
    bool has_ended; /* atomic */
    int fd;
    struct fuse_context context;
    struct vfs_statistics statistics; /* written by the thread */
    uint8_t *request, *reply;
};

struct vfs_session {
    struct fuse_server *server;
    struct parking_lot lot;
    pthread_t lot_thread;
    bool lot_started;
    uint8_t *lot_reply;
    struct vfs_statistics lot_statistics;
    struct chunk_store *store;
    unsigned fd_count; /* channels 0.. have one each; those behind share them */
    int ended_fd; /* eventfd: readable when the kernel has ended the session */
    bool is_stopping;           /* atomic: channels read no more */
    bool is_abandoned;          /* what waits is left to a successor, unanswered */
    uint64_t stop_deadline_ns;  /* 0: run. Atomic */
    pthread_mutex_t lock;       /* interrupts, waiting */
    struct fusedev_waiting *waiting;
    struct fusedev_interrupt interrupts[FUSEDEV_INTERRUPTS];
    unsigned next_interrupt;
    unsigned channel_count;
    struct fusedev_channel channels[];
};

/* fusedev_parked.c */
extern const struct parking_type fusedev_parking;
/* Takes the request off the channel, whose buffers are its own again after. */
void fusedev_park(struct fusedev_channel *channel, const struct fuse_request *request, size_t size);
/* Sends a reply that fuse_handle has made; what the kernel does not want any more is no error. */
void fusedev_send(struct vfs_session *session, int fd, const void *reply, int64_t size);

/* fusedev_channel.c */
int fusedev_channel_start(struct fusedev_channel *channel);
void fusedev_channel_stop(struct fusedev_channel *channel);
#endif
