/*
 * The device whole, with threads on every side: drivers that read, a fetcher that completes and
 * fails, and a control plane that pauses, remaps, stops and starts. Meant for TSan as well.
 */
#include <errno.h>
#include <linux/fuse.h>
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>

#include "dataplane.h"
#include "image_api.h"
#include "ring_rig.h"
#include "small_blob.h"
#include "small_image.h"

enum { QUEUES = 4, NUM = 16, CHUNKS = SMALL_CHUNKS, REQUESTS = 3000, AREA = MEMORY_SIZE };

static struct chunk_store *store;
static struct blob *blob;
static struct vfs_image image;
static struct vfs_device *device;
static int memory_fd;
static uint8_t *guest;
static int stop_fd;
static unsigned finished; /* atomic: drivers */

/* One queue's driver. Slot i of NUM / 4 has the descriptors 4 i to 4 i + 3 and 16 KiB of memory. */
struct driver {
    unsigned index;
    uint8_t *base;
    uint64_t gpa;
    int kick_fd, call_fd;
    uint16_t avail_idx, used_idx;
    uint64_t offset[NUM / 4];
    unsigned answered, failed;
};

static struct driver drivers[QUEUES];
static const uint32_t chunk_of[] = { 2, 0, 99, 1 }; /* of /file in the small image */

static uint8_t expected_byte(uint64_t at)
{
    return at / 4096 == 2 ? 0 : small_byte(chunk_of[at / 4096] * 4096ull + at % 4096);
}

static void start(unsigned index)
{
    struct driver *driver = &drivers[index];
    uint64_t base = USER_BASE + index * (uint64_t)AREA;

    CHECK_EQ(vfs_vring_set_num(device, index, NUM), 0);
    CHECK_EQ(vfs_vring_set_addr(device, index, base + DESC_AT, base + AVAIL_AT, base + USED_AT), 0);
    CHECK_EQ(vfs_vring_set_call(device, index, dup(driver->call_fd)), 0);
    CHECK_EQ(vfs_vring_set_kick(device, index, dup(driver->kick_fd)), 0);
    CHECK_EQ(vfs_vring_set_enable(device, index, 1), 0);
}

static struct vring_avail *avail_of(struct driver *driver) { return (struct vring_avail *)(driver->base + AVAIL_AT); }
static struct vring_used *used_of(struct driver *driver) { return (struct vring_used *)(driver->base + USED_AT); }

static void submit(struct driver *driver, unsigned slot, uint32_t opcode, uint64_t nodeid, const void *args, uint32_t args_size)
{
    uint64_t at = DATA_AT + slot * 16384ull;
    struct fuse_in_header in = { .len = (uint32_t)sizeof(in) + args_size, .opcode = opcode, .unique = slot + 1, .nodeid = nodeid };
    struct vring_desc chain[4] = {
        { driver->gpa + at, sizeof(in), VRING_DESC_F_NEXT, (uint16_t)(4 * slot + 1) },
        { driver->gpa + at + sizeof(in), args_size, VRING_DESC_F_NEXT, (uint16_t)(4 * slot + 2) },
        { driver->gpa + at + 4096, sizeof(struct fuse_out_header), VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, (uint16_t)(4 * slot + 3) },
        { driver->gpa + at + 4096 + 16, 8192, VRING_DESC_F_WRITE, 0 },
    };

    memcpy(driver->base + at, &in, sizeof(in));
    memcpy(driver->base + at + sizeof(in), args, args_size);
    memcpy((struct vring_desc *)(driver->base + DESC_AT) + 4 * slot, chain, sizeof(chain));
    avail_of(driver)->ring[driver->avail_idx % NUM] = (uint16_t)(4 * slot);
    __atomic_store_n(&avail_of(driver)->idx, ++driver->avail_idx, __ATOMIC_RELEASE);
    eventfd_write(driver->kick_fd, 1);
}

static void submit_read(struct driver *driver, unsigned slot, uint64_t offset)
{
    struct fuse_read_in in = { .offset = offset, .size = 8000 };

    driver->offset[slot] = offset;
    submit(driver, slot, FUSE_READ, SMALL_FILE, &in, sizeof(in));
}

/* Waits for a reply and returns its slot; *length and *error are what it says. */
static unsigned wait_reply(struct driver *driver, uint32_t *length, int *error)
{
    struct pollfd pollfd = { .fd = driver->call_fd, .events = POLLIN };
    struct vring_used_elem element;
    struct fuse_out_header out;
    eventfd_t ignored;

    while (__atomic_load_n(&used_of(driver)->idx, __ATOMIC_ACQUIRE) == driver->used_idx) {
        CHECK_EQ(poll(&pollfd, 1, 20000), 1); /* else a call was lost */
        eventfd_read(driver->call_fd, &ignored);
    }
    element = used_of(driver)->ring[driver->used_idx++ % NUM];
    CHECK_EQ(element.id % 4, 0);
    memcpy(&out, driver->base + DATA_AT + element.id / 4 * 16384ull + 4096, sizeof(out));
    CHECK_EQ(out.len, element.len);
    CHECK_EQ(out.unique, element.id / 4 + 1);
    *length = element.len - (uint32_t)sizeof(out);
    *error = out.error;
    return element.id / 4;
}

