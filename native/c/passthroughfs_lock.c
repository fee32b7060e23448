/* GETLK, SETLK, SETLKW and flock. See passthroughfs_lock.h. */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/file.h>
#include <unistd.h>

#include "passthroughfs.h"

void lock_table_init(struct lock_table *table)
{
    *table = (struct lock_table){ 0 };
    pthread_mutex_init(&table->lock, NULL);
}

void lock_table_destroy(struct lock_table *table)
{
    lock_table_release_all(table);
    pthread_mutex_destroy(&table->lock);
}

static struct lock_owner **bucket_of(struct lock_table *table, uint64_t inode_id, uint64_t owner)
{
    return &table->buckets[(inode_id * 31 + (owner ^ owner >> 32)) % LOCK_BUCKETS];
}

static void put(struct lock_table *table, struct lock_owner *holder)
{
    bool is_last;

    pthread_mutex_lock(&table->lock);
    is_last = --holder->refs == 0;
    pthread_mutex_unlock(&table->lock);
    if (is_last) {
        close(holder->fd); /* and with it the locks */
        host_give_fd();
        free(holder);
    }
}

/* Where `owner` hangs, or NULL; with another reference. */
static struct lock_owner *find(struct lock_table *table, uint64_t inode_id, uint64_t owner)
{
    struct lock_owner *holder;

    pthread_mutex_lock(&table->lock);
    holder = *bucket_of(table, inode_id, owner);
    while (holder && (holder->inode_id != inode_id || holder->owner != owner))
        holder = holder->next;
    if (holder)
        holder->refs++;
    pthread_mutex_unlock(&table->lock);
    return holder;
}

void lock_table_release(struct lock_table *table, uint64_t inode_id, uint64_t owner)
{
    struct lock_owner **at, *holder;

    pthread_mutex_lock(&table->lock);
    at = bucket_of(table, inode_id, owner);
    while (*at && ((*at)->inode_id != inode_id || (*at)->owner != owner))
        at = &(*at)->next;
    holder = *at;
    if (holder)
        *at = holder->next;
    pthread_mutex_unlock(&table->lock);
    if (holder)
        put(table, holder);
}

void lock_table_release_all(struct lock_table *table)
{
    for (unsigned i = 0; i < LOCK_BUCKETS; i++) {
        struct lock_owner *holder;
        pthread_mutex_lock(&table->lock);
        holder = table->buckets[i];
        table->buckets[i] = NULL;
        pthread_mutex_unlock(&table->lock);
        while (holder) {
            struct lock_owner *next = holder->next;
            put(table, holder);
            holder = next;
        }
    }
}

/* The owner's open file, made if there is none. A negative errno in *err otherwise. */
static struct lock_owner *holder_of(struct passthroughfs *pt, struct host_inode *inode, uint64_t owner, int *err)
{
    struct lock_owner *holder = find(&pt->locks, inode->id, owner), *other;
    struct lock_owner **bucket;
    int fd;

    if (holder)
        return holder;
    fd = inode_open(&pt->inodes, inode, O_RDWR | O_NONBLOCK, true);
    if (fd == -EACCES || fd == -EROFS || fd == -EPERM || fd == -ETXTBSY) /* a lock for reading may still be had */
        fd = inode_open(&pt->inodes, inode, O_RDONLY | O_NONBLOCK, true);
    *err = fd < 0 ? fd : host_take_fd() ? 0 : -ENFILE;
    holder = *err ? NULL : malloc(sizeof(*holder));
    if (!holder) {
        if (fd >= 0)
            close(fd);
        if (!*err) {
            host_give_fd();
            *err = -ENOMEM;
        }
        return NULL;
    }
    *holder = (struct lock_owner){ .inode_id = inode->id, .owner = owner, .refs = 2, .fd = fd };
    pthread_mutex_lock(&pt->locks.lock);
    bucket = bucket_of(&pt->locks, inode->id, owner);
    other = *bucket;
    while (other && (other->inode_id != inode->id || other->owner != owner))
        other = other->next;
    if (other) { /* two requests at once: the locks must not be spread over two files */
        other->refs++;
        holder->refs = 1;
    } else {
        holder->next = *bucket;
        *bucket = holder;
    }
    pthread_mutex_unlock(&pt->locks.lock);
    if (!other)
        return holder;
    put(&pt->locks, holder);
    return other;
}

