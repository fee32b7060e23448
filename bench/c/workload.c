/* The patterns and the measured loop. See workload.h. */
#include "workload.h"

#include <signal.h>
#include <string.h>

#include "change.h"
#include "check.h"

static const struct pattern patterns[] = {
    { .name = "lookup", .opcode = FUSE_LOOKUP },
    { .name = "lookupdir", .opcode = FUSE_LOOKUP, .is_random = true },
    { .name = "getattr", .opcode = FUSE_GETATTR },
    { .name = "randread4k", .opcode = FUSE_READ, .io_size = 4 << 10, .is_random = true },
    { .name = "randread128k", .opcode = FUSE_READ, .io_size = 128 << 10, .is_random = true },
    { .name = "seqread4k", .opcode = FUSE_READ, .io_size = 4 << 10 },
    { .name = "seqread128k", .opcode = FUSE_READ, .io_size = 128 << 10 },
    { .name = "seqread1m", .opcode = FUSE_READ, .io_size = 1 << 20 },
    { .name = "scatread128k", .opcode = FUSE_READ, .io_size = 128 << 10, .is_scattered = true },
    { .name = "scatread1m", .opcode = FUSE_READ, .io_size = 1 << 20, .is_scattered = true },
    { .name = "readdirplus", .opcode = FUSE_READDIRPLUS, .io_size = 128 << 10, .streams = 1 },
    { .name = "readdirplus4k", .opcode = FUSE_READDIRPLUS, .io_size = 4 << 10, .streams = 1 }, /* what Linux 6.1 asks for */
    { .name = "write4k", .opcode = FUSE_WRITE, .io_size = 4 << 10, .is_random = true, .writes = true },
    { .name = "write128k", .opcode = FUSE_WRITE, .io_size = 128 << 10, .writes = true },
    { .name = "write1m", .opcode = FUSE_WRITE, .io_size = 1 << 20, .writes = true },
    { .name = "createunlink", .opcode = FUSE_CREATE, .streams = CREATE_UNLINK_STEPS },
    { .name = "writefsync", .opcode = FUSE_FSYNC, .io_size = 4 << 10, .writes = true, .streams = WRITE_FSYNC_STEPS },
    { .name = "copy1m", .opcode = FUSE_COPY_FILE_RANGE, .io_size = 1 << 20, .writes = true },
};
#define PATTERNS (sizeof(patterns) / sizeof(*patterns))

const struct pattern *pattern_find(const char *name)
{
    for (unsigned i = 0; i < PATTERNS; i++)
        if (!strcmp(patterns[i].name, name))
            return &patterns[i];
    return NULL;
}

void pattern_print_names(void)
{
    for (unsigned i = 0; i < PATTERNS; i++)
        fprintf(stderr, " %s", patterns[i].name);
}

uint64_t load_next_random(struct load *load)
{
    uint64_t x = load->random_state;

    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return load->random_state = x;
}

static void add_lookup(struct load *load, struct ring *ring, struct slot *slot)
{
    const struct share *share = load->share;
    uint64_t parent = load->file->parent_nodeid;
    const char *name = load->file->name;

    slot->tag = load->file->nodeid;
    if (load->pattern->is_random) {
        const struct entry *entry = &share->listing.entries[load_next_random(load) % share->listing.count];
        parent = share->directory.nodeid;
        name = entry->name;
        slot->tag = entry->nodeid;
    }
    request_fill(slot, FUSE_LOOKUP, parent, name, strlen(name) + 1);
    slot->expected_len = sizeof(struct fuse_out_header) + sizeof(struct fuse_entry_out);
    ring_add(ring, slot, sizeof(struct fuse_entry_out), 0);
}

static void add_getattr(struct load *load, struct ring *ring, struct slot *slot)
{
    struct fuse_getattr_in in = { 0 };

    request_fill(slot, FUSE_GETATTR, load->file->nodeid, &in, sizeof(in));
    slot->expected_len = sizeof(struct fuse_out_header) + sizeof(struct fuse_attr_out);
    ring_add(ring, slot, sizeof(struct fuse_attr_out), 0);
}

static void add_read(struct load *load, struct ring *ring, struct slot *slot)
{
    uint32_t size = load->pattern->io_size;
    uint64_t pieces = load->file->attr.size / size;
    struct fuse_read_in in = { .fh = load->file->fh, .size = size };

    slot->tag = in.offset = (load->pattern->is_random ? load_next_random(load) : load->position++) % pieces * size;
    if (load->local)
        memset(slot->data, 0xA5, size);
    request_fill(slot, FUSE_READ, load->file->nodeid, &in, sizeof(in));
    slot->expected_len = (uint32_t)sizeof(struct fuse_out_header) + size;
    ring_add(ring, slot, 0, size);
}

static void add_readdirplus(struct load *load, struct ring *ring, struct slot *slot)
{
    const struct stream *stream = slot->stream;
    struct fuse_read_in in = { .fh = stream->fh, .offset = stream->offset, .size = load->pattern->io_size };

    request_fill(slot, FUSE_READDIRPLUS, load->share->directory.nodeid, &in, sizeof(in));
    slot->expected_len = 0; /* any */
    ring_add(ring, slot, 0, in.size);
}

