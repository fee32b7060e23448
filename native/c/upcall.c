/* The upcall ring. See upcall.h. */
#include "upcall.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "barrier.h"

struct upcall_shared {
    uint32_t head __attribute__((aligned(64))); /* written by the consumer */
    uint32_t tail __attribute__((aligned(64))); /* written by the producers */
    struct upcall_record records[UPCALL_CAPACITY] __attribute__((aligned(64)));
};

static void unmap(struct upcall_ring *ring)
{
    if (ring->shared != MAP_FAILED)
        munmap(ring->shared, sizeof(*ring->shared));
    if (ring->event_fd >= 0)
        close(ring->event_fd);
    if (ring->memory_fd >= 0)
        close(ring->memory_fd);
}

static int map(struct upcall_ring *ring)
{
    ring->shared = mmap(NULL, sizeof(*ring->shared), PROT_READ | PROT_WRITE, MAP_SHARED, ring->memory_fd, 0);
    return ring->shared == MAP_FAILED ? -errno : 0;
}

static int make(struct upcall_ring *ring)
{
    int err = 0;

    *ring = (struct upcall_ring){ .shared = MAP_FAILED };
    ring->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    ring->memory_fd = memfd_create("vhostfs-upcalls", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (ring->event_fd < 0 || ring->memory_fd < 0 || ftruncate(ring->memory_fd, sizeof(*ring->shared)) < 0 ||
        fcntl(ring->memory_fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
        err = -errno;
    if (!err)
        err = map(ring);
    if (err)
        unmap(ring);
    return err;
}

int upcall_ring_init(struct upcall_ring *ring)
{
    int err = make(ring);

    if (!err)
        pthread_mutex_init(&ring->producers, NULL);
    return err;
}

int upcall_ring_renew(struct upcall_ring *ring)
{
    struct upcall_ring fresh;
    int err = make(&fresh);

    if (err)
        return err;
    upcall_lock(ring);
    unmap(ring);
    ring->shared = fresh.shared;
    ring->memory_fd = fresh.memory_fd;
    ring->event_fd = fresh.event_fd;
    ring->head = ring->tail = 0;
    upcall_unlock(ring);
    return 0;
}

int upcall_ring_adopt(struct upcall_ring *ring, int memory_fd, int event_fd)
{
    struct stat st;
    int seals = fcntl(memory_fd, F_GET_SEALS), err;

    if (seals < 0 || !(seals & F_SEAL_SHRINK) || fstat(memory_fd, &st) < 0 || st.st_size < (off_t)sizeof(*ring->shared))
        return -EINVAL; /* a page that went away would be our SIGBUS */
    *ring = (struct upcall_ring){ .shared = MAP_FAILED };
    ring->memory_fd = fcntl(memory_fd, F_DUPFD_CLOEXEC, 0);
    ring->event_fd = fcntl(event_fd, F_DUPFD_CLOEXEC, 0);
    err = ring->memory_fd < 0 || ring->event_fd < 0 ? -errno : map(ring);
    if (err)
        unmap(ring);
    else
        pthread_mutex_init(&ring->producers, NULL);
    return err;
}

void upcall_ring_destroy(struct upcall_ring *ring)
{
    unmap(ring);
    pthread_mutex_destroy(&ring->producers);
}

void upcall_lock(struct upcall_ring *ring) { pthread_mutex_lock(&ring->producers); }
void upcall_unlock(struct upcall_ring *ring) { pthread_mutex_unlock(&ring->producers); }

bool upcall_has_room_locked(const struct upcall_ring *ring)
{
    /* acquire: the consumer has finished reading a record before we write it again */
    return ring->tail - __atomic_load_n(&ring->shared->head, __ATOMIC_ACQUIRE) < UPCALL_CAPACITY;
}

bool upcall_may_have_room(struct upcall_ring *ring)
{
    bool room;

    upcall_lock(ring); /* it may be renewed meanwhile */
    room = upcall_has_room_locked(ring);
    upcall_unlock(ring);
    return room;
}

void upcall_push_locked(struct upcall_ring *ring, uint32_t blob, uint32_t first_chunk, uint32_t chunk_count)
{
    struct upcall_shared *shared = ring->shared;
    uint32_t tail = ring->tail++;

    shared->records[tail % UPCALL_CAPACITY] = (struct upcall_record){ blob, first_chunk, chunk_count, 0 };
    __atomic_store_n(&shared->tail, tail + 1, __ATOMIC_RELEASE); /* the record before the index */
    full_fence(); /* our tail before the look at head; pairs with the one in upcall_take */
    if (__atomic_load_n(&shared->head, __ATOMIC_RELAXED) == tail)
        eventfd_write(ring->event_fd, 1); /* it was empty: the consumer may be asleep */
}

/* Takes the event back without ever waiting for one: O_NONBLOCK is the other process's to clear. */
static void forget_event(int event_fd)
{
    eventfd_t ignored;
    struct iovec iov = { &ignored, sizeof(ignored) };

    if (preadv2(event_fd, &iov, 1, -1, RWF_NOWAIT) < 0 && errno == EOPNOTSUPP)
        (void)!eventfd_read(event_fd, &ignored); /* before Linux 5.8 */
}

int upcall_take(struct upcall_ring *ring, struct upcall_record *records, unsigned limit, bool *more)
{
    struct upcall_shared *shared = ring->shared;
    uint32_t tail;
    unsigned taken = 0;

    forget_event(ring->event_fd);
    tail = __atomic_load_n(&shared->tail, __ATOMIC_ACQUIRE);
    if (tail - ring->head > UPCALL_CAPACITY)
        return -EPROTO;
    while (taken < limit && ring->head != tail)
        records[taken++] = shared->records[ring->head++ % UPCALL_CAPACITY];
    copied_once();
    __atomic_store_n(&shared->head, ring->head, __ATOMIC_RELEASE);
    full_fence(); /* our head before the second look at tail: a producer that saw the old head, and
                     therefore wrote no event, stored its tail before this look */
    *more = ring->head != __atomic_load_n(&shared->tail, __ATOMIC_ACQUIRE);
    return (int)taken;
}
