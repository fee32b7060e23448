/* Bytes to and from lists of iovecs; every length is bounded by the list itself. */
#include <string.h>

#include "fuse_server.h"

uint32_t fuse_iov_slice(const struct iovec *iov, uint32_t count, uint64_t offset, uint64_t size, struct iovec *slice)
{
    uint32_t pieces = 0;

    for (uint32_t i = 0; i < count && size; i++) {
        if (offset >= iov[i].iov_len) {
            offset -= iov[i].iov_len;
            continue;
        }
        uint64_t take = iov[i].iov_len - offset;
        take = take < size ? take : size;
        slice[pieces++] = (struct iovec){ (uint8_t *)iov[i].iov_base + offset, take };
        offset = 0;
        size -= take;
    }
    return pieces;
}

enum direction { TAKE, STORE, ZERO };

static uint64_t move(enum direction direction, const struct iovec *iov, uint32_t count, uint64_t offset, uint8_t *bytes, uint64_t size)
{
    uint64_t done = 0;

    for (uint32_t i = 0; i < count && done < size; i++) {
        if (offset >= iov[i].iov_len) {
            offset -= iov[i].iov_len;
            continue;
        }
        uint8_t *there = (uint8_t *)iov[i].iov_base + offset;
        uint64_t length = iov[i].iov_len - offset;
        length = length < size - done ? length : size - done;
        if (direction == TAKE)
            memcpy(bytes + done, there, length);
        else if (direction == STORE)
            memcpy(there, bytes + done, length);
        else
            memset(there, 0, length);
        offset = 0;
        done += length;
    }
    return done;
}

size_t fuse_iov_read(const struct iovec *iov, uint32_t count, uint64_t offset, void *to, size_t size)
{
    return move(TAKE, iov, count, offset, to, size);
}

size_t fuse_iov_write(const struct iovec *iov, uint32_t count, uint64_t offset, const void *from, size_t size)
{
    return move(STORE, iov, count, offset, (uint8_t *)from, size);
}

void fuse_iov_zero(const struct iovec *iov, uint32_t count, uint64_t offset, uint64_t size)
{
    move(ZERO, iov, count, offset, NULL, size);
}
