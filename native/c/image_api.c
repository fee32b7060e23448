/* The image reader as Python sees it (decl/dataplane.h): the same functions that serve guests. */
#include "image_api.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "dataplane.h"

int vfs_image_open(int fd, struct vfs_image **out, char *why, size_t why_size)
{
    struct vfs_image *image = calloc(1, sizeof(*image));
    int err = image ? rafs_image_open(&image->rafs, fd, why, why_size) : -ENOMEM;

    if (err)
        free(image);
    else
        *out = image;
    return err;
}

void vfs_image_close(struct vfs_image *image)
{
    rafs_image_close(&image->rafs);
    free(image);
}

void vfs_image_facts(const struct vfs_image *image, struct vfs_image_facts *facts)
{
    const struct rafs_image *rafs = &image->rafs;

    *facts = (struct vfs_image_facts){
        .size = rafs->size,
        .last_nid = rafs->last_nid,
        .root_nid = rafs->root_nid,
        .inos = rafs->inos,
        .flags = rafs->flags,
        .chunk_table_count = rafs->chunk_table_count,
        .chunk_size = rafs->chunk_size,
        .blob_count = rafs->blob_count,
        .prefetch_count = rafs->prefetch_count,
        .version = rafs->version,
    };
}

const uint8_t *vfs_image_blob_record(const struct vfs_image *image, uint32_t index)
{
    return index < image->rafs.blob_count ? (const uint8_t *)&image->rafs.blobs[index] : NULL;
}

const uint8_t *vfs_image_chunk_record(const struct vfs_image *image, uint64_t index)
{
    return index < image->rafs.chunk_table_count ? (const uint8_t *)&image->rafs.chunk_table[index] : NULL;
}

int vfs_image_chunks(const struct vfs_image *image, uint32_t blob_index, struct rafs_chunk_record **records, uint32_t *count,
                     char *why, size_t why_size)
{
    if (image->rafs.version != 5 || blob_index >= image->rafs.blob_count)
        return -EINVAL;
    return rafs5_chunks(&image->rafs, blob_index, records, count, why, why_size);
}

void vfs_image_chunks_free(struct rafs_chunk_record *records) { free(records); }

const uint8_t *vfs_image_prefetch_table(const struct vfs_image *image) { return image->rafs.prefetch_table; }

int vfs_image_inode(const struct vfs_image *image, uint64_t nid, struct vfs_inode *out)
{
    struct rafs_inode inode;
    int err = rafs_inode_read(&image->rafs, nid, &inode);

    if (err)
        return err;
    *out = (struct vfs_inode){
        .nid = nid,
        .size = inode.size,
        .mtime = inode.mtime,
        .mtime_nsec = inode.mtime_nsec,
        .uid = inode.uid,
        .gid = inode.gid,
        .nlink = inode.nlink,
        .rdev = S_ISCHR(inode.mode) || S_ISBLK(inode.mode) ? inode.u : 0,
        .mode = inode.mode,
    };
    return 0;
}

int64_t vfs_image_offset(const struct vfs_image *image, uint64_t nid)
{
    struct rafs_inode inode;
    int err = rafs_inode_read(&image->rafs, nid, &inode);

    return err ? err : rafs_inode_offset(&image->rafs, nid);
}

const uint8_t *vfs_image_digest(const struct vfs_image *image, uint64_t nid)
{
    struct rafs_inode inode;

    if (image->rafs.version != 5 || rafs_inode_read(&image->rafs, nid, &inode))
        return NULL;
    return image->rafs.base + rafs_inode_offset(&image->rafs, nid) + offsetof(struct rafs_v5_inode, digest);
}

static int directory(const struct vfs_image *image, uint64_t nid, struct rafs_inode *inode)
{
    int err = rafs_inode_read(&image->rafs, nid, inode);

    return err ? err : S_ISDIR(inode->mode) ? 0 : -ENOTDIR;
}

int vfs_image_lookup(const struct vfs_image *image, uint64_t nid, const char *name, size_t length, uint64_t *child)
{
    struct rafs_inode inode;
    int err = directory(image, nid, &inode);

    return err ? err : rafs_lookup(&image->rafs, &inode, name, length, child);
}

int vfs_image_dirent(const struct vfs_image *image, uint64_t nid, uint64_t cookie, struct vfs_dirent *out)
{
    struct rafs_inode inode;
    struct rafs_dirent entry;
    int got = directory(image, nid, &inode);

    if (!got)
        got = rafs_dir_entry(&image->rafs, &inode, cookie, &entry, &out->next);
    if (got <= 0)
        return got;
    out->nid = entry.nid;
    out->name = entry.name;
    out->name_length = entry.name_length;
    out->file_type = entry.file_type;
    return 1;
}

int vfs_image_xattr(const struct vfs_image *image, uint64_t nid, uint32_t offset, struct vfs_xattr *out)
{
    struct rafs_inode inode;
    struct rafs_xattr xattr;
    int got = rafs_inode_read(&image->rafs, nid, &inode);

    if (!got)
        got = rafs_xattr_entry(&image->rafs, &inode, offset, &xattr, &out->next);
    if (got <= 0)
        return got;
    out->prefix = xattr.prefix;
    out->suffix = xattr.suffix;
    out->suffix_length = xattr.suffix_length;
    out->value = xattr.value;
    out->value_size = xattr.value_size;
    return 1;
}

int vfs_image_map(const struct vfs_image *image, uint64_t nid, uint64_t offset, uint64_t length, struct vfs_extent *out)
{
    struct rafs_inode inode;
    struct rafs_extent extent = { 0 };
    int err = rafs_inode_read(&image->rafs, nid, &inode);

    if (!err)
        err = rafs_map(&image->rafs, &inode, offset, length, &extent);
    if (err)
        return err;
    *out = (struct vfs_extent){
        .kind = extent.kind, /* the two enumerations agree: pinned below */
        .blob_index = extent.blob_index,
        .chunk_index = extent.chunk_index,
        .offset_in_chunk = extent.offset_in_chunk,
        .length = extent.length,
        .blob_offset = extent.blob_offset,
        .inline_data = extent.inline_data,
    };
    return 0;
}
_Static_assert((int)VFS_EXTENT_CHUNK == RAFS_EXTENT_CHUNK && (int)VFS_EXTENT_INLINE == RAFS_EXTENT_INLINE &&
                   (int)VFS_EXTENT_HOLE == RAFS_EXTENT_HOLE,
               "extent kinds");
