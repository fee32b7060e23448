/* v6: decoding one inode, compact or extended, and the bytes of flat ones. See rafs_image.h. */
#include <errno.h>
#include <sys/stat.h>

#include "rafs6.h"

static int decode_compact(const struct rafs_image *image, uint64_t at, struct rafs_inode *inode)
{
    const struct erofs_inode_compact *dic = rafs_at(image, at, sizeof(*dic));

    if (!dic)
        return -EUCLEAN;
    inode->mode = dic->mode;
    inode->size = dic->size;
    inode->u = dic->u;
    inode->uid = dic->uid;
    inode->gid = dic->gid;
    inode->nlink = dic->nlink;
    return 0;
}

static int decode_extended(const struct rafs_image *image, uint64_t at, struct rafs_inode *inode)
{
    const struct erofs_inode_extended *die = rafs_at(image, at, sizeof(*die));

    if (!die)
        return -EUCLEAN;
    inode->mode = die->mode;
    inode->size = die->size;
    inode->u = die->u;
    inode->uid = die->uid;
    inode->gid = die->gid;
    inode->nlink = die->nlink;
    inode->mtime = die->mtime;
    inode->mtime_nsec = die->mtime_nsec;
    return 0;
}

static int check_inode(const struct rafs_image *image, const struct rafs_inode *inode)
{
    bool regular = S_ISREG(inode->mode);

    switch (inode->mode & S_IFMT) {
    case S_IFREG: case S_IFDIR: case S_IFLNK: case S_IFCHR: case S_IFBLK: case S_IFIFO: case S_IFSOCK:
        break;
    default:
        return -EUCLEAN;
    }
    if (inode->size > INT64_MAX || inode->mtime_nsec >= 1000000000u)
        return -EUCLEAN;
    if (inode->layout == EROFS_LAYOUT_CHUNK_BASED) {
        uint64_t chunks = (inode->size >> image->chunk_bits) + !!(inode->size & (image->chunk_size - 1));
        if (!regular)
            return -EUCLEAN;
        if (!(inode->u & EROFS_CHUNK_FORMAT_INDEXES))
            return -EOPNOTSUPP;
        /* The index array is the one thing that a size cannot exceed by a lie. */
        if (chunks > image->size / sizeof(struct erofs_chunk_index) ||
            !rafs_at(image, inode->payload_offset, chunks * sizeof(struct erofs_chunk_index)))
            return -EUCLEAN;
    } else if (inode->layout != EROFS_LAYOUT_FLAT_PLAIN && inode->layout != EROFS_LAYOUT_FLAT_INLINE) {
        return -EOPNOTSUPP;
    }
    return 0;
}

int rafs6_inode_read(const struct rafs_image *image, uint64_t nid, struct rafs_inode *inode)
{
    uint64_t offset, end;
    const uint8_t *raw;
    unsigned format, icount, size;
    int err;

    *inode = (struct rafs_inode){ .nid = nid };
    if (nid == 0 || nid > image->last_nid)
        return -EUCLEAN;
    offset = image->meta_offset + nid * EROFS_SLOT_SIZE;
    raw = rafs_at(image, offset, 4); /* format and xattr_icount stand first in both forms */
    if (!raw)
        return -EUCLEAN;
    format = raw[0] | raw[1] << 8;
    icount = raw[2] | raw[3] << 8;
    if (format & ~0xFu)
        return -EOPNOTSUPP;
    inode->layout = (format >> 1) & 7;
    size = format & 1 ? sizeof(struct erofs_inode_extended) : sizeof(struct erofs_inode_compact);
    err = format & 1 ? decode_extended(image, offset, inode) : decode_compact(image, offset, inode);
    if (err)
        return err;
    if (!(image->flags & RAFS_FLAG_EXPLICIT_UIDGID)) {
        inode->uid = image->default_uid;
        inode->gid = image->default_gid;
    }
    inode->xattr_offset = offset + size;
    inode->xattr_size = icount ? (uint32_t)sizeof(struct erofs_xattr_ibody_header) + 4 * (icount - 1) : 0;
    if (!rafs_at(image, inode->xattr_offset, inode->xattr_size))
        return -EUCLEAN;
    end = inode->xattr_offset + inode->xattr_size;
    inode->payload_offset = inode->layout == EROFS_LAYOUT_CHUNK_BASED ? (end + 7) & ~7ull : end;
    return check_inode(image, inode);
}

int64_t rafs6_inode_offset(const struct rafs_image *image, uint64_t nid)
{
    return (int64_t)(image->meta_offset + nid * EROFS_SLOT_SIZE);
}

int rafs6_inode_flat(const struct rafs_image *image, const struct rafs_inode *inode, uint64_t offset,
                     const uint8_t **data, uint64_t *length)
{
    /* With the inline layout the part of the last block stands after the inode instead. */
    uint64_t plain = inode->layout == EROFS_LAYOUT_FLAT_INLINE ? inode->size & ~(RAFS_BLOCK_SIZE - 1ull) : inode->size;
    uint64_t at, left;

    if (inode->layout == EROFS_LAYOUT_CHUNK_BASED || offset >= inode->size)
        return -EUCLEAN;
    if (offset < plain) {
        at = ((uint64_t)inode->u << image->blkszbits) + offset;
        left = plain - offset;
    } else {
        at = inode->payload_offset + (offset - plain);
        left = inode->size - offset;
    }
    *length = *length < left ? *length : left;
    *data = rafs_at(image, at, *length);
    return *data ? 0 : -EUCLEAN;
}