static void add_request(struct load *load, struct ring *ring, struct slot *slot, uint64_t now)
{
    slot->owner = load;
    slot->started_ns = now;
    slot->is_scattered = load->pattern->is_scattered;
    if (load->pattern->streams) {
        struct stream *stream = load->free_streams;
        load->free_streams = stream->next;
        slot->stream = stream;
    }
    switch (load->pattern->opcode) {
    case FUSE_LOOKUP:
        add_lookup(load, ring, slot);
        break;
    case FUSE_GETATTR:
        add_getattr(load, ring, slot);
        break;
    case FUSE_READ:
        add_read(load, ring, slot);
        break;
    case FUSE_READDIRPLUS:
        add_readdirplus(load, ring, slot);
        break;
    default:
        change_add(load, ring, slot);
    }
}

static bool data_is_right(const struct load *load, const struct slot *slot)
{
    uint32_t size = load->pattern->io_size;

    if (!load->local)
        return true;
    for (uint32_t at = 0; at < size; at += RING_PAGE)
        if (memcmp(slot_page(slot, at / RING_PAGE), load->local + slot->tag + at, RING_PAGE))
            return false;
    return true;
}

static void end_readdirplus(struct load *load, const struct slot *slot, uint32_t size)
{
    struct stream *stream = slot->stream;
    const struct fuse_direntplus *entry;
    uint64_t before = load->entries;
    uint32_t next;

    for (uint32_t at = 0; (entry = direntplus_at(slot->data, size, at, &next)); at = next) {
        load->entries++;
        stream->offset = entry->dirent.off;
    }
    if (load->entries == before)
        stream->offset = 0; /* the end: start over */
}

static void end_request(struct slot *slot, uint32_t used_len, uint64_t now)
{
    struct load *load = slot->owner;
    uint32_t opcode = load->pattern->opcode;
    bool is_good = reply_is_sound(slot, used_len) && !slot->out->error && (!slot->expected_len || used_len == slot->expected_len);

    histogram_add(&load->histogram, now - slot->started_ns);
    if (is_good && opcode == FUSE_LOOKUP)
        is_good = ((struct fuse_entry_out *)slot->out_args)->nodeid == slot->tag;
    if (is_good && opcode == FUSE_GETATTR)
        is_good = ((struct fuse_attr_out *)slot->out_args)->attr.size == load->file->attr.size;
    if (is_good && opcode == FUSE_READ)
        is_good = data_is_right(load, slot);
    if (opcode == FUSE_READDIRPLUS)
        end_readdirplus(load, slot, is_good ? used_len - (uint32_t)sizeof(*slot->out) : 0);
    else if (opcode != FUSE_LOOKUP && opcode != FUSE_GETATTR && opcode != FUSE_READ)
        is_good = change_end(load, slot, is_good) && is_good;
    if (load->pattern->streams) {
        struct stream *stream = slot->stream;
        stream->next = load->free_streams;
        load->free_streams = stream;
    }
    if (opcode == FUSE_READ && is_good)
        load->bytes += load->pattern->io_size;
    if (!is_good) {
        load->bad++;
        if (!load->first_error)
            load->first_error = slot->out->error;
    }
}

static bool is_through(const struct load *load)
{
    return load->once && load->position >= load->file->attr.size / load->pattern->io_size;
}

static void top_up(struct bench *bench, struct load *loads, unsigned count)
{
    uint64_t now = now_ns();

    for (unsigned q = 0; q < bench->ring_count; q++) {
        struct ring *ring = &bench->rings[q];
        for (unsigned i = 0; i < count; i++) {
            while (loads[i].in_flight[q] < loads[i].depth && !is_through(&loads[i])) {
                add_request(&loads[i], ring, ring_take(ring), now);
                loads[i].in_flight[q]++;
            }
        }
        ring_publish(ring);
    }
}

static unsigned complete(struct bench *bench)
{
    unsigned completed = 0;

    for (unsigned q = 0; q < bench->ring_count; q++) {
        struct ring *ring = &bench->rings[q];
        struct slot *slot;
        uint32_t used_len;
        uint64_t now = ring_has_used(ring) ? now_ns() : 0;
        while (now && (slot = ring_reap(ring, &used_len))) {
            end_request(slot, used_len, now);
            ((struct load *)slot->owner)->in_flight[q]--;
            ring_give_back(ring, slot);
            completed++;
        }
    }
    return completed;
}

static unsigned in_flight(const struct bench *bench, const struct load *loads, unsigned count)
{
    unsigned sum = 0;

    for (unsigned i = 0; i < count; i++)
        for (unsigned q = 0; q < bench->ring_count; q++)
            sum += loads[i].in_flight[q];
    return sum;
}

