/* The completion ring. See completion.h. */
#include "completion.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "barrier.h"

struct completion_shared {
    uint32_t head __attribute__((aligned(64))); /* written by the consumer */
    uint32_t tail __attribute__((aligned(64))); /* written by the producer, and bell with it */
    uint32_t bell;
    struct upcall_record records[COMPLETION_CAPACITY] __attribute__((aligned(64)));
};

static int map(struct completion_ring *ring)
{
    ring->shared = mmap(NULL, sizeof(*ring->shared), PROT_READ | PROT_WRITE, MAP_SHARED, ring->memory_fd, 0);
    return ring->shared == MAP_FAILED ? -errno : 0;
}

int completion_ring_init(struct completion_ring *ring)
{
    int err = 0;

    *ring = (struct completion_ring){ .shared = MAP_FAILED };
    ring->memory_fd = memfd_create("vhostfs-completions", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (ring->memory_fd < 0 || ftruncate(ring->memory_fd, sizeof(*ring->shared)) < 0 ||
        fcntl(ring->memory_fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
        err = -errno;
    if (!err)
        err = map(ring);
    if (err)
        completion_ring_destroy(ring);
    return err;
}

int completion_ring_adopt(struct completion_ring *ring, int memory_fd)
{
    struct stat st;
    int seals = fcntl(memory_fd, F_GET_SEALS), err;

    if (seals < 0 || !(seals & F_SEAL_SHRINK) || fstat(memory_fd, &st) < 0 || st.st_size < (off_t)sizeof(*ring->shared))
        return -EINVAL;
    *ring = (struct completion_ring){ .shared = MAP_FAILED };
    ring->memory_fd = fcntl(memory_fd, F_DUPFD_CLOEXEC, 0);
    err = ring->memory_fd < 0 ? -errno : map(ring);
    if (err)
        completion_ring_destroy(ring);
    return err;
}

void completion_ring_destroy(struct completion_ring *ring)
{
    if (ring->shared != MAP_FAILED)
        munmap(ring->shared, sizeof(*ring->shared));
    if (ring->memory_fd >= 0)
        close(ring->memory_fd);
}

uint32_t completion_room(const struct completion_ring *ring)
{
    /* acquire: the consumer has finished reading a record before we write it again */
    uint32_t used = ring->tail - __atomic_load_n(&ring->shared->head, __ATOMIC_ACQUIRE);

    return used <= COMPLETION_CAPACITY ? COMPLETION_CAPACITY - used : 0;
}

void completion_ring_bell(struct completion_ring *ring)
{
    /* release: what is told of is there before the bell; a consumer that saw the old value and is about to
     * sleep on it is not put to sleep by the kernel, which compares once more */
    __atomic_fetch_add(&ring->shared->bell, 1, __ATOMIC_RELEASE);
    syscall(SYS_futex, &ring->shared->bell, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

void completion_push(struct completion_ring *ring, const struct upcall_record *record)
{
    struct completion_shared *shared = ring->shared;

    shared->records[ring->tail % COMPLETION_CAPACITY] = *record;
    /* release: the record, and the READY bits before it, are seen by who sees the index */
    __atomic_store_n(&shared->tail, ++ring->tail, __ATOMIC_RELEASE);
    completion_ring_bell(ring);
}

unsigned completion_take(struct completion_ring *ring, struct upcall_record *records, unsigned limit)
{
    struct completion_shared *shared = ring->shared;
    uint32_t tail = __atomic_load_n(&shared->tail, __ATOMIC_ACQUIRE);
    unsigned taken = 0;

    while (taken < limit && ring->head != tail)
        records[taken++] = shared->records[ring->head++ % COMPLETION_CAPACITY];
    __atomic_store_n(&shared->head, ring->head, __ATOMIC_RELEASE);
    return taken;
}

uint32_t completion_bell(const struct completion_ring *ring)
{
    return __atomic_load_n(&ring->shared->bell, __ATOMIC_ACQUIRE);
}

void completion_wait_bell(struct completion_ring *ring, uint32_t seen)
{
    syscall(SYS_futex, &ring->shared->bell, FUTEX_WAIT, seen, NULL, NULL, 0);
}
