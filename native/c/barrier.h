/*
 * Every ordering primitive that touches memory shared with the driver (guest) or with another
 * process, each named for the pairing it is for. Nothing else may use __atomic_* on shared memory.
 *
 * Guest memory is little-endian (VIRTIO_F_VERSION_1); only little-endian hosts are built.
 */
#ifndef VHOSTFS_BARRIER_H
#define VHOSTFS_BARRIER_H
#include <stdint.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "only little-endian hosts");

/* Pairs with the driver's write barrier before it stores avail->idx: ring entries and descriptors
 * that the index covers are seen by loads after this one. */
static inline uint16_t ring_load_acquire(const uint16_t *shared_idx)
{
    return __atomic_load_n(shared_idx, __ATOMIC_ACQUIRE);
}

/* Pairs with the driver's read barrier after it loads used->idx: the used element and the reply
 * bytes written before this store are seen by a driver that sees the new index. */
static inline void ring_store_release(uint16_t *shared_idx, uint16_t value)
{
    __atomic_store_n(shared_idx, value, __ATOMIC_RELEASE);
}

/* For a word the other side may change at any time, where no other access is ordered by it. */
#define shared_load_relaxed(p) __atomic_load_n((p), __ATOMIC_RELAXED)
#define shared_store_relaxed(p, v) __atomic_store_n((p), (v), __ATOMIC_RELAXED)

/* Store-load fence: between publishing used->idx (or avail_event) and reading the driver's
 * used_event (or avail->idx). Without it both sides may read the old value and both go to sleep. */
static inline void full_fence(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

/* What was copied from shared memory stays a copy: the compiler may not fetch it from there again. */
static inline void copied_once(void) { __asm__ volatile("" ::: "memory"); }

static inline void cpu_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}
#endif
