/* Bytes to and from lists of iovecs; every length is bounded by the list itself. */
#include <string.h>

#include "fuse_server.h"

size_t fuse_iov_read(const struct iovec *iov, uint32_t count, void *to, size_t size)
{
    size_t done = 0;

    for (uint32_t i = 0; i < count && done < size; i++) {
        size_t take = iov[i].iov_len < size - done ? iov[i].iov_len : size - done;
        memcpy((uint8_t *)to + done, iov[i].iov_base, take);
        done += take;
    }
    return done;
}

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

/* Copies from `from`, or stores zeros where it is NULL. */
static size_t store(const struct iovec *iov, uint32_t count, uint64_t offset, const uint8_t *from, uint64_t size)
{
    uint64_t done = 0;

    for (uint32_t i = 0; i < count && done < size; i++) {
        if (offset >= iov[i].iov_len) {
            offset -= iov[i].iov_len;
            continue;
        }
        uint64_t take = iov[i].iov_len - offset;
        take = take < size - done ? take : size - done;
        if (from)
            memcpy((uint8_t *)iov[i].iov_base + offset, from + done, take);
        else
            memset((uint8_t *)iov[i].iov_base + offset, 0, take);
        offset = 0;
        done += take;
    }
    return done;
}

size_t fuse_iov_write(const struct iovec *iov, uint32_t count, uint64_t offset, const void *from, size_t size)
{
    return store(iov, count, offset, from, size);
}

void fuse_iov_zero(const struct iovec *iov, uint32_t count, uint64_t offset, uint64_t size)
{
    store(iov, count, offset, NULL, size);
}
