/*
 * READ: extents, READY bits, and the bytes straight from the cache file into guest memory.
 *
 * Map first: the whole range is mapped before a byte moves, and every chunk that is not READY is
 * asked for at once, so that a large read on a cold cache becomes one fetch and not many. Then
 * read: neighbouring extents of one blob with one preadv2. On a queue thread it is asked not to
 * block (RWF_NOWAIT); what is not in the page cache goes to the pool, which runs this again.
 *
 * Then look whether chunks were evicted meanwhile (chunk_area.h): if so, what was stored in the guest's
 * buffer means nothing, and as no reply was written yet it harms nobody. The request starts again.
 */
#include <limits.h>
#include <string.h>
#include <sys/stat.h>

#include "rafsfs.h"

/* A READ of FUSE_MAX_IO touches at most this many chunks of the smallest size. */
#define MAX_EXTENTS (FUSE_MAX_IO / RAFS_MIN_CHUNK_SIZE + 1)

/* How often a queue thread starts again before it leaves the request to the pool, where it has all the time. */
#define MAX_ATTEMPTS 4
#define EVICTED INT64_MIN /* an outcome: the bytes are not to be believed */

struct piece {
    struct chunk_area *area;   /* NULL: from inline_data, or zeros where that is NULL too */
    uint64_t generation;       /* of the area, before the chunks were found in it */
    const uint8_t *inline_data;
    uint64_t offset;           /* in the data file */
    uint64_t length;
};

struct plan {
    uint32_t count;
    struct piece pieces[MAX_EXTENTS];
};

/* Chunks that are not READY, gathered into runs so that a run is one upcall. */
struct missing {
    struct blob *first_blob; /* of the first one of all */
    struct blob *blob;
    uint32_t first, count;
    bool ring_full;
};

static void ask(struct fuse_server *server, struct missing *missing)
{
    if (missing->count && !blob_request(server->store, missing->blob, missing->first, missing->count))
        missing->ring_full = true;
    missing->count = 0;
}

static void add_missing(struct fuse_server *server, struct fuse_request *request, struct missing *missing, struct blob *blob, uint32_t chunk)
{
    if (!missing->blob) { /* park on the first one; the others are looked at when it is there */
        missing->first_blob = blob;
        request->wait_chunk = chunk;
    }
    if (missing->count && missing->blob == blob && chunk == missing->first + missing->count) {
        missing->count++;
        return;
    }
    ask(server, missing);
    missing->blob = blob;
    missing->first = chunk;
    missing->count = 1;
}

static void add_piece(struct plan *plan, const struct piece *piece)
{
    struct piece *last = plan->count ? &plan->pieces[plan->count - 1] : NULL;

    if (last && last->area && last->area == piece->area && last->offset + last->length == piece->offset)
        last->length += piece->length; /* and the generation stays that of the earlier look */
    else
        plan->pieces[plan->count++] = *piece;
}

/* 0: `plan` holds the range, all READY; FUSE_PARKED; or a negative errno. */
static int64_t make_plan(struct fuse_server *server, struct fuse_request *request, const struct rafs_inode *inode,
                         uint64_t offset, uint64_t size, struct plan *plan)
{
    struct rafsfs *rafsfs = rafsfs_of(request);
    struct missing missing = { 0 };

    plan->count = 0;
    for (uint64_t end = offset + size; offset < end;) {
        struct rafs_extent extent;
        int err = rafs_map(rafsfs->image, inode, offset, end - offset, &extent);
        if (err)
            return err;
        struct piece piece = { .length = extent.length };
        if (extent.kind == RAFS_EXTENT_INLINE) {
            piece.inline_data = extent.inline_data;
        } else if (extent.kind == RAFS_EXTENT_CHUNK) {
            struct blob *blob = rafsfs->blobs[extent.blob_index];
            if (!blob)
                return -ENODEV;
            if (!blob_chunk_covers(blob, extent.chunk_index, extent.blob_offset, extent.offset_in_chunk + extent.length))
                return -EUCLEAN;
            piece.offset = extent.blob_offset + extent.offset_in_chunk;
            piece.area = blob_find(blob, extent.chunk_index, &piece.generation);
            if (piece.area)
                blob_visit(blob, extent.chunk_index);
            else
                add_missing(server, request, &missing, blob, extent.chunk_index);
            if (__atomic_load_n(&rafsfs->trace, __ATOMIC_RELAXED))
                rafsfs_record(rafsfs, request, inode->nid, offset, &extent, !piece.area);
        }
        add_piece(plan, &piece);
        offset += extent.length;
    }
    if (!missing.blob)
        return 0;
    ask(server, &missing);
    request->wait = missing.ring_full ? FUSE_WAIT_UPCALL_ROOM : FUSE_WAIT_CHUNK;
    request->wait_blob = blob_get(missing.first_blob); /* it may be unmounted while we wait */
    return FUSE_PARKED;
}