static void check_reply(struct driver *driver)
{
    uint32_t length;
    int error;
    unsigned slot = wait_reply(driver, &length, &error);
    const uint8_t *data = driver->base + DATA_AT + slot * 16384ull + 4096 + 16;
    uint64_t offset = driver->offset[slot], left = SMALL_FILE_SIZE - offset;

    driver->answered++;
    if (error) {
        CHECK_EQ(error, -EIO);
        CHECK_EQ(length, 0);
        driver->failed++;
        return;
    }
    CHECK_EQ(length, left < 8000 ? left : 8000);
    for (uint32_t i = 0; i < length; i++)
        CHECK_EQ(data[i], expected_byte(offset + i));
}

static void *drive(void *argument)
{
    struct driver *driver = argument;
    unsigned sent = 0;

    for (unsigned slot = 0; slot < NUM / 4; slot++, sent++)
        submit_read(driver, slot, sent * 977 % SMALL_FILE_SIZE);
    while (driver->answered < REQUESTS) {
        check_reply(driver);
        unsigned slot = used_of(driver)->ring[(uint16_t)(driver->used_idx - 1) % NUM].id / 4;
        if (sent < REQUESTS)
            submit_read(driver, slot, sent++ * 977 % SMALL_FILE_SIZE);
    }
    __atomic_fetch_add(&finished, 1, __ATOMIC_RELEASE);
    return NULL;
}

/* Completes most of what is asked for and fails some; and forgets nothing. */
static void *fetch(void *argument)
{
    struct pollfd pollfds[2] = { { .fd = vfs_store_event_fd(store), .events = POLLIN }, { .fd = stop_fd, .events = POLLIN } };
    struct vfs_upcall upcalls[8];
    unsigned round = 0;

    for (;;) {
        CHECK(poll(pollfds, 2, -1) > 0);
        if (pollfds[1].revents)
            return NULL;
        unsigned count = vfs_store_take(store, upcalls, 8);
        for (unsigned i = 0; i < count; i++) {
            for (uint32_t chunk = upcalls[i].first_chunk; chunk < upcalls[i].first_chunk + upcalls[i].chunk_count; chunk++) {
                if (round++ < 50) {
                    vfs_blob_fail(store, blob, chunk, 1);
                } else {
                    small_blob_write(blob, chunk);
                    vfs_blob_complete(store, blob, chunk, 1);
                }
            }
        }
    }
}

static void share(void)
{
    vfs_device_clear_regions(device);
    CHECK_EQ(vfs_device_add_region(device, 0, (uint64_t)QUEUES * AREA, USER_BASE, 0, memory_fd), 0);
}

static void control(void)
{
    for (unsigned round = 0; __atomic_load_n(&finished, __ATOMIC_ACQUIRE) < QUEUES; round++) {
        unsigned index = round % QUEUES;
        vfs_device_pause(device);
        share();
        CHECK_EQ(vfs_device_resume(device), 0);
        vfs_device_set_features(device, 0, 0);
        CHECK_EQ(vfs_vring_set_call(device, index, dup(drivers[index].call_fd)), 0);
        CHECK_EQ(vfs_vring_set_enable(device, index, 0), 0);
        CHECK_EQ(vfs_vring_set_enable(device, index, 1), 0);
        int64_t base = vfs_vring_stop(device, index, 10000);
        CHECK(base >= 0);
        CHECK_EQ(vfs_vring_set_base(device, index, (uint32_t)base), 0);
        start(index);
        struct vfs_statistics statistics;
        CHECK_EQ(vfs_device_statistics(device, index, &statistics), 0);
        CHECK(statistics.replies <= statistics.requests);
    }
}

static void open_all(void)
{
    uint8_t *bytes = malloc(SMALL_SIZE);
    char why[256];
    struct blob *blobs[1];

    CHECK(bytes);
    small_image_fill(bytes);
    CHECK_EQ(small_image_open(&image.rafs, bytes, SMALL_SIZE, why), 0);
    free(bytes);
    store = vfs_store_new();
    CHECK(store);
    blob = blobs[0] = small_blob_open(store, CHUNKS, false);
    device = vfs_device_new(store, QUEUES, 0, 10000000000ull, 20000);
    CHECK(device);
    CHECK_EQ(vfs_device_mount_image(device, "/", &image, blobs, NULL), 0);
    memory_fd = small_memfd((size_t)QUEUES * AREA);
    guest = mmap(NULL, (size_t)QUEUES * AREA, PROT_READ | PROT_WRITE, MAP_SHARED, memory_fd, 0);
    CHECK(guest != MAP_FAILED);
    share();
    for (unsigned i = 0; i < QUEUES; i++) {
        drivers[i] = (struct driver){ .index = i, .base = guest + (size_t)i * AREA, .gpa = (uint64_t)i * AREA };
        drivers[i].kick_fd = eventfd(0, EFD_NONBLOCK);
        drivers[i].call_fd = eventfd(0, EFD_NONBLOCK);
        start(i);
    }
}

