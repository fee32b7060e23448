/* Operations on inodes that need the metadata only. Nothing is kept between requests: a node id is
 * the image's nid, and the image never changes, so there is nothing for FORGET to release. */
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fuse_server.h"

int fuse_inode(const struct fuse_server *server, uint64_t nodeid, struct rafs_inode *inode)
{
    int err;

    if (!server->image)
        return -ENODEV;
    err = rafs_inode_read(server->image, nodeid == FUSE_ROOT_ID ? server->image->root_nid : nodeid, inode);
    return err == -EUCLEAN ? -ESTALE : err; /* a node id is the guest's word, not the image's */
}

int fuse_nodeid(const struct fuse_server *server, uint64_t nid, uint64_t *nodeid)
{
    *nodeid = nid == server->image->root_nid ? FUSE_ROOT_ID : nid;
    return nid == FUSE_ROOT_ID ? -EUCLEAN : 0; /* no inode can lie there: it would be in the reserved area */
}

void fuse_fill_attr(const struct rafs_inode *inode, struct fuse_attr *attr)
{
    bool is_special = S_ISCHR(inode->mode) || S_ISBLK(inode->mode);

    *attr = (struct fuse_attr){
        .ino = inode->nid,
        .size = inode->size,
        .blocks = (inode->size + 511) / 512,
        .atime = inode->mtime,
        .mtime = inode->mtime,
        .ctime = inode->mtime,
        .atimensec = inode->mtime_nsec,
        .mtimensec = inode->mtime_nsec,
        .ctimensec = inode->mtime_nsec,
        .mode = inode->mode,
        .nlink = inode->nlink,
        .uid = inode->uid,
        .gid = inode->gid,
        .rdev = is_special ? inode->u : 0, /* the image and FUSE code it alike */
        .blksize = RAFS_BLOCK_SIZE,
    };
}

void fuse_fill_entry(const struct rafs_inode *inode, uint64_t nodeid, struct fuse_entry_out *entry)
{
    *entry = (struct fuse_entry_out){ .nodeid = nodeid, .entry_valid = FUSE_FOREVER, .attr_valid = FUSE_FOREVER };
    fuse_fill_attr(inode, &entry->attr);
}

static int find_child(struct fuse_server *server, const struct rafs_inode *dir, const char *name, size_t length, uint64_t *nid)
{
    if (length == 1 && name[0] == '.') { /* EXPORT_SUPPORT: a file handle's inode, of any type */
        *nid = dir->nid;
        return 0;
    }
    if (!S_ISDIR(dir->mode))
        return -ENOTDIR;
    return rafs_lookup(server->image, dir, name, length, nid);
}

int64_t fuse_lookup(struct fuse_server *server, struct fuse_request *request)
{
    const char *name = (const char *)request->args;
    size_t length = strnlen(name, request->args_size);
    struct fuse_entry_out entry = { .entry_valid = FUSE_FOREVER };
    struct rafs_inode inode;
    uint64_t nid, nodeid;
    int err;

    if (length == 0 || length == request->args_size)
        return -EINVAL;
    if (length > RAFS_MAX_NAME)
        return -ENAMETOOLONG;
    err = fuse_inode(server, request->in.nodeid, &inode);
    if (!err)
        err = find_child(server, &inode, name, length, &nid);
    if (err == -ENOENT) /* node id 0: the driver may remember for ever that there is none */
        return fuse_reply(request, &entry, sizeof(entry));
    if (!err)
        err = rafs_inode_read(server->image, nid, &inode);
    if (!err)
        err = fuse_nodeid(server, nid, &nodeid);
    if (err)
        return err;
    fuse_fill_entry(&inode, nodeid, &entry);
    return fuse_reply(request, &entry, sizeof(entry));
}

int64_t fuse_getattr(struct fuse_server *server, struct fuse_request *request)
{
    struct fuse_attr_out out = { .attr_valid = FUSE_FOREVER };
    struct rafs_inode inode;
    int err = fuse_inode(server, request->in.nodeid, &inode);

    if (err)
        return err;
    fuse_fill_attr(&inode, &out.attr);
    return fuse_reply(request, &out, sizeof(out));
}

int64_t fuse_statx(struct fuse_server *server, struct fuse_request *request)
{
    struct fuse_statx_out out = { .attr_valid = FUSE_FOREVER };
    struct fuse_statx *stat = &out.stat;
    struct fuse_attr attr;
    struct rafs_inode inode;
    int err = fuse_inode(server, request->in.nodeid, &inode);

    if (err)
        return err;
    fuse_fill_attr(&inode, &attr);
    stat->mask = STATX_BASIC_STATS;
    stat->blksize = attr.blksize;
    stat->nlink = attr.nlink;
    stat->uid = attr.uid;
    stat->gid = attr.gid;
    stat->mode = (uint16_t)attr.mode;
    stat->ino = attr.ino;
    stat->size = attr.size;
    stat->blocks = attr.blocks;
    stat->mtime = (struct fuse_sx_time){ .tv_sec = (int64_t)attr.mtime, .tv_nsec = attr.mtimensec };
    stat->atime = stat->ctime = stat->mtime;
    /* the kernel's 32-bit coding of a device number, as in struct fuse_attr */
    stat->rdev_major = attr.rdev >> 8 & 0xFFF;
    stat->rdev_minor = (attr.rdev & 0xFF) | (attr.rdev >> 12 & 0xFFF00);
    return fuse_reply(request, &out, sizeof(out));
}

