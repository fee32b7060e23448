/* The table of open files. See passthroughfs_file.h. */
#include "passthroughfs_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

/* fh: serial in the upper half, then slot and shard. */
#define SHARD_OF(fh) ((uint32_t)(fh) % OPEN_FILE_SHARDS)
#define SLOT_OF(fh) ((uint32_t)(fh) / OPEN_FILE_SHARDS)
#define FIRST_SLOTS 16u
#define MAX_SLOTS (1u << 20) /* in a shard; descriptors run out long before */

void open_file_table_init(struct open_file_table *table, struct inode_table *inodes)
{
    *table = (struct open_file_table){ .inodes = inodes };
    for (unsigned i = 0; i < OPEN_FILE_SHARDS; i++)
        pthread_mutex_init(&table->shards[i].lock, NULL);
}

void open_file_table_destroy(struct open_file_table *table)
{
    open_file_remove_all(table);
    for (unsigned i = 0; i < OPEN_FILE_SHARDS; i++) {
        free(table->shards[i].files);
        free(table->shards[i].free);
        pthread_mutex_destroy(&table->shards[i].lock);
    }
}

uint64_t open_file_table_count(struct open_file_table *table)
{
    uint64_t count = 0;

    for (unsigned i = 0; i < OPEN_FILE_SHARDS; i++) {
        struct open_file_shard *shard = &table->shards[i];
        pthread_mutex_lock(&shard->lock);
        count += shard->slots - shard->free_count;
        pthread_mutex_unlock(&shard->lock);
    }
    return count;
}

static int grow_locked(struct open_file_shard *shard)
{
    uint32_t slots = shard->slots ? shard->slots * 2 : FIRST_SLOTS;
    struct open_file **files = slots > MAX_SLOTS ? NULL : reallocarray(shard->files, slots, sizeof(*files));
    uint32_t *unused;

    if (!files)
        return -ENFILE;
    shard->files = files;
    unused = reallocarray(shard->free, slots, sizeof(*unused));
    if (!unused)
        return -ENFILE;
    shard->free = unused;
    for (uint32_t slot = slots; slot-- > shard->slots;) {
        files[slot] = NULL;
        unused[shard->free_count++] = slot;
    }
    shard->slots = slots;
    return 0;
}

/* Once it is in the table, a guest that guesses may release it at once. */
static int add(struct open_file_table *table, struct open_file *file, uint64_t *fh)
{
    uint32_t index = __atomic_fetch_add(&table->next_shard, 1, __ATOMIC_RELAXED) % OPEN_FILE_SHARDS;
    struct open_file_shard *shard = &table->shards[index];
    int err = 0;

    pthread_mutex_lock(&shard->lock);
    if (!shard->free_count)
        err = grow_locked(shard);
    if (!err) {
        uint32_t slot = shard->free[--shard->free_count];
        *fh = file->fh = (uint64_t)++shard->serial << 32 | (slot * OPEN_FILE_SHARDS + index);
        shard->files[slot] = file;
    }
    pthread_mutex_unlock(&shard->lock);
    return err;
}

int open_file_add(struct open_file_table *table, struct host_inode *inode, int fd, int flags, uint64_t *fh)
{
    struct open_file *file;
    int err;

    if (!host_take_fd()) {
        close(fd);
        return -ENFILE;
    }
    file = calloc(1, sizeof(*file));
    if (!file) {
        close(fd);
        host_give_fd();
        return -ENOMEM;
    }
    *file = (struct open_file){
        .refs = 1,
        .inode = inode,
        .fd = fd,
        .is_writable = (flags & O_ACCMODE) != O_RDONLY,
        .is_synchronous = flags & (O_DSYNC | O_SYNC),
        .was_changed = flags & O_TRUNC,
        .appends = flags & O_APPEND,
    };
    pthread_mutex_init(&file->lock, NULL);
    __atomic_add_fetch(&inode->refs, 1, __ATOMIC_RELAXED); /* the caller has one */
    host_mount_file_opened(inode->mount);
    err = add(table, file, fh);
    if (err)
        open_file_put(table, file);
    return err;
}

static struct open_file *find_locked(struct open_file_shard *shard, uint64_t fh)
{
    struct open_file *file = SLOT_OF(fh) < shard->slots ? shard->files[SLOT_OF(fh)] : NULL;

    return file && file->fh == fh ? file : NULL;
}

struct open_file *open_file_get(struct open_file_table *table, uint64_t fh, const struct host_inode *inode)
{
    struct open_file_shard *shard = &table->shards[SHARD_OF(fh)];
    struct open_file *file;

    pthread_mutex_lock(&shard->lock);
    file = find_locked(shard, fh);
    if (file && inode && file->inode != inode)
        file = NULL;
    if (file)
        __atomic_add_fetch(&file->refs, 1, __ATOMIC_RELAXED);
    pthread_mutex_unlock(&shard->lock);
    return file;
}

void open_file_put(struct open_file_table *table, struct open_file *file)
{
    if (__atomic_sub_fetch(&file->refs, 1, __ATOMIC_ACQ_REL))
        return;
    close(file->fd);
    host_give_fd();
    host_mount_file_closed(file->inode->mount);
    inode_put(table->inodes, file->inode);
    pthread_mutex_destroy(&file->lock);
    free(file);
}

static struct open_file *remove_locked(struct open_file_shard *shard, uint32_t slot)
{
    struct open_file *file = shard->files[slot];

    shard->files[slot] = NULL;
    shard->free[shard->free_count++] = slot;
    return file;
}

struct open_file *open_file_remove(struct open_file_table *table, uint64_t fh)
{
    struct open_file_shard *shard = &table->shards[SHARD_OF(fh)];
    struct open_file *file;

    pthread_mutex_lock(&shard->lock);
    file = find_locked(shard, fh);
    if (file)
        remove_locked(shard, SLOT_OF(fh));
    pthread_mutex_unlock(&shard->lock);
    return file;
}

void open_file_remove_all(struct open_file_table *table)
{
    for (unsigned i = 0; i < OPEN_FILE_SHARDS; i++) {
        struct open_file_shard *shard = &table->shards[i];
        for (uint32_t slot = 0;; slot++) {
            struct open_file *file = NULL;
            bool is_end;
            pthread_mutex_lock(&shard->lock);
            is_end = slot >= shard->slots;
            if (!is_end && shard->files[slot])
                file = remove_locked(shard, slot);
            pthread_mutex_unlock(&shard->lock);
            if (is_end)
                break;
            if (file)
                open_file_put(table, file);
        }
    }
}
