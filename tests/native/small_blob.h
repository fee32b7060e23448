/* The cache files of a blob in memfds, for C tests: chunks of 4096 bytes, one after the other. */
#ifndef VHOSTFS_TESTS_SMALL_BLOB_H
#define VHOSTFS_TESTS_SMALL_BLOB_H
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "blob.h"
#include "check.h"
#include "rafs_format.h"

#define SMALL_CHUNK 4096

static inline int small_memfd(size_t size)
{
    int fd = memfd_create("cache", MFD_CLOEXEC);

    CHECK(fd >= 0 && ftruncate(fd, (off_t)size) == 0);
    return fd;
}

/* Opens a blob of `chunks` chunks, all ABSENT, with `v2` records or others. */
static inline struct blob *small_blob_open(struct chunk_store *store, uint32_t chunks, bool v2)
{
    size_t record = v2 ? sizeof(struct rafs_ci_v2) : sizeof(struct rafs_ci_v1), ci = (chunks * record + 4095) & ~4095ul;
    int data = small_memfd(chunks * (size_t)SMALL_CHUNK), map = small_memfd(4096 + (chunks + 7) / 8), meta = small_memfd(ci + 4096);
    struct rafs_ci_header header = { .magic = RAFS_CI_MAGIC, .features = v2 ? RAFS_BLOB_CHUNK_INFO_V2 : 0, .entries = chunks };
    struct rafs_chunk_map_header map_header = { .magic = RAFS_CHUNK_MAP_MAGIC, .magic2 = RAFS_CHUNK_MAP_MAGIC2 };
    struct blob *blob;

    for (uint32_t i = 0; i < chunks; i++) {
        uint64_t offset = i * (uint64_t)SMALL_CHUNK, size_minus_1 = SMALL_CHUNK - 1;
        struct rafs_ci_v1 one = { .uncompressed = offset | size_minus_1 << 44 };
        struct rafs_ci_v2 two = { .uncompressed = offset >> 12 | size_minus_1 << 32 };
        CHECK(pwrite(meta, v2 ? (void *)&two : (void *)&one, record, (off_t)(i * record)) == (ssize_t)record);
    }
    CHECK(pwrite(meta, &header, sizeof(header), (off_t)ci) == sizeof(header));
    CHECK(pwrite(map, &map_header, sizeof(map_header), 0) == sizeof(map_header));
    CHECK_EQ(blob_open(store, data, map, meta, chunks, chunks * (uint64_t)SMALL_CHUNK, &blob), 0);
    close(data); /* they were duplicated or mapped */
    close(map);
    close(meta);
    return blob;
}

/* Byte `at` of the blob's data. */
static inline uint8_t small_byte(uint64_t at) { return (uint8_t)(at * 31 + at / 4096 * 7 + 1); }

static inline void small_blob_write(const struct blob *blob, uint32_t chunk)
{
    uint8_t data[SMALL_CHUNK];

    for (uint32_t i = 0; i < SMALL_CHUNK; i++)
        data[i] = small_byte(chunk * (uint64_t)SMALL_CHUNK + i);
    CHECK(pwrite(blob->disk.data_fd, data, sizeof(data), chunk * (off_t)SMALL_CHUNK) == sizeof(data));
}
#endif
