/*
 * READDIR and READDIRPLUS. An offset is the host's own; nothing is kept between requests but the
 * position of the descriptor, so what did not fit a reply is read again.
 */
#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "passthroughfs.h"

#define DIRENTS_SIZE (32u << 10)

struct host_dirent { /* what getdents64 stores */
    uint64_t ino;
    int64_t off;
    uint16_t size;
    uint8_t type;
    char name[];
};

struct listing {
    struct passthroughfs *pt;
    struct fuse_request *request;
    struct open_file *dir;
    bool plus;
    uint64_t dev; /* of the directory */
    uint64_t last_id; /* when the listing began */
    bool was_known;   /* the last entry: then so is the next, it seems */
    uint64_t done, room;
};

static bool is_dots(const char *name) { return !strcmp(name, ".") || !strcmp(name, ".."); }

/* Looks an entry up, as LOOKUP would. False: it cannot be (it is gone, or another mount's); then it is listed only. */
static bool look_up(struct listing *listing, const char *name, struct host_inode **inode, struct fuse_entry_out *entry)
{
    struct passthroughfs *pt = listing->pt;
    struct host_inode *dir = listing->dir->inode;
    struct statx stat;
    int fd, err;

    if (listing->was_known && !inode_remember_again(&pt->inodes, dir, listing->dir->fd, name, &stat, inode)) {
        inode_used(*inode);
        passthroughfs_fill_entry(pt, dir, *inode, &stat, entry);
        return true;
    }
    fd = host_open_child(listing->dir->fd, name, O_PATH, true);
    if (fd < 0)
        return false;
    err = passthroughfs_describe(pt, listing->request, dir, name, fd, inode, entry);
    close(fd);
    listing->was_known = !err && (*inode)->id <= listing->last_id;
    return !err;
}

/* A file system that does not store types has to be asked. */
static uint32_t type_of(const struct listing *listing, const struct host_dirent *dirent)
{
    struct stat stat;

    if (dirent->type != DT_UNKNOWN || fstatat(listing->dir->fd, dirent->name, &stat, AT_SYMLINK_NOFOLLOW) < 0)
        return dirent->type;
    return IFTODT(stat.st_mode);
}

/* The number that ".." has at the root of the share is not the guest's business. */
static uint64_t ino_of(const struct listing *listing, const struct host_dirent *dirent)
{
    struct passthroughfs *pt = listing->pt;
    uint64_t dev = listing->dev, ino = dirent->ino;

    if (listing->dir->inode == pt->inodes.root && !strcmp(dirent->name, "..")) {
        dev = pt->inodes.root->dev;
        ino = pt->inodes.root->ino;
    }
    return fuse_nodeid(&pt->fs, ino_map_number(&pt->inos, dev, ino));
}

/* Adds one entry to the reply. False: it has no room left. */
static bool add(struct listing *listing, const struct host_dirent *dirent)
{
    struct fuse_entry_out entry = { 0 }; /* node id 0: to be looked up when it is wanted */
    struct host_inode *inode = NULL;
    uint8_t packed[FUSE_DIRENT_MAX];
    size_t length = strlen(dirent->name), size;
    uint64_t ino = ino_of(listing, dirent);
    uint32_t type;

    if (length > FUSE_NAME_LIMIT)
        return true; /* no guest can name it */
    size = FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET + length) + (listing->plus ? FUSE_NAME_OFFSET_DIRENTPLUS - FUSE_NAME_OFFSET : 0);
    if (size > listing->room - listing->done) /* before it is counted as looked up */
        return false;
    if (listing->plus && !is_dots(dirent->name) && look_up(listing, dirent->name, &inode, &entry))
        ino = entry.attr.ino;
    type = inode ? inode->type >> 12 : type_of(listing, dirent);
    size = fuse_pack_dirent(packed, listing->plus ? &entry : NULL, ino, (uint64_t)dirent->off, type, dirent->name, length);
    fuse_iov_write(listing->request->writable, listing->request->writable_count,
                   sizeof(struct fuse_out_header) + listing->done, packed, size);
    listing->done += size;
    if (inode)
        inode_put(&listing->pt->inodes, inode);
    return true;
}

/* Reads on from the descriptor's position until the reply is full or the directory ends. */
static int fill(struct listing *listing)
{
    uint8_t dirents[DIRENTS_SIZE] __attribute__((aligned(8)));
    /* No more than can fit: a listing with attributes takes some five times the room. */
    uint64_t wanted = listing->plus ? listing->room / 4 : listing->room;

    wanted = wanted < 1024 ? 1024 : wanted > sizeof(dirents) ? sizeof(dirents) : wanted;
    for (;;) {
        long got = syscall(SYS_getdents64, listing->dir->fd, dirents, wanted);
        if (got <= 0)
            return got < 0 ? -errno : 0;
        for (long at = 0; at < got;) {
            const struct host_dirent *dirent = (const struct host_dirent *)(dirents + at);
            if (!add(listing, dirent))
                return listing->done ? 0 : -EINVAL; /* not even one entry fits */
            at += dirent->size;
        }
    }
}

static int64_t list(struct passthroughfs *pt, struct fuse_request *request, struct host_inode *inode, bool plus)
{
    const struct fuse_read_in *in = (const struct fuse_read_in *)request->args;
    struct open_file *dir;
    struct listing listing;
    int err = 0;

    if (inode->type != S_IFDIR)
        return -ENOTDIR;
    dir = open_file_get(&pt->files, in->fh, inode);
    if (!dir)
        return -EBADF;
    listing = (struct listing){
        .pt = pt,
        .request = request,
        .dir = dir,
        .plus = plus,
        .dev = inode->dev,
        .last_id = inode_last_id(&pt->inodes),
        .room = fuse_reply_room(request, in->size < FUSE_MAX_IO ? in->size : FUSE_MAX_IO),
    };
    pthread_mutex_lock(&dir->lock); /* the position is one, whoever reads */
    if (lseek(dir->fd, (off_t)in->offset, SEEK_SET) < 0)
        err = -errno;
    else
        err = fill(&listing);
    pthread_mutex_unlock(&dir->lock);
    open_file_put(&pt->files, dir);
    /* What was found before a fault is delivered; the next request meets it again. */
    return listing.done ? (int64_t)listing.done : err;
}

int64_t passthroughfs_readdir(struct passthroughfs *pt, struct fuse_request *request, struct host_inode *inode)
{
    return list(pt, request, inode, false);
}

int64_t passthroughfs_readdirplus(struct passthroughfs *pt, struct fuse_request *request, struct host_inode *inode)
{
    return list(pt, request, inode, true);
}
