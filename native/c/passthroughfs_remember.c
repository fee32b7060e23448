/* From what is found under a name to a remembered inode; the table's life. See passthroughfs_inode.h. */
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "fuse_server.h"
#include "passthroughfs_key.h"

/* Takes over one reference of the key's mount if it does not return NULL. */
static struct host_inode *new_inode(const struct inode_key *key, struct host_mount *mount, const struct statx *stat)
{
    struct host_inode *inode = calloc(1, offsetof(struct host_inode, handle.bytes) + key->handle.size);

    if (!inode)
        return NULL;
    inode->refs = 1;
    inode->hash = key->hash;
    inode->type = stat->stx_mode & S_IFMT;
    inode->path_fd = -1;
    inode->mount = mount;
    inode->dev = key->dev;
    inode->ino = key->ino;
    memcpy(&inode->handle, &key->handle, offsetof(struct host_handle, bytes) + key->handle.size);
    return inode;
}

/* Gives a new inode, whose mount has no handles, a descriptor of its own. */
static int keep_path_fd(struct inode_table *table, struct host_inode *inode, int fd)
{
    int kept;

    if (table->handles_required)
        return -EOPNOTSUPP;
    if (!host_take_fd())
        return -ENFILE;
    kept = host_reopen(table->proc_fd, fd, O_PATH);
    if (kept < 0) {
        host_give_fd();
        return kept;
    }
    inode->path_fd = kept;
    return 0;
}

/* Makes the inode of `key`, whose mount the caller has referenced for it. */
static int add_new(struct inode_table *table, const struct inode_key *key, struct host_mount *mount, int fd,
                   const struct statx *stat, bool is_mounted_file, struct host_inode **out)
{
    struct host_inode *fresh = new_inode(key, mount, stat);
    int err;

    if (!fresh) {
        host_mount_put(table, mount);
        return -ENOMEM;
    }
    fresh->is_mounted_file = is_mounted_file;
    err = mount->has_handles || is_mounted_file ? 0 : keep_path_fd(table, fresh, fd);
    if (!err)
        err = inode_table_find(table, key, fresh, out);
    if (err || *out != fresh) /* or another thread was faster */
        inode_put(table, fresh);
    return err;
}

int inode_remember(struct inode_table *table, struct host_inode *parent, const char *name, int fd,
                   const struct statx *stat, bool may_block, struct host_inode **out)
{
    struct host_mount *mount = parent->mount;
    bool crosses = mount->mnt_id != stat->stx_mnt_id, is_mounted_file = crosses && !S_ISDIR(stat->stx_mode);
    struct inode_key key;
    int err = crosses ? host_mount_find(table, parent, name, fd, stat, may_block, &mount) : 0;

    if (err)
        return err;
    err = !may_block && !mount->is_local ? -EAGAIN : inode_key_make(mount, mount->has_handles && !is_mounted_file, fd, "", stat, &key);
    if (!err) {
        err = inode_table_find(table, &key, NULL, out);
        if (err == -ENOENT) {
            if (!crosses) /* until here the parent's reference was enough */
                host_mount_get(table, mount);
            return add_new(table, &key, mount, fd, stat, is_mounted_file, out);
        }
    }
    if (crosses)
        host_mount_put(table, mount);
    return err;
}

int inode_remember_again(struct inode_table *table, struct host_inode *parent, int parent_fd, const char *name,
                         struct statx *stat, struct host_inode **out)
{
    struct inode_key key;
    int err = -ENOENT;

    if (parent->mount->has_handles) /* the name may lead to another mount than a local one, that does not answer */
        err = parent->mount->is_local ? host_stat_nowait_at(parent_fd, name, stat) : host_stat_at(parent_fd, name, stat);
    if (!err && stat->stx_mnt_id != parent->mount->mnt_id)
        err = -ENOENT;
    if (!err)
        err = inode_key_make(parent->mount, true, parent_fd, name, stat, &key);
    if (!err)
        err = inode_table_find(table, &key, NULL, out);
    if (err)
        return err;
    if ((*out)->dev == key.dev && (*out)->ino == key.ino && (*out)->type == (stat->stx_mode & S_IFMT))
        return 0;
    inode_forget(table, (*out)->id, 1);
    inode_put(table, *out);
    return -ENOENT;
}

int inode_find_parent(struct inode_table *table, const struct host_inode *child, int fd, const struct statx *stat, struct host_inode **out)
{
    const struct host_mount *mount = child->mount;
    struct inode_key key;
    int err;

    if (mount->parent && mount->mnt_id != stat->stx_mnt_id)
        mount = mount->parent->mount;
    if (mount->mnt_id != stat->stx_mnt_id)
        return -ENOENT;
    err = inode_key_make(mount, mount->has_handles, fd, "", stat, &key);
    if (err)
        return err;
    *out = inode_table_peek(table, &key);
    return *out ? 0 : -ENOENT;
}

int inode_table_init(struct inode_table *table, int source_fd, int proc_fd, bool handles_wanted, bool handles_required)
{
    struct host_mount *mount;
    struct statx stat;
    struct inode_key key;
    int err = host_stat(source_fd, &stat);

    *table = (struct inode_table){ .proc_fd = proc_fd, .handles_wanted = handles_wanted, .handles_required = handles_required };
    if (!err && !(stat.stx_mask & (STATX_MNT_ID | STATX_MNT_ID_UNIQUE)))
        err = -ENOSYS; /* a kernel before 5.8: mounts could not be told apart */
    if (!err)
        err = host_mount_new_source(table, source_fd, &stat, &mount);
    if (err)
        return err;
    for (unsigned i = 0; i < INODE_SHARDS; i++)
        pthread_mutex_init(&table->shards[i].lock, NULL);
    pthread_mutex_init(&table->mounts_lock, NULL);
    err = handles_required && !mount->has_handles ? -EOPNOTSUPP : inode_key_make(mount, mount->has_handles, source_fd, "", &stat, &key);
    table->root = err ? NULL : new_inode(&key, mount, &stat);
    if (!table->root) {
        mount->fd = -1; /* the caller's still */
        host_mount_put(table, mount);
        return err ? err : -ENOMEM;
    }
    table->root->id = FUSE_ROOT_ID;
    table->root->path_fd = source_fd; /* the mount's own */
    return 0;
}

void inode_table_destroy(struct inode_table *table)
{
    inode_forget_all(table);
    table->root->path_fd = -1;
    inode_put(table, table->root);
    for (unsigned i = 0; i < INODE_SHARDS; i++) {
        free(table->shards[i].by_id);
        free(table->shards[i].by_key);
        pthread_mutex_destroy(&table->shards[i].lock);
    }
    pthread_mutex_destroy(&table->mounts_lock);
}
