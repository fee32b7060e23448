/*
 * loadgen: a vhost-user front-end and virtio-fs driver that loads any back-end as a Linux guest does,
 * and measures it. One JSON line a workload on stdout. See usage().
 *
 * Exit status: 0; 1 when a reply was wrong; 2 when it could not go on.
 */
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "verify.h"
#include "workload.h"

#define MAX_QUEUES 16
#define MAX_JOBS 64
#define MAX_DEPTH 64

struct job {
    const struct pattern *pattern;
    unsigned depth;
    const char *file; /* NULL: that of -f */
};

struct options {
    const char *socket, *file, *directory, *root;
    struct job jobs[MAX_JOBS], backgrounds[MAX_LOADS - 1];
    unsigned job_count, background_count, queues, num, timeout_s;
    double seconds;
    int backend_pid;
    bool warm, signal_backend, once, wait_for_socket;
};

static void usage(void)
{
    fputs("usage: loadgen SOCKET -f FILE -d DIR -w PATTERN:DEPTH[:FILE][,PATTERN:DEPTH...] [options]\n"
          "  -f FILE   of the share, to read and look up      -d DIR   of the share, to list and look up in\n"
          "  -w ...    workloads, in flight on each queue     -s SECS  length of each (2)\n"
          "  -b PATTERN:DEPTH:FILE   runs beside each workload, on the same queues; up to four\n"
          "  -q N      request queues (1)                     -z N     size of a queue (1024)\n"
          "  -p PID    of the back-end, for its CPU time      -W       read FILE once before\n"
          "  -v ROOT   compare all data and metadata with the local copy of the share at ROOT (not for timings)\n"
          "  -k        send the back-end SIGUSR1 when a workload starts\n"
          "  -1        a sequential workload ends when FILE was read once\n"
          "  -c        wait for the socket; first line: when it was there, when INIT was answered (CLOCK_MONOTONIC)\n"
          "  -t SECS   longest wait for anything (20)\n"
          "patterns:", stderr);
    pattern_print_names();
    fputc('\n', stderr);
    exit(2);
}

static struct job parse_job(char *text)
{
    char *save, *name = strtok_r(text, ":", &save), *depth = strtok_r(NULL, ":", &save);
    struct job job = { name ? pattern_find(name) : NULL, depth ? (unsigned)atoi(depth) : 1, strtok_r(NULL, ":", &save) };

    if (!job.pattern || job.depth < 1 || job.depth > MAX_DEPTH)
        die("%s: no such pattern, or a depth outside 1..%d", name ? name : "", MAX_DEPTH);
    return job;
}

static void parse_jobs(struct options *options, char *text)
{
    for (char *save, *one = strtok_r(text, ",", &save); one; one = strtok_r(NULL, ",", &save)) {
        if (options->job_count == MAX_JOBS)
            die("more than %d workloads", MAX_JOBS);
        options->jobs[options->job_count++] = parse_job(one);
    }
}

static struct options parse_options(int argc, char **argv)
{
    struct options options = { .queues = 1, .num = 1024, .timeout_s = 20, .seconds = 2 };

    if (argc < 2 || argv[1][0] == '-')
        usage();
    options.socket = argv[1];
    optind = 2;
    for (int option; (option = getopt(argc, argv, "f:d:w:s:b:q:z:p:Wkv:t:1c")) != -1;) {
        switch (option) {
        case 'f': options.file = optarg; break;
        case 'd': options.directory = optarg; break;
        case 'w': parse_jobs(&options, optarg); break;
        case 's': options.seconds = atof(optarg); break;
        case 'b':
            if (options.background_count == MAX_LOADS - 1)
                usage();
            options.backgrounds[options.background_count++] = parse_job(optarg);
            break;
        case 'q': options.queues = (unsigned)atoi(optarg); break;
        case 'z': options.num = (unsigned)atoi(optarg); break;
        case 'p': options.backend_pid = atoi(optarg); break;
        case 'W': options.warm = true; break;
        case 'k': options.signal_backend = true; break;
        case '1': options.once = true; break;
        case 'c': options.wait_for_socket = true; break;
        case 'v': options.root = optarg; break;
        case 't': options.timeout_s = (unsigned)atoi(optarg); break;
        default: usage();
        }
    }
    if (!options.file || !options.directory || (!options.job_count && !options.root) || options.queues < 1 || options.queues > MAX_QUEUES ||
        options.num < 2 || options.num > 32768 || (options.num & (options.num - 1)) || !options.timeout_s || options.seconds <= 0 ||
        (options.signal_backend && !options.backend_pid))
        usage();
    return options;
}

static void read_whole(struct session *session, const struct target *file)
{
    for (uint64_t offset = 0; offset < file->attr.size; offset += RING_MAX_DATA) {
        struct slot *slot = ring_take(session->ring);
        slot->is_scattered = false;
        int64_t got = session_read(session, file, offset, RING_MAX_DATA, slot);
        ring_give_back(session->ring, slot);
        if (got <= 0)
            die("READ of %s at %llu: %s", file->path, (unsigned long long)offset, strerror((int)-got));
    }
}

