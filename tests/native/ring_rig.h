/* A virtqueue and the driver's side of it in plain C, for tests and fuzz targets: no thread, no Device. */
#ifndef VHOSTFS_TESTS_RING_RIG_H
#define VHOSTFS_TESTS_RING_RIG_H
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"
#include "gpa.h"
#include "vring.h"

#define MEMORY_SIZE (1u << 20)
#define DESC_AT 0x0u
#define AVAIL_AT 0x80000u
#define USED_AT 0x91000u
#define DATA_AT 0xD2000u /* what lies behind belongs to the test */
#define USER_BASE 0x7000000000ull

struct ring_rig {
    struct gpa_table memory;
    int fd;
    uint8_t *guest; /* the driver's own mapping */
    uint64_t gpa;
    struct virtqueue vq;
    struct vring_chain chain;
    uint16_t avail_idx;
};

/* A region of `size` bytes of a new memfd at `gpa`. Returns the fd. */
static inline int add_memory(struct gpa_table *memory, uint64_t gpa, uint64_t size, uint64_t user_addr)
{
    int fd = memfd_create("guest", MFD_CLOEXEC);

    CHECK(fd >= 0 && ftruncate(fd, (off_t)size) == 0);
    CHECK_EQ(gpa_add_region(memory, gpa, size, user_addr, 0, fd), 0);
    return fd;
}

static inline void ring_rig_open(struct ring_rig *rig, uint32_t num, uint64_t gpa)
{
    memset(rig, 0, sizeof(*rig));
    rig->gpa = gpa;
    rig->fd = add_memory(&rig->memory, gpa, MEMORY_SIZE, USER_BASE);
    rig->guest = mmap(NULL, MEMORY_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, rig->fd, 0);
    CHECK(rig->guest != MAP_FAILED);
    rig->vq = (struct virtqueue){ .num = num,
                                  .desc_user_addr = USER_BASE + DESC_AT,
                                  .avail_user_addr = USER_BASE + AVAIL_AT,
                                  .used_user_addr = USER_BASE + USED_AT,
                                  .has_addresses = true,
                                  .indirect = true };
    CHECK_EQ(vring_resolve(&rig->vq, &rig->memory), 0);
    rig->chain.capacity = VRING_MAX_INDIRECT(num) + GPA_MAX_REGIONS;
    rig->chain.iov = calloc(rig->chain.capacity, sizeof(struct iovec));
    rig->chain.gpa = calloc(rig->chain.capacity, sizeof(uint64_t));
    CHECK(rig->chain.iov && rig->chain.gpa);
}

static inline void ring_rig_close(struct ring_rig *rig)
{
    free(rig->chain.iov);
    free(rig->chain.gpa);
    munmap(rig->guest, MEMORY_SIZE);
    close(rig->fd);
    gpa_clear(&rig->memory);
}

static inline struct vring_desc *ring_rig_desc(struct ring_rig *rig, uint32_t at)
{
    return (struct vring_desc *)(rig->guest + DESC_AT) + at;
}

static inline struct vring_avail *ring_rig_avail(struct ring_rig *rig) { return (struct vring_avail *)(rig->guest + AVAIL_AT); }
static inline struct vring_used *ring_rig_used(struct ring_rig *rig) { return (struct vring_used *)(rig->guest + USED_AT); }

/* Where both rings begin. */
static inline void ring_rig_begin(struct ring_rig *rig, uint16_t base)
{
    rig->avail_idx = rig->vq.next_avail = rig->vq.next_used = base;
    ring_rig_avail(rig)->idx = base;
    ring_rig_used(rig)->idx = base;
}

static inline void ring_rig_offer(struct ring_rig *rig, uint16_t head)
{
    ring_rig_avail(rig)->ring[rig->avail_idx & (rig->vq.num - 1)] = head;
    __atomic_store_n(&ring_rig_avail(rig)->idx, ++rig->avail_idx, __ATOMIC_RELEASE);
}

static inline int ring_rig_pop(struct ring_rig *rig) { return vring_pop(&rig->vq, &rig->memory, &rig->chain); }
#endif
