/* Requests that change something. See change.h. */
#include "change.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

static void expect(struct slot *slot, struct ring *ring, uint32_t out_args_size)
{
    slot->expected_len = slot->is_one_way ? 0 : (uint32_t)sizeof(struct fuse_out_header) + out_args_size;
    ring_add(ring, slot, out_args_size, 0);
}

static void add_write(struct load *load, struct ring *ring, struct slot *slot)
{
    uint32_t size = load->pattern->io_size;
    uint64_t pieces = load->file->attr.size / size;
    uint64_t piece = load->pattern->is_random || load->pattern->streams ? load_next_random(load) : load->position++;
    struct fuse_write_in in = { .fh = load->file->fh, .offset = piece % pieces * size, .size = size };

    memset(slot->data, (int)(piece | 1), 64); /* so that it is not the same each time, nor all of it made anew */
    request_fill(slot, FUSE_WRITE, load->file->nodeid, &in, sizeof(in));
    request_send(slot, size);
    expect(slot, ring, sizeof(struct fuse_write_out));
}

/* From the first half of the file to the second. */
static void add_copy(struct load *load, struct ring *ring, struct slot *slot)
{
    uint32_t size = load->pattern->io_size;
    uint64_t pieces = load->file->attr.size / 2 / size, at = load->position++ % pieces * size;
    struct fuse_copy_file_range_in in = {
        .fh_in = load->file->fh, .off_in = at, .nodeid_out = load->file->nodeid, .fh_out = load->file->fh, .off_out = pieces * size + at, .len = size,
    };

    request_fill(slot, FUSE_COPY_FILE_RANGE, load->file->nodeid, &in, sizeof(in));
    expect(slot, ring, sizeof(struct fuse_write_out));
}

static void add_fsync(struct load *load, struct ring *ring, struct slot *slot)
{
    struct fuse_fsync_in in = { .fh = load->file->fh, .fsync_flags = FUSE_FSYNC_FDATASYNC };

    request_fill(slot, FUSE_FSYNC, load->file->nodeid, &in, sizeof(in));
    expect(slot, ring, 0);
}

static size_t put_name(char *name, const struct stream *stream) { return (size_t)sprintf(name, "made-%u", stream->number) + 1; }

static void add_create(struct load *load, struct ring *ring, struct slot *slot, const struct stream *stream)
{
    struct {
        struct fuse_create_in in;
        char name[32];
    } args = { .in = { .flags = O_RDWR | O_CREAT | O_EXCL, .mode = S_IFREG | 0644 } };

    request_fill(slot, FUSE_CREATE, load->share->directory.nodeid, &args, sizeof(args.in) + put_name(args.name, stream));
    expect(slot, ring, sizeof(struct fuse_entry_out) + sizeof(struct fuse_open_out));
}

static void add_create_unlink(struct load *load, struct ring *ring, struct slot *slot, const struct stream *stream)
{
    struct fuse_release_in release = { .fh = stream->fh, .flags = O_RDWR };
    struct fuse_forget_in forget = { .nlookup = 1 };
    char name[32];

    switch (stream->step) {
    case 0:
        add_create(load, ring, slot, stream);
        return;
    case 1:
        request_fill(slot, FUSE_RELEASE, stream->nodeid, &release, sizeof(release));
        break;
    case 2:
        request_fill(slot, FUSE_UNLINK, load->share->directory.nodeid, name, put_name(name, stream));
        break;
    default:
        request_fill(slot, FUSE_FORGET, stream->nodeid, &forget, sizeof(forget));
    }
    expect(slot, ring, 0);
}

void change_add(struct load *load, struct ring *ring, struct slot *slot)
{
    const struct stream *stream = slot->stream;

    switch (load->pattern->opcode) {
    case FUSE_WRITE:
        add_write(load, ring, slot);
        break;
    case FUSE_COPY_FILE_RANGE:
        add_copy(load, ring, slot);
        break;
    case FUSE_FSYNC:
        stream->step ? add_fsync(load, ring, slot) : add_write(load, ring, slot);
        break;
    default:
        add_create_unlink(load, ring, slot, stream);
    }
}

bool change_end(struct load *load, struct slot *slot, bool is_good)
{
    struct stream *stream = load->pattern->streams ? slot->stream : NULL;
    uint32_t opcode = slot->in->opcode;

    if (is_good && opcode == FUSE_CREATE) {
        const struct fuse_entry_out *entry = (const void *)slot->out_args;
        stream->nodeid = entry->nodeid;
        stream->fh = ((const struct fuse_open_out *)(entry + 1))->fh;
        is_good = entry->nodeid && S_ISREG(entry->attr.mode) && !entry->attr.size;
    }
    if (is_good && (opcode == FUSE_WRITE || opcode == FUSE_COPY_FILE_RANGE)) {
        is_good = ((const struct fuse_write_out *)slot->out_args)->size == load->pattern->io_size;
        load->bytes += load->pattern->io_size;
    }
    if (!stream)
        return is_good;
    if (!is_good && !stream->step)
        return false; /* nothing was begun */
    stream->step = (stream->step + 1) % load->pattern->streams;
    if (!stream->step)
        load->entries++;
    return is_good;
}