static void check_fits(const struct pattern *pattern, const struct share *share, const struct target *file, bool once)
{
    if (pattern->io_size && pattern->opcode != FUSE_READDIRPLUS && file->attr.size < 2ull * pattern->io_size)
        die("%s: %s has only %llu bytes", pattern->name, file->path, (unsigned long long)file->attr.size);
    if (once && (pattern->opcode != FUSE_READ || pattern->is_random))
        die("%s: only a sequential read can be done once", pattern->name);
    if (pattern->opcode == FUSE_LOOKUP && pattern->is_random && !share->listing.count)
        die("%s: %s is empty", pattern->name, share->directory.path);
}

static uint64_t run_jobs(struct bench *bench, const struct options *options, const struct share *share, const struct target *file, const uint8_t *local)
{
    static struct load loads[MAX_LOADS];
    static struct target files[MAX_LOADS];
    unsigned count = 1 + options->background_count;
    uint64_t bad = 0;

    for (unsigned i = 0; i < options->job_count; i++) {
        for (unsigned k = 0; k < count; k++) {
            const struct job *job = k ? &options->backgrounds[k - 1] : &options->jobs[i];
            loads[k] = (struct load){ .pattern = job->pattern, .depth = job->depth, .share = share, .file = file };
            if (job->file && job->pattern->writes)
                session_open_to_write(share->session, job->file, &files[k]);
            else if (job->file)
                session_open(share->session, job->file, false, &files[k]);
            else if (job->pattern->writes)
                die("%s: name the file to write behind the depth", job->pattern->name);
            if (job->file)
                loads[k].file = &files[k];
            else if (!k)
                loads[k].local = local;
        }
        loads[0].once = options->once;
        for (unsigned k = 0; k < count; k++)
            check_fits(loads[k].pattern, share, loads[k].file, loads[k].once);
        bad += bench_run(bench, loads, count, options->seconds);
    }
    return bad;
}

/* As a driver that is unbound: nothing is in flight, so each queue stops where it was filled to. */
static void stop(struct front_end *front_end, struct ring *rings, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        uint32_t base = front_end_stop_vring(front_end, i);
        if (base != rings[i].published)
            die("queue %u was stopped at %u, not at %u", i, base, rings[i].published);
    }
}

int main(int argc, char **argv)
{
    static struct ring rings[1 + MAX_QUEUES]; /* hiprio, then request queues */
    struct options options = parse_options(argc, argv);
    struct front_end front_end;
    struct session session;
    struct share share = { .session = &session };
    struct target file;
    const uint8_t *local = NULL;
    unsigned depth = 1, beside = 0;
    uint64_t bad = 0;

    for (unsigned i = 0; i < options.background_count; i++)
        beside += options.backgrounds[i].depth;
    for (unsigned i = 0; i < options.job_count; i++)
        if (options.jobs[i].depth > depth)
            depth = options.jobs[i].depth;
    depth += beside;
    if (depth < 32)
        depth = 32; /* so that data rotates through 32 MiB of guest memory at every depth */
    size_t memory_size = ((size_t)options.queues * depth + 16) * (RING_MAX_DATA + (64 << 10));
    front_end_connect(&front_end, options.socket, memory_size, options.timeout_s, options.wait_for_socket);
    uint64_t connected_ns = now_ns();
    front_end_negotiate(&front_end, 1 + options.queues);
    ring_start(&rings[0], &front_end, 0, options.num < 128 ? options.num : 128, 2, false);
    for (unsigned i = 1; i <= options.queues; i++)
        ring_start(&rings[i], &front_end, i, options.num, depth, true);

    session_start(&session, &rings[1], options.timeout_s);
    if (options.wait_for_socket)
        printf("{\"connected_ns\": %llu, \"first_reply_ns\": %llu}\n", (unsigned long long)connected_ns, (unsigned long long)now_ns());
    fflush(stdout);
    session_open(&session, options.file, false, &file);
    session_open(&session, options.directory, true, &share.directory);
    session_list(&session, &share.directory, &share.listing);
    if (options.warm)
        read_whole(&session, &file);
    if (options.root) {
        local = verify_map(options.root, &file);
        bad += verify(&share, options.root, &file, local);
    }
    struct bench bench = { .rings = rings + 1, .ring_count = options.queues, .backend_pid = options.backend_pid, .signal_backend = options.signal_backend };
    waiter_init(&bench.waiter, bench.rings, bench.ring_count, options.timeout_s);
    bad += run_jobs(&bench, &options, &share, &file, local);
    session_end(&session);
    stop(&front_end, rings, 1 + options.queues);
    return bad ? 1 : 0;
}