int64_t fuse_readlink(struct fuse_server *server, struct fuse_request *request)
{
    struct rafs_inode inode;
    uint64_t done = 0, room = request->writable_size - sizeof(struct fuse_out_header);
    int err = fuse_inode(server, request->in.nodeid, &inode);

    if (err)
        return err;
    if (!S_ISLNK(inode.mode))
        return -EINVAL;
    if (inode.size > RAFS_MAX_SYMLINK)
        return -EUCLEAN;
    if (request->writable_size < sizeof(struct fuse_out_header) || room < inode.size)
        return -ENAMETOOLONG;
    while (done < inode.size) {
        const uint8_t *data;
        uint64_t length = inode.size - done;
        err = rafs_inode_flat(server->image, &inode, done, &data, &length);
        if (err)
            return err;
        fuse_iov_write(request->writable, request->writable_count, sizeof(struct fuse_out_header) + done, data, length);
        done += length;
    }
    return (int64_t)done;
}

/* A driver that can do without handles hears ENOSYS once and never asks again; another one gets an
 * empty handle, and is told to keep its caches. */
static int64_t open_inode(struct fuse_server *server, struct fuse_request *request, bool want_directory, uint32_t flags)
{
    const struct fuse_open_in *in = (const struct fuse_open_in *)request->args;
    struct fuse_open_out out = { .open_flags = flags };
    struct rafs_inode inode;
    int err;

    if ((in->flags & O_ACCMODE) != O_RDONLY || (in->flags & (O_TRUNC | O_CREAT)))
        return -EROFS;
    if (__atomic_load_n(want_directory ? &server->no_opendir : &server->no_open, __ATOMIC_RELAXED))
        return -ENOSYS;
    err = fuse_inode(server, request->in.nodeid, &inode);
    if (err)
        return err;
    if (S_ISDIR(inode.mode) != want_directory)
        return want_directory ? -ENOTDIR : -EISDIR;
    return fuse_reply(request, &out, sizeof(out));
}

int64_t fuse_open(struct fuse_server *server, struct fuse_request *request)
{
    return open_inode(server, request, false, FOPEN_KEEP_CACHE);
}

int64_t fuse_opendir(struct fuse_server *server, struct fuse_request *request)
{
    return open_inode(server, request, true, FOPEN_KEEP_CACHE | FOPEN_CACHE_DIR);
}

int64_t fuse_access(struct fuse_server *server, struct fuse_request *request)
{
    const struct fuse_access_in *in = (const struct fuse_access_in *)request->args;
    struct rafs_inode inode;
    int err = fuse_inode(server, request->in.nodeid, &inode);

    /* Who may do what the driver decides from mode and ACL (default_permissions); nobody may write. */
    return err ? err : in->mask & W_OK ? -EROFS : 0;
}

int64_t fuse_statfs(struct fuse_server *server, struct fuse_request *request)
{
    struct fuse_statfs_out out = { .st = { .bsize = RAFS_BLOCK_SIZE, .frsize = RAFS_BLOCK_SIZE, .namelen = RAFS_MAX_NAME } };
    const struct rafs_image *image = server->image;

    if (!image)
        return -ENODEV;
    out.st.files = image->inos;
    out.st.blocks = image->size / RAFS_BLOCK_SIZE;
    for (unsigned i = 0; i < image->blob_count; i++)
        out.st.blocks += image->blobs[i].uncompressed_size / RAFS_BLOCK_SIZE;
    return fuse_reply(request, &out, sizeof(out));
}

int64_t fuse_lseek(struct fuse_server *server, struct fuse_request *request)
{
    const struct fuse_lseek_in *in = (const struct fuse_lseek_in *)request->args;
    struct fuse_lseek_out out;
    struct rafs_inode inode;
    int err = fuse_inode(server, request->in.nodeid, &inode);

    if (err)
        return err;
    if (in->whence != SEEK_DATA && in->whence != SEEK_HOLE)
        return -EINVAL; /* the driver knows the others */
    if (in->offset >= inode.size)
        return -ENXIO;
    /* The image stores zeros as data: all of a file is data, the only hole is its end. */
    out.offset = in->whence == SEEK_DATA ? in->offset : inode.size;
    return fuse_reply(request, &out, sizeof(out));
}
