/*
 * Notifications between a driver and the device's own thread, each of which sleeps whenever it may: a
 * request at a time, with as few kicks and calls as the rules allow. A lost one ends in a time-out.
 */
#include <linux/fuse.h>
#include <poll.h>
#include <sched.h>
#include <sys/eventfd.h>

#include "dataplane.h"
#include "ring_rig.h"

enum { NUM = 8, ROUNDS = 40000, TIMEOUT_MS = 10000 };

static uint8_t *guest;
static int kick_fd, call_fd;
static bool event_idx;
static uint16_t avail_idx, used_idx;
static unsigned kicks, usual_looks;

static struct vring_avail *avail(void) { return (struct vring_avail *)(guest + AVAIL_AT); }
static struct vring_used *used(void) { return (struct vring_used *)(guest + USED_AT); }

static void drain(int fd)
{
    struct pollfd pollfd = { .fd = fd, .events = POLLIN };
    eventfd_t ignored;

    CHECK_EQ(poll(&pollfd, 1, TIMEOUT_MS), 1);
    eventfd_read(fd, &ignored);
}

/* VIRTIO 1.2, 2.7.13: publish, fence, and only then look whether the device wants to know. */
static void submit(void)
{
    uint16_t old = avail_idx;
    bool wanted;

    avail()->ring[avail_idx % NUM] = 0;
    __atomic_store_n(&avail()->idx, ++avail_idx, __ATOMIC_RELEASE);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (event_idx)
        wanted = vring_need_event(__atomic_load_n((uint16_t *)&used()->ring[NUM], __ATOMIC_RELAXED), avail_idx, old);
    else
        wanted = !(__atomic_load_n(&used()->flags, __ATOMIC_RELAXED) & VRING_USED_F_NO_NOTIFY);
    if (wanted) {
        kicks++;
        eventfd_write(kick_fd, 1);
    }
}

/* 2.7.14: ask for a call, fence, look once more, sleep. At most `looks` looks come before that. */
static void wait_used(unsigned looks)
{
    unsigned looked = 0;

    while (__atomic_load_n(&used()->idx, __ATOMIC_ACQUIRE) == used_idx) {
        if (looked < looks) {
            looked++;
            continue;
        }
        if (event_idx)
            __atomic_store_n(&avail()->ring[NUM], used_idx, __ATOMIC_RELAXED);
        else
            __atomic_store_n(&avail()->flags, 0, __ATOMIC_RELAXED);
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        if (__atomic_load_n(&used()->idx, __ATOMIC_ACQUIRE) == used_idx)
            drain(call_fd);
        if (!event_idx)
            __atomic_store_n(&avail()->flags, VRING_AVAIL_F_NO_INTERRUPT, __ATOMIC_RELAXED);
    }
    used_idx++;
    if (looked < looks) /* the reply came first: so long it takes */
        usual_looks = (7 * usual_looks + looked) / 8;
}

static void ping_pong(bool with_event_idx, uint64_t poll_ns)
{
    struct chunk_store *store = vfs_store_new();
    struct vfs_device *device = vfs_device_new(store, 2, 0, 1000000000, poll_ns);
    struct vring_desc *desc;
    int fd = memfd_create("guest", MFD_CLOEXEC);

    CHECK(store && device && fd >= 0 && ftruncate(fd, MEMORY_SIZE) == 0);
    guest = mmap(NULL, MEMORY_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(guest != MAP_FAILED);
    kick_fd = eventfd(0, EFD_NONBLOCK);
    call_fd = eventfd(0, EFD_NONBLOCK);
    event_idx = with_event_idx;
    avail_idx = used_idx = 0;
    kicks = usual_looks = 0;
    desc = (struct vring_desc *)(guest + DESC_AT);
    desc[0] = (struct vring_desc){ DATA_AT, sizeof(struct fuse_in_header), VRING_DESC_F_NEXT, 1 };
    desc[1] = (struct vring_desc){ DATA_AT + 4096, 64, VRING_DESC_F_WRITE, 0 };
    *(struct fuse_in_header *)(guest + DATA_AT) = (struct fuse_in_header){ .len = sizeof(struct fuse_in_header), .opcode = FUSE_POLL };

    CHECK_EQ(vfs_device_add_region(device, 0, MEMORY_SIZE, USER_BASE, 0, fd), 0);
    vfs_device_set_features(device, 1, event_idx);
    CHECK_EQ(vfs_vring_set_num(device, 1, NUM), 0);
    CHECK_EQ(vfs_vring_set_addr(device, 1, USER_BASE + DESC_AT, USER_BASE + AVAIL_AT, USER_BASE + USED_AT), 0);
    CHECK_EQ(vfs_vring_set_call(device, 1, dup(call_fd)), 0);
    CHECK_EQ(vfs_vring_set_kick(device, 1, dup(kick_fd)), 0);
    CHECK_EQ(vfs_vring_set_enable(device, 1, 1), 0);
    for (unsigned round = 0; round < ROUNDS; round++) {
        for (unsigned spins = round * 7919 % 1500; spins; spins--) /* now and then just as the device falls asleep */
            __asm__ volatile("" ::: "memory");
        submit();
        wait_used(round % 4 ? usual_looks / 2 + round * 104729 % (usual_looks + 1) : 1u << 20);
    }
    CHECK(kicks > 0 && kicks <= ROUNDS);
    vfs_device_free(device);
    vfs_store_free(store);
    munmap(guest, MEMORY_SIZE);
    close(fd);
    close(kick_fd);
    close(call_fd);
}

static void test_event_idx(void) { ping_pong(true, 0); }
static void test_flags(void) { ping_pong(false, 0); }
static void test_event_idx_with_polling(void) { ping_pong(true, 20000); }
static void test_flags_with_polling(void) { ping_pong(false, 20000); }

int main(void)
{
    RUN(test_event_idx);
    RUN(test_flags);
    RUN(test_event_idx_with_polling);
    RUN(test_flags_with_polling);
    return 0;
}
