/* FUSE requests and replies. See session.h. */
#include "session.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "check.h"

/* What Linux 6.1 offers on virtio-fs, without DAX and submounts. */
#define OFFERED_FLAGS                                                                                              \
    (FUSE_ASYNC_READ | FUSE_POSIX_LOCKS | FUSE_ATOMIC_O_TRUNC | FUSE_EXPORT_SUPPORT | FUSE_BIG_WRITES |            \
     FUSE_DONT_MASK | FUSE_FLOCK_LOCKS | FUSE_HAS_IOCTL_DIR | FUSE_AUTO_INVAL_DATA | FUSE_DO_READDIRPLUS |         \
     FUSE_READDIRPLUS_AUTO | FUSE_ASYNC_DIO | FUSE_WRITEBACK_CACHE | FUSE_NO_OPEN_SUPPORT | FUSE_PARALLEL_DIROPS | \
     FUSE_HANDLE_KILLPRIV | FUSE_POSIX_ACL | FUSE_ABORT_ERROR | FUSE_MAX_PAGES | FUSE_CACHE_SYMLINKS |             \
     FUSE_NO_OPENDIR_SUPPORT | FUSE_EXPLICIT_INVAL_DATA | FUSE_HANDLE_KILLPRIV_V2 | FUSE_INIT_EXT)

#define UNIQUE_STEP 2 /* odd ones are INTERRUPTs */

void request_fill(struct slot *slot, uint32_t opcode, uint64_t nodeid, const void *args, size_t args_size)
{
    static uint64_t unique;

    if (args_size > RING_MAX_ARGS)
        die("arguments of %zu bytes", args_size);
    unique += UNIQUE_STEP;
    *slot->in = (struct fuse_in_header){
        .len = (uint32_t)(sizeof(*slot->in) + args_size),
        .opcode = opcode,
        .unique = unique,
        .nodeid = nodeid,
        .pid = 1,
    };
    memcpy(slot->args, args, args_size);
    slot->args_size = (uint32_t)args_size;
    slot->sent_size = 0;
    slot->is_one_way = opcode == FUSE_FORGET;
    *slot->out = (struct fuse_out_header){ 0 }; /* an answer of an earlier request must not pass for this one's */
}

void request_send(struct slot *slot, uint32_t size)
{
    slot->sent_size = size;
    slot->in->len += size;
}

bool reply_is_sound(const struct slot *slot, uint32_t used_len)
{
    const struct fuse_out_header *out = slot->out;

    if (slot->is_one_way)
        return !used_len;
    return used_len >= sizeof(*out) && out->unique == slot->in->unique && out->len == used_len && out->error <= 0 && out->error > -512;
}

int session_call(struct session *session, struct slot *slot, uint32_t out_args_size, uint32_t data_size, uint32_t *got)
{
    struct slot *done;
    uint32_t used_len;

    ring_add(session->ring, slot, out_args_size, data_size);
    ring_publish(session->ring);
    while (!(done = ring_reap(session->ring, &used_len)))
        waiter_wait(&session->waiter);
    if (done == slot && slot->in->opcode == FUSE_DESTROY && !used_len) /* the virtiofsd in Rust uses it up, and says nothing */
        return 0;
    if (done != slot || !reply_is_sound(slot, used_len))
        die("opcode %u, unique %llu: the reply says unique %llu, length %u, error %d; used length %u", slot->in->opcode,
            (unsigned long long)slot->in->unique, (unsigned long long)slot->out->unique, slot->out->len, slot->out->error, used_len);
    *got = used_len - (uint32_t)sizeof(*slot->out);
    if (slot->out->error ? *got != 0 : *got > out_args_size + data_size || (out_args_size && *got != out_args_size))
        die("opcode %u, error %d: the reply has %u bytes", slot->in->opcode, slot->out->error, *got);
    return slot->out->error;
}

/* A call with fixed results only. */
static int call_fixed(struct session *session, uint32_t opcode, uint64_t nodeid, const void *args, size_t args_size, void *result, uint32_t result_size)
{
    struct slot *slot = ring_take(session->ring);
    uint32_t got;

    request_fill(slot, opcode, nodeid, args, args_size);
    int error = session_call(session, slot, result_size, 0, &got);
    if (!error)
        memcpy(result, slot->out_args, result_size);
    ring_give_back(session->ring, slot);
    return error;
}

void session_start(struct session *session, struct ring *ring, unsigned timeout_s)
{
    struct fuse_init_in in = { .major = FUSE_KERNEL_VERSION, .minor = FUSE_KERNEL_MINOR_VERSION, .max_readahead = 128 << 10, .flags = OFFERED_FLAGS };

    session->ring = ring;
    waiter_init(&session->waiter, ring, 1, timeout_s);
    int error = call_fixed(session, FUSE_INIT, 0, &in, sizeof(in), &session->init, sizeof(session->init));
    if (error)
        die("INIT: %s", strerror(-error));
    if (session->init.major != FUSE_KERNEL_VERSION || !(session->init.flags & FUSE_MAX_PAGES) || session->init.max_pages < RING_MAX_DATA / RING_PAGE)
        die("INIT: version %u.%u, flags %#x, max_pages %u: no reads of 1 MiB", session->init.major, session->init.minor,
            session->init.flags, session->init.max_pages);
}

