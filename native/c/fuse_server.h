/*
 * The FUSE side of the device: one request in, exactly one reply out.
 *
 * A file system sees a request as two lists of iovecs (device-readable and device-writable) and
 * never the ring they came from. A handler returns the number of payload bytes that it stored
 * behind the reply header, a negative errno, or one of the named outcomes below; fuse_dispatch.c
 * alone writes the reply header, last, and so owns the rule of one reply a request.
 */
#ifndef VHOSTFS_FUSE_SERVER_H
#define VHOSTFS_FUSE_SERVER_H
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "blob.h"
#include "fuse_abi.h"

#define FUSE_MAX_IO (1u << 20) /* the largest READ or WRITE a Linux driver sends: 256 pages */
/* Header and arguments that are copied from the guest. The longest without file data is SYMLINK:
 * a name and a target of a path's length; what follows (a security context) still fits. */
#define FUSE_MAX_COPIED (12u << 10)

/* Outcomes that are neither a length nor an error. */
#define FUSE_PARKED INT64_MAX         /* the request waits: see fuse_request.wait */
#define FUSE_NO_REPLY (INT64_MAX - 1) /* FORGET and BATCH_FORGET have none */

enum fuse_wait {
    FUSE_WAIT_CHUNK,       /* for wait_blob, wait_chunk to leave PENDING */
    FUSE_WAIT_UPCALL_ROOM, /* for room in the upcall ring */
    FUSE_WAIT_DISK,        /* run it again where it may block: for a disk, which answers soon */
    FUSE_WAIT_HOST,        /* the same for a host directory, of which more may be waited for at a time */
    FUSE_WAIT_REMOTE,      /* and for what is in it of somebody else, who may never answer */
};

struct fuse_fs;

/* A thread that handles requests. `in_use` is what keeps a file system from being freed under it:
 * see fuse_mounts.c. */
struct fuse_context {
    struct fuse_fs *in_use; /* atomic */
    unsigned number;
};

struct fuse_request {
    struct fuse_in_header in; /* copied once */
    const uint8_t *args;      /* what follows the header, copied with it */
    uint32_t args_size;
    const struct iovec *readable; /* the whole list, header and arguments included */
    uint32_t readable_count;
    const struct iovec *writable;
    uint32_t writable_count;
    uint64_t writable_size;
    struct iovec *scratch; /* room for either list, to cut pieces in */
    struct fuse_context *context;
    struct fuse_fs *fs; /* that in.nodeid belongs to */
    uint64_t id;        /* its own number for the inode: FUSE_ROOT_ID is its root */
    bool may_block;     /* this is a pool thread */
    bool missed;        /* it has waited for a chunk; for the counters */
    enum fuse_wait wait; /* meaningful when parked */
    struct blob *wait_blob; /* when waiting for a chunk: a reference */
    uint32_t wait_chunk;
};

struct fuse_server;
typedef int64_t fuse_handler(struct fuse_server *server, struct fuse_request *request);

#define FUSE_OPCODES 64 /* of the protocol so far; CUSE and what may come are ENOSYS */

/* What a kind of file system can do. An operation without a handler is ENOSYS, which a Linux driver
 * takes as the word of the whole session: leave one out only if no kind has it. */
struct fuse_fs_type {
    const char *name;
    fuse_handler *handlers[FUSE_OPCODES];
    /* Describes the root, as LOOKUP would; the root lives as long as the mount, it is not counted.
     * -EAGAIN: it may block, and must not. */
    int (*describe_root)(struct fuse_fs *fs, bool may_block, struct fuse_entry_out *entry);
    void (*forget)(struct fuse_fs *fs, uint64_t id, uint64_t nlookup); /* NULL: nothing is counted */
    int (*sync)(struct fuse_fs *fs);         /* writes to disk what was written; may block. NULL: nothing ever is */
    void (*end_session)(struct fuse_fs *fs); /* the guest remembers nothing any more. NULL: nor do we */
    void (*free)(struct fuse_fs *fs);
};

/* The head of every mounted file system. */
struct fuse_fs {
    const struct fuse_fs_type *type;
    struct fuse_counters *counters; /* outlives the mount; NULL: nothing is counted */
    uint16_t index; /* of the mount; the top bits of its node ids */
};

/* A node id is the mount's index and the file system's own number. Mount 0 is what the guest
 * mounts; its root is FUSE_ROOT_ID, as the protocol wants. */
#define FUSE_ID_BITS 48
#define FUSE_ID_MASK ((1ull << FUSE_ID_BITS) - 1)
#define FUSE_MAX_MOUNTS 65536 /* the last one is never given out: namespace.c */

static inline uint64_t fuse_nodeid(const struct fuse_fs *fs, uint64_t id) { return (uint64_t)fs->index << FUSE_ID_BITS | id; }

/* What the whole session is like; fixed before INIT. */
enum fuse_profile {
    FUSE_PROFILE_IMMUTABLE, /* nothing but images: no handles, everything may be cached for ever */
    FUSE_PROFILE_SHARED,    /* host directories beside images, mounts come and go */
};

#define FUSE_MAX_CONTEXTS 192 /* queues and pool threads */

/* Shared by all queues. */
struct fuse_server {
    struct chunk_store *store;
    enum fuse_profile profile;
    bool is_on_host; /* a mount of this host: a process that looks at its root must not need us */
    bool has_xattrs; /* of an immutable session: some image has attributes, and so maybe ACLs */
    bool has_session; /* atomic: INIT was answered */
    uint32_t minor;   /* what the session speaks */
    uint64_t flags;   /* that INIT agreed on */
    uint64_t wanted_flags; /* atomic: what mounts ask for beyond the profile's, offered by the next INIT */
    /* fuse_mounts.c */
    struct fuse_fs **mounts; /* FUSE_MAX_MOUNTS; atomic pointers */
    struct fuse_context *contexts[FUSE_MAX_CONTEXTS];
    unsigned context_count;
    uint16_t last_index;
};

