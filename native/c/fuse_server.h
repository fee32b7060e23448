/*
 * The FUSE side of the device: one request in, exactly one reply out.
 *
 * A fuse_* file sees a request as two lists of iovecs (device-readable and device-writable) and
 * never the ring they came from. A handler returns the number of payload bytes that it stored
 * behind the reply header, a negative errno, or one of the named outcomes below; fuse_dispatch.c
 * alone writes the reply header, last, and so owns the rule of one reply a request.
 */
#ifndef VHOSTFS_FUSE_SERVER_H
#define VHOSTFS_FUSE_SERVER_H
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "blob.h"
#include "fuse_abi.h"
#include "rafs_image.h"

#define FUSE_MAX_READ (1u << 20) /* the largest READ a Linux driver sends: 256 pages */
/* Header and arguments that are copied from the guest: the longest without file data are two names
 * (RENAME2) or a name and an attribute value of which we need no byte. */
#define FUSE_MAX_COPIED 4096

/* Outcomes that are neither a length nor an error. */
#define FUSE_PARKED INT64_MAX        /* the request waits: see fuse_request.wait */
#define FUSE_NO_REPLY (INT64_MAX - 1) /* FORGET and BATCH_FORGET have none */

enum fuse_wait {
    FUSE_WAIT_CHUNK,       /* for wait_blob, wait_chunk to leave PENDING */
    FUSE_WAIT_UPCALL_ROOM, /* for room in the upcall ring */
    FUSE_WAIT_POOL,        /* run it again where it may block */
};

struct fuse_request {
    struct fuse_in_header in; /* copied once */
    const uint8_t *args;      /* what follows the header, copied with it */
    uint32_t args_size;
    const struct iovec *writable;
    uint32_t writable_count;
    uint64_t writable_size;
    struct iovec *scratch; /* writable_count pieces to cut lists in */
    bool may_block;        /* this is a pool thread */
    enum fuse_wait wait;   /* meaningful when parked */
    struct blob *wait_blob;
    uint32_t wait_chunk;
};

/* Shared by all queues. What serves is set up before the first queue starts. */
struct fuse_server {
    struct chunk_store *store;
    const struct rafs_image *image;
    struct blob **blobs; /* by blob index of the image */
    /* The session: atomic, for an INIT on one queue is no reason for the others to stand still. */
    bool has_session;         /* INIT was answered */
    bool no_open, no_opendir; /* the driver can do without OPEN, OPENDIR */
};

/* Handles one request: `request` has its lists and `copied` bytes of the readable part. Returns the
 * exact number of bytes stored in the writable part (0 for no reply), or FUSE_PARKED. */
int64_t fuse_handle(struct fuse_server *server, struct fuse_request *request);
/* Replies `error` (negative errno) to a request that was parked. Returns the bytes stored. */
int64_t fuse_reply_error(const struct fuse_request *request, int error);

/* Handlers, by file. */
typedef int64_t fuse_handler(struct fuse_server *server, struct fuse_request *request);
fuse_handler fuse_init, fuse_destroy;                                      /* fuse_init.c */
fuse_handler fuse_lookup, fuse_getattr, fuse_statx, fuse_readlink;         /* fuse_meta.c */
fuse_handler fuse_open, fuse_opendir, fuse_access, fuse_statfs, fuse_lseek; /* fuse_meta.c */
fuse_handler fuse_readdir, fuse_readdirplus;                               /* fuse_dir.c */
fuse_handler fuse_getxattr, fuse_listxattr;                                /* fuse_xattr.c */
fuse_handler fuse_read;                                                    /* fuse_read.c */

/* The protocol's node ids and the image's: FUSE_ROOT_ID is the root's, all others are the nid. */
int fuse_inode(const struct fuse_server *server, uint64_t nodeid, struct rafs_inode *inode);
int fuse_nodeid(const struct fuse_server *server, uint64_t nid, uint64_t *nodeid);
void fuse_fill_attr(const struct rafs_inode *inode, struct fuse_attr *attr);
void fuse_fill_entry(const struct rafs_inode *inode, uint64_t nodeid, struct fuse_entry_out *entry);
/* How long a driver may keep what never changes: 2^32 s, far over a century. */
#define FUSE_FOREVER (1ull << 32)

/* fuse_iov.c: bytes to and from lists of iovecs. `offset` counts from the start of the list. */
size_t fuse_iov_read(const struct iovec *iov, uint32_t count, void *to, size_t size);
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
#endif
