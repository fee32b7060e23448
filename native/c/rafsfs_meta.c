/* Operations on inodes that need the metadata only. See rafsfs.h. */
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "rafsfs.h"

int rafsfs_inode(const struct rafsfs *rafsfs, uint64_t id, struct rafs_inode *inode)
{
    int err = rafs_inode_read(rafsfs->image, id == FUSE_ROOT_ID ? rafsfs->image->root_nid : id, inode);

    return err == -EUCLEAN ? -ESTALE : err; /* a node id is the guest's word, not the image's */
}

int rafsfs_nodeid(const struct rafsfs *rafsfs, uint64_t nid, uint64_t *nodeid)
{
    if (nid == rafsfs->image->root_nid) {
        *nodeid = fuse_nodeid(&rafsfs->fs, FUSE_ROOT_ID);
        return 0;
    }
    *nodeid = fuse_nodeid(&rafsfs->fs, nid);
    /* v6: no inode can lie at nid 1, in the reserved area. v5: it is the root's. */
    return nid == FUSE_ROOT_ID || nid > FUSE_ID_MASK ? -EUCLEAN : 0;
}

uint64_t rafsfs_ino(const struct rafsfs *rafsfs, uint64_t nid) { return fuse_nodeid(&rafsfs->fs, nid & FUSE_ID_MASK); }

void rafsfs_fill_attr(const struct rafsfs *rafsfs, const struct rafs_inode *inode, struct fuse_attr *attr)
{
    bool is_special = S_ISCHR(inode->mode) || S_ISBLK(inode->mode);

    *attr = (struct fuse_attr){
        .ino = rafsfs_ino(rafsfs, inode->nid),
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

void rafsfs_fill_entry(const struct rafsfs *rafsfs, const struct rafs_inode *inode, uint64_t nodeid, struct fuse_entry_out *entry)
{
    *entry = (struct fuse_entry_out){ .nodeid = nodeid, .entry_valid = FUSE_FOREVER, .attr_valid = FUSE_FOREVER };
    rafsfs_fill_attr(rafsfs, inode, &entry->attr);
}

static int find_child(const struct rafsfs *rafsfs, const struct rafs_inode *dir, const char *name, size_t length, uint64_t *nid)
{
    if (length == 1 && name[0] == '.') { /* EXPORT_SUPPORT: a file handle's inode, of any type */
        *nid = dir->nid;
        return 0;
    }
    if (!S_ISDIR(dir->mode))
        return -ENOTDIR;
    return rafs_lookup(rafsfs->image, dir, name, length, nid);
}

int64_t rafsfs_lookup(struct fuse_server *server, struct fuse_request *request)
{
    const struct rafsfs *rafsfs = rafsfs_of(request);
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
    err = rafsfs_inode(rafsfs, request->id, &inode);
    if (!err)
        err = find_child(rafsfs, &inode, name, length, &nid);
    if (err == -ENOENT) /* node id 0: the driver may remember for ever that there is none */
        return fuse_reply(request, &entry, sizeof(entry));
    if (!err)
        err = rafs_inode_read(rafsfs->image, nid, &inode);
    if (!err)
        err = rafsfs_nodeid(rafsfs, nid, &nodeid);
    if (err)
        return err;
    rafsfs_fill_entry(rafsfs, &inode, nodeid, &entry);
    return fuse_reply(request, &entry, sizeof(entry));
}

int64_t rafsfs_getattr(struct fuse_server *server, struct fuse_request *request)
{
    const struct rafsfs *rafsfs = rafsfs_of(request);
    struct fuse_attr_out out = { .attr_valid = FUSE_FOREVER };
    struct rafs_inode inode;
    int err = rafsfs_inode(rafsfs, request->id, &inode);

    if (err)
        return err;
    rafsfs_fill_attr(rafsfs, &inode, &out.attr);
    return fuse_reply(request, &out, sizeof(out));
}

int64_t rafsfs_statx(struct fuse_server *server, struct fuse_request *request)
{
    const struct rafsfs *rafsfs = rafsfs_of(request);
    struct fuse_attr attr;
    struct rafs_inode inode;
    int err = rafsfs_inode(rafsfs, request->id, &inode);

    if (err)
        return err;
    rafsfs_fill_attr(rafsfs, &inode, &attr);
    return fuse_reply_statx(request, &attr, FUSE_FOREVER);
}

int64_t rafsfs_readlink(struct fuse_server *server, struct fuse_request *request)
{
    const struct rafsfs *rafsfs = rafsfs_of(request);
    struct rafs_inode inode;
    uint64_t done = 0, room = request->writable_size - sizeof(struct fuse_out_header);
    int err = rafsfs_inode(rafsfs, request->id, &inode);

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
        err = rafs_inode_flat(rafsfs->image, &inode, done, &data, &length);
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
    const struct rafsfs *rafsfs = rafsfs_of(request);
    const struct fuse_open_in *in = (const struct fuse_open_in *)request->args;
    struct fuse_open_out out = { .open_flags = flags };
    struct rafs_inode inode;
    int err;

    if ((in->flags & O_ACCMODE) != O_RDONLY || (in->flags & (O_TRUNC | O_CREAT)))
        return -EROFS;
    if (__atomic_load_n(&server->flags, __ATOMIC_RELAXED) & (want_directory ? FUSE_NO_OPENDIR_SUPPORT : FUSE_NO_OPEN_SUPPORT))
        return -ENOSYS;
    err = rafsfs_inode(rafsfs, request->id, &inode);
    if (err)
        return err;
    if (S_ISDIR(inode.mode) != want_directory)
        return want_directory ? -ENOTDIR : -EISDIR;
    return fuse_reply(request, &out, sizeof(out));
}

int64_t rafsfs_open(struct fuse_server *server, struct fuse_request *request)
{
    return open_inode(server, request, false, FOPEN_KEEP_CACHE);
}

int64_t rafsfs_opendir(struct fuse_server *server, struct fuse_request *request)
{
    return open_inode(server, request, true, FOPEN_KEEP_CACHE | FOPEN_CACHE_DIR);
}

int64_t rafsfs_access(struct fuse_server *server, struct fuse_request *request)
{
    const struct rafsfs *rafsfs = rafsfs_of(request);
    const struct fuse_access_in *in = (const struct fuse_access_in *)request->args;
    struct rafs_inode inode;
    int err = rafsfs_inode(rafsfs, request->id, &inode);

    /* Who may do what the driver decides from mode and ACL (default_permissions); nobody may write. */
    return err ? err : in->mask & W_OK ? -EROFS : 0;
}

int64_t rafsfs_statfs(struct fuse_server *server, struct fuse_request *request)
{
    struct fuse_statfs_out out = { .st = { .bsize = RAFS_BLOCK_SIZE, .frsize = RAFS_BLOCK_SIZE, .namelen = RAFS_MAX_NAME } };
    const struct rafs_image *image = rafsfs_of(request)->image;

    out.st.files = image->inos;
    out.st.blocks = image->size / RAFS_BLOCK_SIZE;
    for (unsigned i = 0; i < image->blob_count; i++)
        out.st.blocks += image->blobs[i].uncompressed_size / RAFS_BLOCK_SIZE;
    return fuse_reply(request, &out, sizeof(out));
}

int64_t rafsfs_lseek(struct fuse_server *server, struct fuse_request *request)
{
    const struct rafsfs *rafsfs = rafsfs_of(request);
    const struct fuse_lseek_in *in = (const struct fuse_lseek_in *)request->args;
    struct fuse_lseek_out out;
    struct rafs_inode inode;
    int err = rafsfs_inode(rafsfs, request->id, &inode);

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