static int to_flock(const struct fuse_file_lock *lk, struct flock *lock)
{
    if (lk->start > INT64_MAX || lk->end > INT64_MAX || lk->end < lk->start)
        return -EINVAL;
    if (lk->type != F_RDLCK && lk->type != F_WRLCK && lk->type != F_UNLCK)
        return -EINVAL;
    *lock = (struct flock){
        .l_type = (short)lk->type,
        .l_whence = SEEK_SET,
        .l_start = (off_t)lk->start,
        .l_len = lk->end == INT64_MAX ? 0 : (off_t)(lk->end - lk->start + 1), /* 0: to the end, wherever that moves */
    };
    return 0;
}

/* A lock operation on the owner's open file. */
static int with_owner(struct passthroughfs *pt, struct host_inode *inode, const struct fuse_lk_in *in, int command, struct flock *lock)
{
    struct lock_owner *holder;
    int err = to_flock(&in->lk, lock);

    holder = err ? NULL : holder_of(pt, inode, in->owner, &err);
    if (!holder)
        return err;
    err = fcntl(holder->fd, command, lock) < 0 ? -errno : 0;
    put(&pt->locks, holder);
    return err;
}

int64_t passthroughfs_getlk(struct passthroughfs *pt, struct fuse_request *request, struct host_inode *inode)
{
    const struct fuse_lk_in *in = (const struct fuse_lk_in *)request->args;
    struct fuse_lk_out out = { 0 };
    struct flock lock;
    int err;

    if (!(pt->options.flags & VFS_DIRECTORY_LOCKS))
        return -EOPNOTSUPP;
    err = with_owner(pt, inode, in, F_OFD_GETLK, &lock);
    if (err)
        return err;
    out.lk.type = (uint32_t)lock.l_type;
    if (lock.l_type != F_UNLCK) {
        out.lk.start = (uint64_t)lock.l_start;
        out.lk.end = lock.l_len ? (uint64_t)(lock.l_start + lock.l_len - 1) : INT64_MAX;
        /* no pid: those of the host and of other guests mean nothing in this one */
    }
    return fuse_reply(request, &out, sizeof(out));
}

/* flock(2) is of the open file, and so of the handle. */
static int lock_whole(struct passthroughfs *pt, struct host_inode *inode, const struct fuse_lk_in *in)
{
    struct open_file *file = open_file_get(&pt->files, in->fh, inode);
    int operation = in->lk.type == F_RDLCK ? LOCK_SH : in->lk.type == F_WRLCK ? LOCK_EX : LOCK_UN, err;

    if (!file)
        return -EBADF;
    err = flock(file->fd, operation | LOCK_NB) < 0 ? -errno : 0;
    open_file_put(&pt->files, file);
    return err;
}

int64_t passthroughfs_setlk(struct passthroughfs *pt, struct fuse_request *request, struct host_inode *inode)
{
    const struct fuse_lk_in *in = (const struct fuse_lk_in *)request->args;
    struct flock lock;

    if (!(pt->options.flags & VFS_DIRECTORY_LOCKS))
        return -EOPNOTSUPP;
    return in->lk_flags & FUSE_LK_FLOCK ? lock_whole(pt, inode, in) : with_owner(pt, inode, in, F_OFD_SETLK, &lock);
}

int64_t passthroughfs_setlkw(struct passthroughfs *pt, struct fuse_request *request, struct host_inode *inode)
{
    int64_t result = passthroughfs_setlk(pt, request, inode);

    return result == -EAGAIN ? -EOPNOTSUPP : result;
}
