/* Bytes to and from lists of pieces, against a flat copy. */
#include <string.h>

#include "check.h"
#include "fuse_server.h"

enum { SIZE = 400, PIECES = 40 };

static uint8_t memory[SIZE]; /* what the pieces lie in, in another order */
static struct iovec iov[PIECES], slice[PIECES];
static uint32_t count;
static uint64_t total;
static uint64_t seed = 7;

static uint32_t next_random(uint32_t below)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(seed >> 33) % below;
}

/* Cuts the memory in pieces, some of them empty, and shuffles them. */
static void cut(void)
{
    size_t at = 0;

    count = total = 0;
    while (at < SIZE && count < PIECES) {
        size_t length = next_random(30);
        length = length < SIZE - at ? length : SIZE - at;
        iov[count++] = (struct iovec){ memory + at, length };
        at += length;
        total += length;
    }
    for (uint32_t i = count - 1; i; i--) {
        uint32_t other = next_random(i + 1);
        struct iovec kept = iov[i];
        iov[i] = iov[other];
        iov[other] = kept;
    }
}

static uint8_t *byte_at(uint64_t offset)
{
    for (uint32_t i = 0; i < count; i++) {
        if (offset < iov[i].iov_len)
            return (uint8_t *)iov[i].iov_base + offset;
        offset -= iov[i].iov_len;
    }
    return NULL;
}

static uint64_t least(uint64_t a, uint64_t b) { return a < b ? a : b; }

static void test_read_write_zero_and_slice(void)
{
    uint8_t flat[SIZE + 50], got[SIZE + 50];

    for (int round = 0; round < 3000; round++) {
        cut();
        uint64_t offset = next_random(SIZE + 20), size = next_random(SIZE + 20), fits = offset < total ? least(size, total - offset) : 0;
        for (size_t i = 0; i < sizeof(flat); i++)
            flat[i] = (uint8_t)next_random(256);
        memset(memory, 0xEE, sizeof(memory));
        CHECK_EQ(fuse_iov_write(iov, count, offset, flat, size), fits);
        for (uint64_t i = 0; i < total; i++)
            CHECK_EQ(*byte_at(i), i >= offset && i < offset + fits ? flat[i - offset] : 0xEE);

        memset(got, 0xDD, sizeof(got));
        CHECK_EQ(fuse_iov_read(iov, count, offset, got, size), fits);
        for (uint64_t i = 0; i < sizeof(got); i++)
            CHECK_EQ(got[i], i < fits ? *byte_at(offset + i) : 0xDD);

        uint32_t pieces = fuse_iov_slice(iov, count, offset, size, slice);
        uint64_t sliced = 0;
        CHECK(pieces <= count);
        for (uint32_t i = 0; i < pieces; i++) {
            CHECK(slice[i].iov_len > 0);
            for (size_t at = 0; at < slice[i].iov_len; at++, sliced++)
                CHECK((uint8_t *)slice[i].iov_base + at == byte_at(offset + sliced));
        }
        CHECK_EQ(sliced, fits);

        fuse_iov_zero(iov, count, offset, size);
        for (uint64_t i = 0; i < total; i++)
            CHECK_EQ(*byte_at(i), i >= offset && i < offset + fits ? 0 : 0xEE);
    }
}

static void test_no_pieces_at_all(void)
{
    uint8_t byte = 1;

    CHECK_EQ(fuse_iov_read(iov, 0, 0, &byte, 1), 0);
    CHECK_EQ(fuse_iov_write(iov, 0, 0, &byte, 1), 0);
    CHECK_EQ(fuse_iov_slice(iov, 0, 0, 1, slice), 0);
    fuse_iov_zero(iov, 0, 0, 1);
    iov[0] = (struct iovec){ &byte, 1 };
    CHECK_EQ(fuse_iov_write(iov, 1, UINT64_MAX, &byte, 1), 0);
    CHECK_EQ(fuse_iov_slice(iov, 1, UINT64_MAX, UINT64_MAX, slice), 0);
    CHECK_EQ(fuse_iov_slice(iov, 1, 0, UINT64_MAX, slice), 1);
    fuse_iov_zero(iov, 1, 0, UINT64_MAX);
    CHECK_EQ(byte, 0);
}

int main(void)
{
    RUN(test_read_write_zero_and_slice);
    RUN(test_no_pieces_at_all);
    return 0;
}
