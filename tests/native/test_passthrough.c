/*
 * A shared directory under many threads: as queues and pool threads would, they look up, open,
 * write, rename, forget and release the same few names at once, and guess at numbers. Nothing may
 * be lost or used after it was freed: run under ASan with its leak check, and by hand under TSan.
 */
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "fuse_server.h"
#include "passthroughfs.h"

#define THREADS 6
#define ROUNDS 3000
#define NAMES 6

static struct fuse_server server;
static char top[] = "/tmp/vhostfs-test-passthrough-XXXXXX";

struct caller {
    struct fuse_context context;
    pthread_t thread;
    unsigned seed;
    uint8_t reply[8192];
};

/* One request; the payload of its reply is behind the header in caller->reply. Returns the error. */
static int call(struct caller *caller, uint32_t opcode, uint64_t nodeid, const void *fixed, size_t size, const char *names, size_t names_size)
{
    struct fuse_in_header in = { .opcode = opcode, .nodeid = nodeid, .unique = 2 };
    uint8_t bytes[1024];
    struct iovec readable, writable = { caller->reply, sizeof(caller->reply) }, scratch[2];
    struct fuse_request request;
    struct fuse_out_header out;

    in.len = (uint32_t)(sizeof(in) + size + names_size);
    memcpy(bytes, &in, sizeof(in));
    if (size)
        memcpy(bytes + sizeof(in), fixed, size);
    if (names_size)
        memcpy(bytes + sizeof(in) + size, names, names_size);
    readable = (struct iovec){ bytes, in.len };
    request = (struct fuse_request){
        .in = in,
        .args = bytes + sizeof(in),
        .args_size = (uint32_t)(size + names_size),
        .readable = &readable,
        .readable_count = 1,
        .writable = &writable,
        .writable_count = 1,
        .writable_size = sizeof(caller->reply),
        .scratch = scratch,
        .context = &caller->context,
        .may_block = rand_r(&caller->seed) % 2,
    };
    if (fuse_handle(&server, &request) == FUSE_PARKED) {
        CHECK(!request.may_block);
        request.may_block = true;
        CHECK(fuse_handle(&server, &request) != FUSE_PARKED);
    }
    memcpy(&out, caller->reply, sizeof(out));
    return out.error;
}

static void init(struct caller *caller)
{
    struct fuse_init_in in = { .major = 7, .minor = 38, .flags = FUSE_INIT_EXT | FUSE_DONT_MASK };

    CHECK_EQ(call(caller, FUSE_INIT, 0, &in, sizeof(in), NULL, 0), 0);
}

static const char *name_of(struct caller *caller)
{
    static const char names[NAMES][8] = { "a", "bb", "ccc", "dddd", "eeeee", "ffffff" };

    return names[(unsigned)rand_r(&caller->seed) % NAMES];
}

static void forget(struct caller *caller, uint64_t nodeid, uint64_t nlookup)
{
    struct fuse_forget_in in = { .nlookup = nlookup };

    call(caller, FUSE_FORGET, nodeid, &in, sizeof(in), NULL, 0);
}

/* Opens, writes, reads and releases; now and then with a number that was guessed. */
static void use_file(struct caller *caller, uint64_t nodeid)
{
    struct fuse_open_in open = { .flags = O_RDWR };
    struct fuse_open_out opened;
    struct {
        struct fuse_write_in in;
        char data[16];
    } write = { .in.size = 16, .data = "what is written" };
    struct fuse_read_in read = { .size = 100 };
    struct fuse_release_in release = { 0 };

    if (call(caller, FUSE_OPEN, nodeid, &open, sizeof(open), NULL, 0))
        return;
    memcpy(&opened, caller->reply + sizeof(struct fuse_out_header), sizeof(opened));
    write.in.fh = read.fh = release.fh = opened.fh;
    call(caller, FUSE_WRITE, nodeid, &write, sizeof(write), NULL, 0);
    call(caller, FUSE_READ, nodeid, &read, sizeof(read), NULL, 0);
    release.fh ^= (unsigned)rand_r(&caller->seed) % 8; /* somebody else's, maybe */
    call(caller, FUSE_RELEASE, nodeid, &release, sizeof(release), NULL, 0);
    release.fh = opened.fh;
    call(caller, FUSE_RELEASE, nodeid, &release, sizeof(release), NULL, 0);
}

static void one_round(struct caller *caller)
{
    const char *name = name_of(caller), *other = name_of(caller);
    struct fuse_mknod_in mknod = { .mode = S_IFREG | 0644 };
    struct fuse_rename_in rename = { .newdir = FUSE_ROOT_ID };
    struct fuse_getattr_in getattr = { 0 };
    struct fuse_entry_out entry;
    char both[32];

    switch (rand_r(&caller->seed) % 6) {
    case 0:
        if (!call(caller, FUSE_MKNOD, FUSE_ROOT_ID, &mknod, sizeof(mknod), name, strlen(name) + 1)) {
            memcpy(&entry, caller->reply + sizeof(struct fuse_out_header), sizeof(entry));
            forget(caller, entry.nodeid, 1);
        }
        break;
    case 1:
        call(caller, FUSE_UNLINK, FUSE_ROOT_ID, NULL, 0, name, strlen(name) + 1);
        break;
    case 2:
        memcpy(both, name, strlen(name) + 1);
        memcpy(both + strlen(name) + 1, other, strlen(other) + 1);
        call(caller, FUSE_RENAME, FUSE_ROOT_ID, &rename, sizeof(rename), both, strlen(name) + strlen(other) + 2);
        break;
    default:
        if (call(caller, FUSE_LOOKUP, FUSE_ROOT_ID, NULL, 0, name, strlen(name) + 1))
            break;
        memcpy(&entry, caller->reply + sizeof(struct fuse_out_header), sizeof(entry));
        CHECK(S_ISREG(entry.attr.mode));
        call(caller, FUSE_GETATTR, entry.nodeid, &getattr, sizeof(getattr), NULL, 0);
        use_file(caller, entry.nodeid);
        forget(caller, entry.nodeid, 1 + (unsigned)rand_r(&caller->seed) % 2);
        call(caller, FUSE_GETATTR, entry.nodeid + (unsigned)rand_r(&caller->seed) % 128, &getattr, sizeof(getattr), NULL, 0);
        break;
    }
}