/* Reads a piece from the data file. 0, -EAGAIN when that would block, or another negative errno. */
static int read_piece(struct fuse_request *request, const struct piece *piece, uint64_t at)
{
    struct chunk_area *area = piece->area;
    int flags = request->may_block || area->reads_never_block ? 0 : RWF_NOWAIT;

    if (flags && __atomic_load_n(&area->nowait_unsupported, __ATOMIC_RELAXED))
        return -EAGAIN;
    for (uint64_t done = 0; done < piece->length;) {
        uint32_t count = fuse_iov_slice(request->writable, request->writable_count, at + done, piece->length - done, request->scratch);
        ssize_t n = preadv2(area->data_fd, request->scratch, (int)(count < IOV_MAX ? count : IOV_MAX), (off_t)(piece->offset + done), flags);
        if (n > 0) {
            done += (uint64_t)n;
        } else if (n == 0) {
            return -EIO; /* the data file is shorter than its READY bits say */
        } else if (errno == EOPNOTSUPP && flags) {
            __atomic_store_n(&area->nowait_unsupported, true, __ATOMIC_RELAXED);
            return -EAGAIN;
        } else if (errno != EINTR) {
            return errno == EFAULT ? -EIO : -errno; /* EFAULT: the guest's memory went away */
        }
    }
    return 0;
}

static int64_t carry_out(struct fuse_request *request, const struct plan *plan)
{
    uint64_t at = sizeof(struct fuse_out_header);

    for (uint32_t i = 0; i < plan->count; i++) {
        const struct piece *piece = &plan->pieces[i];
        if (piece->area) {
            int err = read_piece(request, piece, at);
            if (err == -EAGAIN)
                return request->may_block ? -EIO : fuse_to_pool(request, FUSE_WAIT_DISK);
            if (err)
                return err;
        } else if (piece->inline_data) {
            fuse_iov_write(request->writable, request->writable_count, at, piece->inline_data, piece->length);
        } else {
            fuse_iov_zero(request->writable, request->writable_count, at, piece->length);
        }
        at += piece->length;
    }
    for (uint32_t i = 0; i < plan->count; i++)
        if (plan->pieces[i].area && !chunk_area_is_at(plan->pieces[i].area, plan->pieces[i].generation))
            return EVICTED;
    return (int64_t)(at - sizeof(struct fuse_out_header));
}

int64_t rafsfs_read(struct fuse_server *server, struct fuse_request *request)
{
    const struct rafsfs *rafsfs = rafsfs_of(request);
    const struct fuse_read_in *in = (const struct fuse_read_in *)request->args;
    struct rafs_inode inode;
    struct plan plan;
    uint64_t size = in->size < FUSE_MAX_IO ? in->size : FUSE_MAX_IO;
    int64_t result = rafsfs_inode(rafsfs, request->id, &inode);

    if (result)
        return result;
    if (!S_ISREG(inode.mode))
        return S_ISDIR(inode.mode) ? -EISDIR : -EINVAL;
    if (request->writable_size < sizeof(struct fuse_out_header) + size)
        return -EINVAL;
    if (in->offset >= inode.size)
        return 0;
    if (size > inode.size - in->offset)
        size = inode.size - in->offset;
    if (size == 0)
        return 0;
    for (unsigned attempt = 0; attempt < MAX_ATTEMPTS; attempt++) {
        result = make_plan(server, request, &inode, in->offset, size, &plan);
        if (!result)
            result = carry_out(request, &plan);
        if (result != EVICTED)
            return result;
    }
    return fuse_to_pool(request, FUSE_WAIT_DISK); /* from there too: others get their turn, and evictions come in batches */
}