/* Handles one request: `request` has its lists and arguments. Returns the exact number of bytes
 * stored in the writable part (0 for no reply), or FUSE_PARKED. */
int64_t fuse_handle(struct fuse_server *server, struct fuse_request *request);
/* Replies `error` (negative errno) to a request that was parked. Returns the bytes stored. */
int64_t fuse_reply_error(const struct fuse_request *request, int error);
/* The same for one that has waited in vain, which counts as an error of its file system. */
int64_t fuse_give_up(struct fuse_server *server, struct fuse_request *request, int error);

fuse_handler fuse_init, fuse_destroy; /* fuse_init.c: the session */

/* Handlers that several kinds of file system share (fuse_dispatch.c). */
fuse_handler fuse_read_only;     /* EROFS */
fuse_handler fuse_nothing_to_do; /* success */
fuse_handler fuse_no_attribute;  /* ENODATA */
fuse_handler fuse_no_locks;      /* EOPNOTSUPP: nothing here can be locked on the host */
fuse_handler fuse_no_ioctl;      /* ENOTTY */

/* fuse_mounts.c. Mounting is the control plane's, one call at a time; handlers enter and leave. */
int fuse_mounts_init(struct fuse_server *server);
void fuse_mounts_destroy(struct fuse_server *server); /* frees what is still mounted */
void fuse_add_context(struct fuse_server *server, struct fuse_context *context);
void fuse_remove_context(struct fuse_server *server, struct fuse_context *context); /* it handles nothing any more */
/* An index that nothing is mounted as: the one that was free the longest. -ENOSPC: there is none. */
int fuse_free_index(struct fuse_server *server, uint16_t *index);
/* Mounts `fs` as `index` instead of what is there, and frees that once nobody uses it. */
void fuse_replace(struct fuse_server *server, uint16_t index, struct fuse_fs *fs);
/* SYNCFS of all that is mounted, on a pool thread; the first error. And the end of a session for all;
 * `context` NULL: called by who mounts. */
int fuse_sync_all(struct fuse_server *server, struct fuse_context *context);
void fuse_end_session(struct fuse_server *server, struct fuse_context *context);
struct fuse_fs *fuse_enter(struct fuse_server *server, struct fuse_context *context, uint64_t nodeid);
void fuse_leave(struct fuse_context *context);

/* Run the request again where it may block: from FUSE_WAIT_DISK on. Returns FUSE_PARKED. */
static inline int64_t fuse_to_pool(struct fuse_request *request, enum fuse_wait pool)
{
    request->wait = pool;
    return FUSE_PARKED;
}

static inline bool fuse_waits_for_pool(const struct fuse_request *request)
{
    return request->wait >= FUSE_WAIT_DISK;
}

/* The most that a thread which may block moves in one system call. A kernel without preemption leaves a
 * copy only at its end, and a queue thread that shares the CPU has hits to answer meanwhile. */
#define FUSE_POOL_PIECE (64u << 10)

static inline uint64_t fuse_piece(const struct fuse_request *request, uint64_t left)
{
    return request->may_block && left > FUSE_POOL_PIECE ? FUSE_POOL_PIECE : left;
}

/* How long a driver may keep what never changes: 2^32 s, far over a century. */
#define FUSE_FOREVER (1ull << 32)

/* fuse_iov.c: bytes to and from lists of iovecs. `offset` counts from the start of the list. */
size_t fuse_iov_read(const struct iovec *iov, uint32_t count, uint64_t offset, void *to, size_t size);
size_t fuse_iov_write(const struct iovec *iov, uint32_t count, uint64_t offset, const void *from, size_t size);
void fuse_iov_zero(const struct iovec *iov, uint32_t count, uint64_t offset, uint64_t size);
/* Writes into `slice` the pieces of [offset, offset+size) of the list; returns how many. */
uint32_t fuse_iov_slice(const struct iovec *iov, uint32_t count, uint64_t offset, uint64_t size, struct iovec *slice);

/* Stores a reply's fixed part behind the header. -EINVAL: the driver left no room for it. */
static inline int64_t fuse_reply(const struct fuse_request *request, const void *payload, size_t size)
{
    if (request->writable_size < sizeof(struct fuse_out_header) + size)
        return -EINVAL;
    return (int64_t)fuse_iov_write(request->writable, request->writable_count, sizeof(struct fuse_out_header), payload, size);
}

/* Stores a STATX reply made of what GETATTR would say; nothing here knows more (fuse_attr.c). */
int64_t fuse_reply_statx(const struct fuse_request *request, const struct fuse_attr *attr, uint64_t valid_s);

/* One entry of a READDIR or READDIRPLUS reply (fuse_attr.c). `entry` is NULL for READDIR. Returns the
 * bytes that it takes, padding included; `to` has FUSE_DIRENT_MAX. */
#define FUSE_NAME_LIMIT 255
#define FUSE_DIRENT_MAX (FUSE_NAME_OFFSET_DIRENTPLUS + FUSE_DIRENT_ALIGN(FUSE_NAME_LIMIT))
size_t fuse_pack_dirent(uint8_t *to, const struct fuse_entry_out *entry, uint64_t ino, uint64_t off, uint32_t type,
                        const char *name, size_t name_length);

/* Room for payload behind the header: at most `wanted`. */
static inline uint64_t fuse_reply_room(const struct fuse_request *request, uint64_t wanted)
{
    uint64_t room = request->writable_size < sizeof(struct fuse_out_header) ? 0 : request->writable_size - sizeof(struct fuse_out_header);

    return room < wanted ? room : wanted;
}
#endif
