/* Opening a bootstrap: reading it, and what its two versions have in common. See rafs_image.h. */
#include "rafs_image.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "rafs_parse.h"

int rafs_check_flags(struct rafs_image *image, uint64_t flags, struct reason why)
{
    const uint64_t codecs = RAFS_FLAG_COMPRESS_NONE | RAFS_FLAG_COMPRESS_LZ4 | RAFS_FLAG_COMPRESS_GZIP | RAFS_FLAG_COMPRESS_ZSTD;
    const uint64_t digests = RAFS_FLAG_DIGEST_BLAKE3 | RAFS_FLAG_DIGEST_SHA256;
    const uint64_t known = codecs | digests | RAFS_FLAG_EXPLICIT_UIDGID | RAFS_FLAG_HAS_XATTR | RAFS_FLAG_INLINED_CHUNK_DIGEST |
                           RAFS_FLAG_TARFS | RAFS_FLAG_ENCRYPTION_NONE | RAFS_FLAG_ENCRYPTION_AES | RAFS_FLAG_RESERVED_COMPAT;

    if (flags & ~known)
        return refuse(why, -EOPNOTSUPP, "the image has unknown feature flags 0x%llx", (unsigned long long)(flags & ~known));
    if (!one_bit(flags & codecs) || !one_bit(flags & digests))
        return refuse(why, -EUCLEAN, "flags 0x%llx do not name one compressor and one digest", (unsigned long long)flags);
    if (flags & RAFS_FLAG_TARFS)
        return refuse(why, -EOPNOTSUPP, "tarfs images are not supported");
    if (flags & RAFS_FLAG_ENCRYPTION_AES)
        return refuse(why, -EOPNOTSUPP, "encrypted images are not supported");
    image->flags = flags;
    return 0;
}

int rafs_check_chunk_size(struct rafs_image *image, uint32_t chunk_size, struct reason why)
{
    if (!one_bit(chunk_size) || chunk_size < RAFS_MIN_CHUNK_SIZE || chunk_size > RAFS_MAX_CHUNK_SIZE)
        return refuse(why, -EUCLEAN, "chunk size %u is not a power of two from 4096 to 16777216", chunk_size);
    image->chunk_size = chunk_size;
    image->chunk_bits = (uint8_t)__builtin_ctz(chunk_size);
    return 0;
}

int rafs_check_blob(const struct rafs_image *image, unsigned index, struct reason why)
{
    const struct rafs_v6_blob *blob = &image->blobs[index];

    if (blob->blob_index != index || blob->chunk_size != image->chunk_size)
        return refuse(why, -EUCLEAN, "blob table entry %u has index %u and chunk size %u", index, blob->blob_index, blob->chunk_size);
    if (blob->chunk_count > RAFS_MAX_CHUNKS || blob->uncompressed_size > RAFS_MAX_UNCOMPRESSED ||
        blob->compressed_size > RAFS_MAX_COMPRESSED)
        return refuse(why, -EUCLEAN, "blob %u has sizes out of range", index);
    for (unsigned i = 0; i < sizeof(blob->blob_id); i++) { /* it becomes a file name and a part of a URL */
        uint8_t c = blob->blob_id[i];
        if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f')))
            return refuse(why, -EUCLEAN, "blob %u has an id that is not 64 hexadecimal digits", index);
    }
    for (unsigned other = 0; other < index; other++) {
        if (!memcmp(image->blobs[other].blob_id, blob->blob_id, sizeof(blob->blob_id)))
            return refuse(why, -EUCLEAN, "blobs %u and %u have the same id", other, index);
    }
    return 0;
}

int rafs_image_parse(struct rafs_image *image, const void *base, uint64_t size, char *why_text, size_t why_size)
{
    struct reason why = { why_text, why_size };
    struct rafs_inode root;
    const uint32_t *magic;
    int err;

    *image = (struct rafs_image){ .base = base, .size = size, .default_uid = geteuid(), .default_gid = getegid() };
    magic = rafs_at(image, 0, sizeof(*magic)); /* v6 has zeros here */
    err = magic && *magic == RAFS_V5_SUPER_MAGIC ? rafs5_parse(image, why) : rafs6_parse(image, why);
    if (!err) {
        err = rafs_inode_read(image, image->root_nid, &root);
        if (err || (root.mode & S_IFMT) != S_IFDIR)
            err = refuse(why, -EUCLEAN, "inode %llu, the root, is not a directory", (unsigned long long)image->root_nid);
    }
    if (err)
        rafs_image_drop(image);
    return err;
}

void rafs_image_drop(struct rafs_image *image)
{
    free(image->made_blobs);
    image->made_blobs = NULL;
}

static int read_whole(int fd, uint8_t *to, uint64_t size)
{
    for (uint64_t done = 0; done < size;) {
        ssize_t n = pread(fd, to + done, size - done, (off_t)done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        done += (uint64_t)n;
    }
    return 0;
}

int rafs_image_open(struct rafs_image *image, int fd, char *why_text, size_t why_size)
{
    struct reason why = { why_text, why_size };
    struct stat st;
    int err;

    image->base = NULL;
    if (fstat(fd, &st) < 0)
        return refuse(why, -errno, "cannot stat: %s", strerror(errno));
    if (!S_ISREG(st.st_mode) || st.st_size < 2 * RAFS_BLOCK_SIZE)
        return refuse(why, -EUCLEAN, "not a bootstrap: not a regular file of 8192 bytes or more");
    if (st.st_size > RAFS_MAX_BOOTSTRAP)
        return refuse(why, -EFBIG, "%lld bytes of metadata; at most %u are read into memory", (long long)st.st_size, RAFS_MAX_BOOTSTRAP);
    uint64_t size = (uint64_t)st.st_size;
    void *copy = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (copy == MAP_FAILED)
        return refuse(why, -ENOMEM, "no memory for %llu bytes of metadata", (unsigned long long)size);
    err = read_whole(fd, copy, size);
    if (err) {
        refuse(why, err, "cannot read: %s", strerror(-err));
    } else {
        mprotect(copy, size, PROT_READ);
        err = rafs_image_parse(image, copy, size, why_text, why_size);
    }
    if (err) {
        munmap(copy, size);
        image->base = NULL;
    }
    return err;
}

void rafs_image_close(struct rafs_image *image)
{
    if (!image->base)
        return;
    rafs_image_drop(image);
    munmap((void *)image->base, image->size);
    image->base = NULL;
}

static bool is_named(const struct rafs_xattr *xattr, const char *name, size_t length)
{
    size_t prefix = strlen(xattr->prefix);

    return length == prefix + xattr->suffix_length && !memcmp(name, xattr->prefix, prefix) &&
           !memcmp(name + prefix, xattr->suffix, xattr->suffix_length);
}

int rafs_xattr_find(const struct rafs_image *image, const struct rafs_inode *inode, const char *name, size_t length,
                    struct rafs_xattr *xattr)
{
    uint32_t at = 0;
    int got;

    while ((got = rafs_xattr_entry(image, inode, at, xattr, &at)) > 0) {
        if (is_named(xattr, name, length))
            return 0;
    }
    return got ? got : -ENODATA;
}
