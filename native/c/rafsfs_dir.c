/* READDIR and READDIRPLUS. Offsets are the image's cookies plus one, as offset 0 is the start. */
#include <string.h>
#include <sys/stat.h>

#include "rafsfs.h"

/* Of one reply, whatever a driver asks for (Linux: a page or a few): it bounds how long a queue is busy. */
#define MAX_LISTING FUSE_MAX_IO

static const uint32_t dirent_types[] = { 0, S_IFREG >> 12, S_IFDIR >> 12, S_IFCHR >> 12, S_IFBLK >> 12, S_IFIFO >> 12, S_IFSOCK >> 12, S_IFLNK >> 12 };

static bool is_dot(const struct rafs_dirent *entry)
{
    return entry->name[0] == '.' && (entry->name_length == 1 || (entry->name_length == 2 && entry->name[1] == '.'));
}

/* The entry_out of READDIRPLUS. For "." and ".." it stays zero: the driver has them. */
static int describe(const struct rafsfs *rafsfs, const struct rafs_dirent *entry, struct fuse_entry_out *out)
{
    struct rafs_inode inode;
    uint64_t nodeid;
    int err;

    *out = (struct fuse_entry_out){ 0 };
    if (is_dot(entry))
        return 0;
    err = rafs_inode_read(rafsfs->image, entry->nid, &inode);
    if (!err)
        err = rafsfs_nodeid(rafsfs, entry->nid, &nodeid);
    if (!err)
        rafsfs_fill_entry(rafsfs, &inode, nodeid, out);
    return err;
}

/* One entry as it goes to the driver; returns its size. */
static int pack(const struct rafsfs *rafsfs, const struct rafs_dirent *entry, uint64_t next, bool plus, uint8_t *to)
{
    uint32_t type = entry->file_type < sizeof(dirent_types) / sizeof(*dirent_types) ? dirent_types[entry->file_type] : 0;
    struct fuse_entry_out out;
    int err = plus ? describe(rafsfs, entry, &out) : 0;

    if (err)
        return err;
    return (int)fuse_pack_dirent(to, plus ? &out : NULL, rafsfs_ino(rafsfs, entry->nid), next + 1, type, entry->name, entry->name_length);
}

static int64_t list(struct fuse_request *request, bool plus)
{
    const struct rafsfs *rafsfs = rafsfs_of(request);
    const struct fuse_read_in *in = (const struct fuse_read_in *)request->args;
    uint8_t packed[FUSE_DIRENT_MAX];
    struct rafs_inode dir;
    struct rafs_dirent entry;
    uint64_t cookie = in->offset ? in->offset - 1 : 0, next, room, done = 0;
    int got = rafsfs_inode(rafsfs, request->id, &dir);

    if (got)
        return got;
    if (!S_ISDIR(dir.mode))
        return -ENOTDIR;
    if (request->writable_size < sizeof(struct fuse_out_header))
        return -EINVAL;
    room = request->writable_size - sizeof(struct fuse_out_header);
    room = room < in->size ? room : in->size;
    room = room < MAX_LISTING ? room : MAX_LISTING;
    while ((got = rafs_dir_entry(rafsfs->image, &dir, cookie, &entry, &next)) > 0) {
        got = pack(rafsfs, &entry, next, plus, packed);
        if (got < 0 || (uint64_t)got > room - done)
            break;
        fuse_iov_write(request->writable, request->writable_count, sizeof(struct fuse_out_header) + done, packed, (size_t)got);
        done += (uint64_t)got;
        cookie = next;
    }
    if (done == 0 && got > 0)
        return -EINVAL; /* not even one entry fits */
    /* What was found before a fault is delivered; the next call, which starts at it, reports it. */
    return done == 0 && got < 0 ? got : (int64_t)done;
}

int64_t rafsfs_readdir(struct fuse_server *server, struct fuse_request *request) { return list(request, false); }
int64_t rafsfs_readdirplus(struct fuse_server *server, struct fuse_request *request) { return list(request, true); }