static void prepare(struct bench *bench, struct load *load, uint64_t seed)
{
    unsigned streams = load->depth * bench->ring_count;
    static unsigned numbers;

    load->in_flight = calloc(bench->ring_count, sizeof(*load->in_flight));
    load->random_state = 0x9E3779B97F4A7C15u * (seed + 1);
    load->position = 0;
    if (!load->pattern->streams)
        return;
    load->streams = calloc(streams, sizeof(*load->streams));
    for (unsigned i = 0; i < streams; i++) {
        load->streams[i] = (struct stream){ .next = i + 1 < streams ? &load->streams[i + 1] : NULL, .number = numbers++ };
        if (load->pattern->opcode == FUSE_READDIRPLUS)
            load->streams[i].fh = session_opendir(load->share->session, load->share->directory.nodeid);
    }
    load->free_streams = load->streams;
}

static void print_load(const struct load *load, double seconds)
{
    const struct histogram *h = &load->histogram;

    printf("\"workload\": \"%s\", \"queue_depth\": %u, \"operations\": %llu, \"ops_per_s\": %.1f, \"mb_per_s\": %.2f, \"entries_per_s\": %.1f, "
           "\"p50_us\": %.2f, \"p99_us\": %.2f, \"worst_us\": %.2f, \"bad\": %llu, \"first_error\": %d",
           load->pattern->name, load->depth, (unsigned long long)h->count, (double)load->operations_in_time / seconds,
           (double)load->bytes_in_time / seconds / 1e6, (double)load->entries_in_time / seconds, histogram_percentile_us(h, 50), histogram_percentile_us(h, 99), (double)h->worst_ns / 1000,
           (unsigned long long)load->bad, load->first_error);
}

static void complete_all(struct bench *bench, const struct load *loads, unsigned count)
{
    while (in_flight(bench, loads, count))
        if (!complete(bench))
            waiter_wait(&bench->waiter);
}

/* What completes after this counts as latency and no longer as rate. */
static void end_of_time(struct load *loads, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        loads[i].operations_in_time = loads[i].histogram.count;
        loads[i].bytes_in_time = loads[i].bytes;
        loads[i].entries_in_time = loads[i].entries;
    }
}

static uint64_t kicks_of(const struct bench *bench)
{
    uint64_t kicks = 0;

    for (unsigned q = 0; q < bench->ring_count; q++)
        kicks += bench->rings[q].kicks;
    return kicks;
}

/* What a stream has begun it ends: nothing that it made stays in the share. */
static void finish_streams(struct bench *bench, struct load *loads, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        struct stream *stream = loads[i].pattern->streams > 1 ? loads[i].streams : NULL;
        for (unsigned left = stream ? loads[i].depth * bench->ring_count : 0; left--; stream++) {
            while (stream->step) {
                stream->next = NULL;
                loads[i].free_streams = stream;
                add_request(&loads[i], &bench->rings[0], ring_take(&bench->rings[0]), now_ns());
                loads[i].in_flight[0]++;
                ring_publish(&bench->rings[0]);
                complete_all(bench, &loads[i], 1);
            }
        }
    }
}

uint64_t bench_run(struct bench *bench, struct load *loads, unsigned count, double seconds)
{
    uint64_t cpu_ns, start, kicks = kicks_of(bench), operations = 0, bad = 0;

    for (unsigned i = 0; i < count; i++)
        prepare(bench, &loads[i], i);
    if (bench->signal_backend && kill(bench->backend_pid, SIGUSR1))
        die("cannot signal process %d", bench->backend_pid);
    cpu_ns = bench->backend_pid ? cpu_time_ns(bench->backend_pid) : 0;
    start = now_ns();
    while (loads[0].once ? !is_through(&loads[0]) : now_ns() < start + (uint64_t)(seconds * 1e9)) {
        top_up(bench, loads, count);
        if (!complete(bench))
            waiter_wait(&bench->waiter);
    }
    if (loads[0].once)
        complete_all(bench, loads, count);
    double took = (double)(now_ns() - start) / 1e9;
    end_of_time(loads, count);
    complete_all(bench, loads, count);
    finish_streams(bench, loads, count);
    cpu_ns = bench->backend_pid ? cpu_time_ns(bench->backend_pid) - cpu_ns : 0;

    for (unsigned i = 0; i < count; i++) {
        operations += loads[i].histogram.count;
        bad += loads[i].bad;
        free(loads[i].in_flight);
        free(loads[i].streams);
    }
    printf("{\"request_queues\": %u, \"seconds\": %.4f, \"cpu_us_per_op\": %.3f, \"kicks_per_op\": %.4f, ", bench->ring_count, took,
           (double)cpu_ns / 1000 / (double)operations, (double)(kicks_of(bench) - kicks) / (double)operations);
    print_load(&loads[0], took);
    if (count > 1) {
        printf(", \"background\": {");
        print_load(&loads[1], took);
        printf("}, \"backgrounds\": [");
        for (unsigned i = 1; i < count; i++) {
            printf("%s{", i > 1 ? ", " : "");
            print_load(&loads[i], took);
            printf("}");
        }
        printf("]");
    }
    printf("}\n");
    fflush(stdout);
    return bad;
}
