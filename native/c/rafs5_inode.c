/* v5: inode records, which the inode table points at (specification 4.3 and 4.5). See rafs_image.h. */
#include <string.h>
#include <sys/stat.h>

#include "rafs5.h"

int rafs5_record(const struct rafs_image *image, uint64_t index, struct rafs5_record *record)
{
    uint32_t place;
    uint64_t offset;

    if (index == 0 || index > image->last_nid)
        return -EUCLEAN;
    memcpy(&place, image->inode_table + 4 * (index - 1), sizeof(place));
    offset = (uint64_t)place * RAFS_V5_ALIGNMENT;
    record->inode = rafs_at(image, offset, sizeof(*record->inode));
    if (!record->inode)
        return -EUCLEAN;
    record->name = rafs_at(image, offset + sizeof(*record->inode), record->inode->name_size);
    record->target_offset = offset + sizeof(*record->inode) + rafs5_pad(record->inode->name_size);
    return record->name ? 0 : -EUCLEAN;
}

static int find_xattrs(const struct rafs_image *image, const struct rafs_v5_inode *raw, uint64_t *end, struct rafs_inode *inode)
{
    const uint64_t *size;

    if (!(raw->flags & RAFS_V5_INODE_XATTR))
        return 0;
    size = rafs_at(image, *end, sizeof(*size));
    if (!size || *size > UINT32_MAX || !rafs_at(image, *end + sizeof(*size), *size))
        return -EUCLEAN;
    inode->xattr_offset = *end + sizeof(*size);
    inode->xattr_size = (uint32_t)*size;
    *end = inode->xattr_offset + rafs5_pad(*size);
    return 0;
}

static int check_file(const struct rafs_image *image, struct rafs_inode *inode)
{
    uint64_t chunks = (inode->size >> image->chunk_bits) + !!(inode->size & (image->chunk_size - 1));

    inode->layout = EROFS_LAYOUT_CHUNK_BASED;
    if (inode->has_holes ? inode->count > chunks : inode->count != chunks)
        return -EUCLEAN;
    return rafs_at(image, inode->payload_offset, (uint64_t)inode->count * sizeof(struct rafs_chunk_record)) ? 0 : -EUCLEAN;
}

/* Children have larger indexes than their directory: so no directory contains itself. */
static int check_directory(const struct rafs_image *image, const struct rafs_inode *inode)
{
    if (inode->count && (inode->u <= inode->nid || inode->u > image->last_nid || inode->count > image->last_nid - inode->u + 1))
        return -EUCLEAN;
    return 0;
}

static int check_type(const struct rafs_image *image, struct rafs_inode *inode)
{
    switch (inode->mode & S_IFMT) {
    case S_IFREG:
        return check_file(image, inode);
    case S_IFDIR:
        return check_directory(image, inode);
    case S_IFLNK:
        inode->layout = EROFS_LAYOUT_FLAT_INLINE;
        return inode->size && inode->size <= RAFS_MAX_SYMLINK && rafs_at(image, inode->payload_offset, inode->size) ? 0 : -EUCLEAN;
    case S_IFCHR: case S_IFBLK: case S_IFIFO: case S_IFSOCK:
        return 0;
    default:
        return -EUCLEAN;
    }
}

int rafs5_inode_read(const struct rafs_image *image, uint64_t nid, struct rafs_inode *inode)
{
    struct rafs5_record record;
    const struct rafs_v5_inode *raw;
    uint64_t end;
    int err = rafs5_record(image, nid, &record);
    bool is_link;

    *inode = (struct rafs_inode){ .nid = nid };
    if (err)
        return err;
    raw = record.inode;
    /* The record of another name is no inode: its number is the first one's. */
    if (raw->ino != nid || raw->mode > UINT16_MAX || raw->size > INT64_MAX || raw->mtime_nsec >= 1000000000u)
        return -EUCLEAN;
    is_link = S_ISLNK(raw->mode);
    inode->mode = (uint16_t)raw->mode;
    inode->size = is_link ? raw->symlink_size : raw->size;
    inode->mtime = raw->mtime;
    inode->mtime_nsec = raw->mtime_nsec;
    inode->uid = image->flags & RAFS_FLAG_EXPLICIT_UIDGID ? raw->uid : image->default_uid;
    inode->gid = image->flags & RAFS_FLAG_EXPLICIT_UIDGID ? raw->gid : image->default_gid;
    inode->nlink = raw->nlink;
    inode->u = S_ISDIR(raw->mode) ? raw->child_index : raw->rdev;
    inode->count = raw->child_count;
    inode->has_holes = raw->flags & RAFS_V5_INODE_HAS_HOLE;
    end = record.target_offset + rafs5_pad(raw->symlink_size);
    err = find_xattrs(image, raw, &end, inode);
    if (err)
        return err;
    inode->payload_offset = is_link ? record.target_offset : end;
    return check_type(image, inode);
}

int64_t rafs5_inode_offset(const struct rafs_image *image, uint64_t nid)
{
    struct rafs5_record record;
    int err = rafs5_record(image, nid, &record);

    return err ? err : (int64_t)((const uint8_t *)record.inode - image->base);
}

int rafs5_inode_flat(const struct rafs_image *image, const struct rafs_inode *inode, uint64_t offset,
                     const uint8_t **data, uint64_t *length)
{
    if (!S_ISLNK(inode->mode) || offset >= inode->size)
        return -EUCLEAN;
    *length = *length < inode->size - offset ? *length : inode->size - offset;
    *data = rafs_at(image, inode->payload_offset + offset, *length);
    return *data ? 0 : -EUCLEAN;
}