static void *run(void *argument)
{
    for (unsigned round = 0; round < ROUNDS; round++)
        one_round(argument);
    return NULL;
}

static unsigned count_fds(void)
{
    DIR *dir = opendir("/proc/self/fd");
    unsigned count = 0;

    while (readdir(dir))
        count++;
    closedir(dir);
    return count;
}

static void run_threads(uint32_t file_handles, bool begins_anew)
{
    static struct caller callers[THREADS];
    struct vfs_directory_options options = { .file_handles = file_handles };
    int source_fd = open(top, O_PATH | O_DIRECTORY), proc_fd = open("/proc/self/fd", O_PATH | O_DIRECTORY);
    unsigned before;
    struct fuse_fs *fs;
    struct vfs_directory_facts facts;

    memset(callers, 0, sizeof(callers));
    server = (struct fuse_server){ .profile = FUSE_PROFILE_SHARED };
    CHECK_EQ(fuse_mounts_init(&server), 0);
    CHECK_EQ(passthroughfs_new(&server, source_fd, proc_fd, &options, &fs), 0);
    fuse_replace(&server, 0, fs);
    for (unsigned i = 0; i < THREADS; i++) {
        callers[i].seed = i + 1;
        fuse_add_context(&server, &callers[i].context);
    }
    init(&callers[0]);
    before = count_fds();
    for (unsigned i = 0; i < THREADS; i++)
        CHECK_EQ(pthread_create(&callers[i].thread, NULL, run, &callers[i]), 0);
    if (begins_anew) {
        for (unsigned i = 0; i < 50; i++)
            fuse_end_session(&server, NULL);
    }
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(callers[i].thread, NULL);
    CHECK_EQ(passthroughfs_facts(fs, &facts), 0);
    CHECK_EQ(facts.open_files, 0);
    fuse_end_session(&server, NULL);
    CHECK_EQ(passthroughfs_facts(fs, &facts), 0);
    CHECK_EQ(facts.inodes, 0);
    CHECK_EQ(count_fds(), before);
    fuse_mounts_destroy(&server);
    close(proc_fd);
}

static void test_threads_with_handles(void) { run_threads(VFS_FILE_HANDLES_MANDATORY, false); }
static void test_threads_with_descriptors(void) { run_threads(VFS_FILE_HANDLES_NEVER, false); }
static void test_threads_while_the_session_ends(void) { run_threads(VFS_FILE_HANDLES_PREFER, true); }

static void test_numbers_of_many_devices(void)
{
    struct ino_map map;
    uint64_t first = 0;

    CHECK_EQ(ino_map_init(&map), 0);
    for (uint64_t dev = 0; dev < INO_GROUPS; dev++) { /* every group, and each keeps its number */
        CHECK_EQ(ino_map_number(&map, dev << 20, 7), dev << INO_LOW_BITS | 7);
        CHECK_EQ(ino_map_number(&map, 0, 7), 7);
    }
    for (uint64_t ino = 1; ino < 1000; ino++) { /* then hashes: in their own group, the same each time, apart */
        uint64_t number = ino_map_number(&map, 12345, ino);
        CHECK_EQ(number >> INO_LOW_BITS, INO_GROUPS);
        CHECK_EQ(ino_map_number(&map, 12345, ino), number);
        CHECK(number != first);
        first = ino == 1 ? number : first;
    }
    ino_map_destroy(&map);
    CHECK_EQ(ino_map_init(&map), 0);
    CHECK_EQ(ino_map_number(&map, 5, 3ull << 60 | 9), 9); /* overlayfs: what is above 36 bits is a group of its own */
    CHECK_EQ(ino_map_number(&map, 5, 9), 1ull << INO_LOW_BITS | 9);
    CHECK_EQ(ino_map_number(&map, 6, 9), 2ull << INO_LOW_BITS | 9);
    CHECK_EQ(ino_map_number(&map, 5, 3ull << 60 | 10), 10);
    ino_map_destroy(&map);
}

int main(void)
{
    char path[sizeof(top) + 16];
    static const char *names[] = { "a", "bb", "ccc", "dddd", "eeeee", "ffffff" };

    CHECK(mkdtemp(top));
    RUN(test_threads_with_handles);
    RUN(test_threads_with_descriptors);
    RUN(test_threads_while_the_session_ends);
    RUN(test_numbers_of_many_devices);
    for (unsigned i = 0; i < NAMES; i++) {
        snprintf(path, sizeof(path), "%s/%s", top, names[i]);
        unlink(path);
    }
    CHECK_EQ(rmdir(top), 0);
    return 0;
}
