/* The upcall ring. See upcall.h. */
#include "upcall.h"

#include <errno.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "barrier.h"

struct upcall_shared {
    uint32_t head __attribute__((aligned(64))); /* written by the consumer */
    uint32_t tail __attribute__((aligned(64))); /* written by the producers */
    struct upcall_record records[UPCALL_CAPACITY] __attribute__((aligned(64)));
};

int upcall_ring_init(struct upcall_ring *ring)
{
    int err = -ENOMEM;

    ring->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    ring->memory_fd = memfd_create("vhostfs-upcalls", MFD_CLOEXEC);
    ring->shared = MAP_FAILED;
    pthread_mutex_init(&ring->producers, NULL);
    if (ring->event_fd < 0 || ring->memory_fd < 0 || ftruncate(ring->memory_fd, sizeof(*ring->shared)) < 0)
        err = -errno;
    else
        ring->shared = mmap(NULL, sizeof(*ring->shared), PROT_READ | PROT_WRITE, MAP_SHARED, ring->memory_fd, 0);
    if (ring->shared != MAP_FAILED)
        return 0;
    upcall_ring_destroy(ring);
    return err;
}

void upcall_ring_destroy(struct upcall_ring *ring)
{
    if (ring->shared != MAP_FAILED)
        munmap(ring->shared, sizeof(*ring->shared));
    if (ring->event_fd >= 0)
        close(ring->event_fd);
    if (ring->memory_fd >= 0)
        close(ring->memory_fd);
    pthread_mutex_destroy(&ring->producers);
}

void upcall_lock(struct upcall_ring *ring) { pthread_mutex_lock(&ring->producers); }
void upcall_unlock(struct upcall_ring *ring) { pthread_mutex_unlock(&ring->producers); }

bool upcall_has_room_locked(const struct upcall_ring *ring)
{
    /* acquire: the consumer has finished reading a record before we write it again */
    return ring->shared->tail - __atomic_load_n(&ring->shared->head, __ATOMIC_ACQUIRE) < UPCALL_CAPACITY;
}

bool upcall_may_have_room(const struct upcall_ring *ring)
{
    return shared_load_relaxed(&ring->shared->tail) - shared_load_relaxed(&ring->shared->head) < UPCALL_CAPACITY;
}

void upcall_push_locked(struct upcall_ring *ring, uint32_t blob, uint32_t first_chunk, uint32_t chunk_count)
{
    struct upcall_shared *shared = ring->shared;
    uint32_t tail = shared->tail;

    shared->records[tail % UPCALL_CAPACITY] = (struct upcall_record){ blob, first_chunk, chunk_count, 0 };
    __atomic_store_n(&shared->tail, tail + 1, __ATOMIC_RELEASE); /* the record before the index */
    full_fence(); /* our tail before the look at head; pairs with the one in upcall_take */
    if (__atomic_load_n(&shared->head, __ATOMIC_RELAXED) == tail)
        eventfd_write(ring->event_fd, 1); /* it was empty: the consumer may be asleep */
}

unsigned upcall_take(struct upcall_ring *ring, struct upcall_record *records, unsigned limit)
{
    struct upcall_shared *shared = ring->shared;
    uint32_t head = shared->head;
    unsigned taken = 0;
    eventfd_t ignored;

    (void)!eventfd_read(ring->event_fd, &ignored);
    while (taken < limit && head != __atomic_load_n(&shared->tail, __ATOMIC_ACQUIRE))
        records[taken++] = shared->records[head++ % UPCALL_CAPACITY];
    __atomic_store_n(&shared->head, head, __ATOMIC_RELEASE);
    full_fence(); /* our head before the second look at tail: a producer that saw the old head, and
                     therefore wrote no event, stored its tail before this look */
    if (head != __atomic_load_n(&shared->tail, __ATOMIC_ACQUIRE))
        eventfd_write(ring->event_fd, 1);
    return taken;
}
