/* Opening a bootstrap: the two super blocks and the tables they point at. See rafs_image.h. */
#include "rafs_image.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

struct reason {
    char *text;
    size_t size;
};

__attribute__((format(printf, 3, 4))) static int refuse(struct reason why, int err, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(why.text, why.size, format, args);
    va_end(args);
    return err;
}

static bool one_bit(uint64_t value) { return value && !(value & (value - 1)); }

static int check_flags(struct rafs_image *image, uint64_t flags, struct reason why)
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

static int check_erofs_super(struct rafs_image *image, const struct erofs_super_block *sb, struct reason why)
{
    if (sb->magic != EROFS_SUPER_MAGIC || !(sb->feature_compat & EROFS_COMPAT_RAFS_V6))
        return refuse(why, -EUCLEAN, "not a RAFS v6 bootstrap (no EROFS magic with the RAFS mark at offset 1024)");
    if (sb->blkszbits != 12)
        return refuse(why, -EOPNOTSUPP, "block size of 2^%u is not supported", sb->blkszbits);
    if (sb->feature_incompat != (EROFS_INCOMPAT_CHUNKED_FILE | EROFS_INCOMPAT_DEVICE_TABLE))
        return refuse(why, -EOPNOTSUPP, "the image has incompatible EROFS features 0x%x", sb->feature_incompat);
    if (sb->extra_devices > RAFS_MAX_BLOBS)
        return refuse(why, -EUCLEAN, "%u blobs; at most %u are possible", sb->extra_devices, RAFS_MAX_BLOBS);
    image->blkszbits = sb->blkszbits;
    image->inos = sb->inos;
    image->root_nid = sb->root_nid;
    image->blob_count = sb->extra_devices;
    image->meta_offset = (uint64_t)sb->meta_blkaddr << sb->blkszbits;
    if (image->meta_offset > image->size)
        return refuse(why, -EUCLEAN, "metadata would start at %llu, past the end of the image", (unsigned long long)image->meta_offset);
    return 0;
}

static int check_device_slots(const struct rafs_image *image, const struct erofs_super_block *sb, struct reason why)
{
    const struct erofs_device_slot *slots = rafs_at(image, (uint64_t)sb->devt_slotoff * sizeof(*slots), image->blob_count * sizeof(*slots));

    if (!slots)
        return refuse(why, -EUCLEAN, "the device table lies outside the image");
    for (unsigned i = 0; i < image->blob_count; i++) {
        if (memcmp(slots[i].tag, image->blobs[i].blob_id, sizeof(slots[i].tag)))
            return refuse(why, -EUCLEAN, "device slot %u names another blob than the blob table", i);
    }
    return 0;
}

static int check_blob(const struct rafs_image *image, unsigned index, struct reason why)
{
    const struct rafs_v6_blob *blob = &image->blobs[index];

    if (blob->blob_index != index || blob->chunk_size != image->chunk_size)
        return refuse(why, -EUCLEAN, "blob table entry %u has index %u and chunk size %u", index, blob->blob_index, blob->chunk_size);
    if (blob->chunk_count > RAFS_MAX_CHUNKS || blob->uncompressed_size > 1ull << 44 || blob->compressed_size > 1ull << 40)
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

static int check_tables(struct rafs_image *image, const struct rafs_v6_super_block *ext, struct reason why)
{
    int err = check_flags(image, ext->flags, why);

    if (err)
        return err;
    if (!one_bit(ext->chunk_size) || ext->chunk_size < RAFS_MIN_CHUNK_SIZE || ext->chunk_size > RAFS_MAX_CHUNK_SIZE)
        return refuse(why, -EUCLEAN, "chunk size %u is not a power of two from 4096 to 16777216", ext->chunk_size);
    image->chunk_size = ext->chunk_size;
    image->chunk_bits = (uint8_t)__builtin_ctz(ext->chunk_size);
    if (ext->blob_table_size != image->blob_count * sizeof(struct rafs_v6_blob))
        return refuse(why, -EUCLEAN, "blob table of %u bytes for %u blobs", ext->blob_table_size, image->blob_count);
    image->blobs = rafs_at(image, ext->blob_table_offset, ext->blob_table_size);
    image->chunk_table = rafs_at(image, ext->chunk_table_offset, ext->chunk_table_size);
    image->chunk_table_count = ext->chunk_table_size / sizeof(struct rafs_chunk_record);
    if (!image->blobs || !image->chunk_table)
        return refuse(why, -EUCLEAN, "the blob table or the chunk table lies outside the image");
    /* Old builders wrote a size without an offset for an empty table (section 2.3). */
    image->prefetch_count = ext->prefetch_table_offset ? ext->prefetch_table_size / 4 : 0;
    image->prefetch_table = rafs_at(image, ext->prefetch_table_offset, 4ull * image->prefetch_count);
    if (!image->prefetch_table)
        return refuse(why, -EUCLEAN, "the prefetch table lies outside the image");
    for (unsigned i = 0; i < image->blob_count; i++) {
        err = check_blob(image, i, why);
        if (err)
            return err;
    }
    return 0;
}

int rafs_image_parse(struct rafs_image *image, const void *base, uint64_t size, char *why_text, size_t why_size)
{
    struct reason why = { why_text, why_size };
    struct rafs_inode root;

    *image = (struct rafs_image){ .base = base, .size = size, .default_uid = geteuid(), .default_gid = getegid() };
    const struct erofs_super_block *sb = rafs_at(image, EROFS_SUPER_OFFSET, sizeof(*sb));
    const struct rafs_v6_super_block *ext = rafs_at(image, RAFS_V6_SUPER_OFFSET, sizeof(*ext));
    int err;

    if (!sb || !ext)
        return refuse(why, -EUCLEAN, "%llu bytes are too short for a bootstrap", (unsigned long long)image->size);
    err = check_erofs_super(image, sb, why);
    if (!err)
        err = check_tables(image, ext, why);
    if (!err)
        err = check_device_slots(image, sb, why);
    if (err)
        return err;
    err = rafs_inode_read(image, image->root_nid, &root);
    if (err || (root.mode & S_IFMT) != S_IFDIR)
        return refuse(why, -EUCLEAN, "nid %llu, the root, is not a directory", (unsigned long long)image->root_nid);
    return 0;
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
    if (image->base)
        munmap((void *)image->base, image->size);
    image->base = NULL;
}