void session_end(struct session *session)
{
    int error = call_fixed(session, FUSE_DESTROY, 0, "", 0, NULL, 0);

    if (error)
        die("DESTROY: %s", strerror(-error));
}

static uint64_t open_nodeid(struct session *session, uint32_t opcode, uint64_t nodeid, const char *what, uint32_t flags)
{
    struct fuse_open_in in = { .flags = flags };
    struct fuse_open_out out;
    int error = call_fixed(session, opcode, nodeid, &in, sizeof(in), &out, sizeof(out));

    if (error == -ENOSYS) /* as Linux does: handles are not needed */
        return 0;
    if (error)
        die("cannot open %s: %s", what, strerror(-error));
    return out.fh;
}

uint64_t session_opendir(struct session *session, uint64_t nodeid) { return open_nodeid(session, FUSE_OPENDIR, nodeid, "the directory", O_RDONLY); }

static void open_path(struct session *session, const char *path, uint32_t opcode, uint32_t flags, struct target *target)
{
    struct fuse_entry_out entry = { .nodeid = FUSE_ROOT_ID };
    char *rest = strdup(path);

    *target = (struct target){ .path = path, .nodeid = FUSE_ROOT_ID, .name = "" };
    for (char *save, *name = strtok_r(rest, "/", &save); name; name = strtok_r(NULL, "/", &save)) {
        target->parent_nodeid = target->nodeid;
        target->name = name;
        int error = call_fixed(session, FUSE_LOOKUP, target->nodeid, name, strlen(name) + 1, &entry, sizeof(entry));
        if (error || !entry.nodeid)
            die("%s: LOOKUP %s: %s", path, name, strerror(error ? -error : ENOENT));
        target->nodeid = entry.nodeid;
    }
    target->attr = entry.attr;
    target->fh = open_nodeid(session, opcode, target->nodeid, path, flags);
}

void session_open(struct session *session, const char *path, bool is_directory, struct target *target)
{
    open_path(session, path, is_directory ? FUSE_OPENDIR : FUSE_OPEN, O_RDONLY, target);
}

void session_open_to_write(struct session *session, const char *path, struct target *target)
{
    open_path(session, path, FUSE_OPEN, O_RDWR, target);
}

const struct fuse_direntplus *direntplus_at(const uint8_t *data, uint32_t size, uint32_t at, uint32_t *next)
{
    const struct fuse_direntplus *entry = (const void *)(data + at);

    if (at >= size)
        return NULL;
    if (size - at < FUSE_NAME_OFFSET_DIRENTPLUS || size - at < FUSE_DIRENTPLUS_SIZE(entry))
        die("READDIRPLUS: an entry at %u goes over the end of the reply, %u bytes", at, size);
    *next = at + (uint32_t)FUSE_DIRENTPLUS_SIZE(entry);
    return entry;
}

static void add_entry(struct listing *listing, const struct fuse_direntplus *from)
{
    const struct fuse_dirent *dirent = &from->dirent;

    if (dirent->namelen <= 2 && !memcmp(dirent->name, "..", dirent->namelen))
        return;
    if (!(listing->count & (listing->count + 1))) /* one less than a power of two: full */
        listing->entries = realloc(listing->entries, 2 * (listing->count + 1) * sizeof(*listing->entries));
    listing->entries[listing->count++] = (struct entry){
        strndup(dirent->name, dirent->namelen), from->entry_out.nodeid, from->entry_out.attr,
    };
}

void session_list(struct session *session, const struct target *directory, struct listing *listing)
{
    struct fuse_read_in in = { .fh = directory->fh, .size = 128 << 10 };
    uint32_t got, next;

    do {
        struct slot *slot = ring_take(session->ring);
        const struct fuse_direntplus *entry;
        slot->is_scattered = false;
        request_fill(slot, FUSE_READDIRPLUS, directory->nodeid, &in, sizeof(in));
        int error = session_call(session, slot, 0, in.size, &got);
        if (error)
            die("READDIRPLUS of %s: %s", directory->path, strerror(-error));
        for (uint32_t at = 0; (entry = direntplus_at(slot->data, got, at, &next)); at = next) {
            add_entry(listing, entry);
            in.offset = entry->dirent.off;
        }
        ring_give_back(session->ring, slot);
    } while (got);
}

int64_t session_read(struct session *session, const struct target *file, uint64_t offset, uint32_t size, struct slot *slot)
{
    struct fuse_read_in in = { .fh = file->fh, .offset = offset, .size = size };
    uint32_t got;

    request_fill(slot, FUSE_READ, file->nodeid, &in, sizeof(in));
    int error = session_call(session, slot, 0, size, &got);

    return error ? error : (int64_t)got;
}
