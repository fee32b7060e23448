/* Attributes and directory entries in the forms that more than one file system answers with. */
#include <string.h>
#include <sys/stat.h>

#include "fuse_server.h"

int64_t fuse_reply_statx(const struct fuse_request *request, const struct fuse_attr *attr, uint64_t valid_s)
{
    struct fuse_statx_out out = { .attr_valid = valid_s };
    struct fuse_statx *stat = &out.stat;

    stat->mask = STATX_BASIC_STATS;
    stat->blksize = attr->blksize;
    stat->nlink = attr->nlink;
    stat->uid = attr->uid;
    stat->gid = attr->gid;
    stat->mode = (uint16_t)attr->mode;
    stat->ino = attr->ino;
    stat->size = attr->size;
    stat->blocks = attr->blocks;
    stat->atime = (struct fuse_sx_time){ .tv_sec = (int64_t)attr->atime, .tv_nsec = attr->atimensec };
    stat->mtime = (struct fuse_sx_time){ .tv_sec = (int64_t)attr->mtime, .tv_nsec = attr->mtimensec };
    stat->ctime = (struct fuse_sx_time){ .tv_sec = (int64_t)attr->ctime, .tv_nsec = attr->ctimensec };
    /* the kernel's 32-bit coding of a device number, as in struct fuse_attr */
    stat->rdev_major = attr->rdev >> 8 & 0xFFF;
    stat->rdev_minor = (attr->rdev & 0xFF) | (attr->rdev >> 12 & 0xFFF00);
    return fuse_reply(request, &out, sizeof(out));
}

size_t fuse_pack_dirent(uint8_t *to, const struct fuse_entry_out *entry, uint64_t ino, uint64_t off, uint32_t type,
                        const char *name, size_t name_length)
{
    struct fuse_dirent dirent = { .ino = ino, .off = off, .namelen = (uint32_t)name_length, .type = type };
    size_t at = 0, size;

    if (entry) {
        memcpy(to, entry, sizeof(*entry));
        at = sizeof(*entry);
    }
    memcpy(to + at, &dirent, FUSE_NAME_OFFSET);
    at += FUSE_NAME_OFFSET;
    memcpy(to + at, name, name_length);
    size = FUSE_DIRENT_ALIGN(at + name_length);
    memset(to + at + name_length, 0, size - (at + name_length));
    return size;
}