static void close_all(void)
{
    vfs_device_free(device);
    vfs_blob_close(store, blob);
    vfs_store_free(store);
    small_image_close(&image.rafs);
    for (unsigned i = 0; i < QUEUES; i++) {
        close(drivers[i].kick_fd);
        close(drivers[i].call_fd);
    }
    munmap(guest, (size_t)QUEUES * AREA);
    close(memory_fd);
}

static void init_session(void)
{
    struct fuse_init_in in = { .major = 7, .minor = 36 };
    uint32_t length;
    int error;

    submit(&drivers[1], 0, FUSE_INIT, 0, &in, sizeof(in));
    CHECK_EQ(wait_reply(&drivers[1], &length, &error), 0);
    CHECK_EQ(error, 0);
    CHECK_EQ(length, sizeof(struct fuse_init_out));
}

static void test_readers_fetcher_and_control_plane_at_once(void)
{
    pthread_t threads[QUEUES], fetcher;
    struct vfs_statistics statistics;

    finished = 0;
    stop_fd = eventfd(0, 0);
    open_all();
    init_session();
    CHECK_EQ(pthread_create(&fetcher, NULL, fetch, NULL), 0);
    for (unsigned i = 0; i < QUEUES; i++)
        CHECK_EQ(pthread_create(&threads[i], NULL, drive, &drivers[i]), 0);
    control();
    for (unsigned i = 0; i < QUEUES; i++)
        pthread_join(threads[i], NULL);
    eventfd_write(stop_fd, 1);
    pthread_join(fetcher, NULL);
    for (unsigned i = 0; i < QUEUES; i++) {
        CHECK_EQ(vfs_device_statistics(device, i, &statistics), 0);
        CHECK_EQ(statistics.requests, REQUESTS + (i == 1));
        CHECK_EQ(statistics.replies, statistics.requests);
    }
    close_all();
    close(stop_fd);
}

static void *init_and_open(void *argument)
{
    struct driver *driver = argument;
    struct fuse_open_in open_in = { 0 };
    uint32_t length;
    int error;

    for (unsigned round = 0; round < 500; round++) {
        struct fuse_init_in in = { .major = 7, .minor = 31 + round % 9, .flags = round % 2 ? FUSE_NO_OPENDIR_SUPPORT : 0 };
        submit(driver, 0, FUSE_INIT, 0, &in, sizeof(in));
        wait_reply(driver, &length, &error);
        CHECK_EQ(error, 0);
        submit(driver, 0, FUSE_OPENDIR, FUSE_ROOT_ID, &open_in, sizeof(open_in));
        wait_reply(driver, &length, &error);
        CHECK(error == 0 || error == -ENOSYS);
    }
    return NULL;
}

static void test_sessions_begun_on_every_queue_at_once(void)
{
    pthread_t threads[QUEUES];

    open_all();
    for (unsigned i = 0; i < QUEUES; i++)
        CHECK_EQ(pthread_create(&threads[i], NULL, init_and_open, &drivers[i]), 0);
    for (unsigned i = 0; i < QUEUES; i++)
        pthread_join(threads[i], NULL);
    close_all();
}

static void test_reset_with_reads_that_wait(void)
{
    for (int round = 0; round < 50; round++) {
        uint32_t length;
        int error;

        open_all();
        init_session();
        for (unsigned i = 0; i < QUEUES; i++)
            submit_read(&drivers[i], 1, 0);
        if (round % 2)
            CHECK((uint64_t)vfs_vring_stop(device, 2, (unsigned)round % 3) <= 1); /* popped it, or not yet */
        vfs_device_reset(device);
        for (unsigned i = 0; i < QUEUES; i++) { /* answered, or not yet taken */
            if (__atomic_load_n(&used_of(&drivers[i])->idx, __ATOMIC_ACQUIRE) != drivers[i].used_idx) {
                CHECK_EQ(wait_reply(&drivers[i], &length, &error), 1);
                CHECK_EQ(error, -EIO);
            }
        }
        close_all();
    }
}

int main(void)
{
    RUN(test_readers_fetcher_and_control_plane_at_once);
    RUN(test_sessions_begun_on_every_queue_at_once);
    RUN(test_reset_with_reads_that_wait);
    return 0;
}
