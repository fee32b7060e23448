/*
 * The table of looked-up inodes. See passthroughfs_inode.h.
 *
 * An inode's number is a serial and, in its lowest bits, the shard that its key hashes to; so one
 * lock guards both ways to find it. Numbers are not used again.
 */
#include "passthroughfs_inode.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "fuse_server.h"
#include "passthroughfs_key.h"

#define FIRST_BUCKETS 64u
/* A guest can look up no more than there is; this only keeps a share of a billion files from taking
 * all memory (some 150 bytes an inode). */
#define MAX_INODES_IN_SHARD (1u << 20)

static struct inode_shard *shard_of(struct inode_table *table, uint64_t id) { return &table->shards[id % INODE_SHARDS]; }

static int grow(struct inode_shard *shard)
{
    uint32_t buckets = shard->buckets ? shard->buckets * 2 : FIRST_BUCKETS;
    struct host_inode **by_id = calloc(buckets, sizeof(*by_id)), **by_key = calloc(buckets, sizeof(*by_key));

    if (!by_id || !by_key) {
        free(by_id);
        free(by_key);
        return shard->buckets ? 0 : -ENOMEM; /* longer chains will do */
    }
    for (uint32_t i = 0; i < shard->buckets; i++) {
        for (struct host_inode *inode = shard->by_id[i], *next; inode; inode = next) {
            next = inode->next_by_id;
            inode->next_by_id = by_id[(inode->id >> INODE_SHARD_BITS) % buckets];
            by_id[(inode->id >> INODE_SHARD_BITS) % buckets] = inode;
            inode->next_by_key = by_key[(inode->hash >> INODE_SHARD_BITS) % buckets];
            by_key[(inode->hash >> INODE_SHARD_BITS) % buckets] = inode;
        }
    }
    free(shard->by_id);
    free(shard->by_key);
    shard->by_id = by_id;
    shard->by_key = by_key;
    shard->buckets = buckets;
    return 0;
}

static struct host_inode **id_bucket(struct inode_shard *shard, uint64_t id)
{
    return &shard->by_id[(id >> INODE_SHARD_BITS) % shard->buckets];
}

static struct host_inode **key_bucket(struct inode_shard *shard, uint32_t hash)
{
    return &shard->by_key[(hash >> INODE_SHARD_BITS) % shard->buckets];
}

static struct host_inode *find_key_locked(struct inode_shard *shard, const struct inode_key *key)
{
    struct host_inode *inode = shard->buckets ? *key_bucket(shard, key->hash) : NULL;

    while (inode && !inode_has_key(inode, key))
        inode = inode->next_by_key;
    return inode;
}

static void remove_locked(struct inode_shard *shard, struct host_inode *inode)
{
    struct host_inode **at = id_bucket(shard, inode->id);

    while (*at != inode)
        at = &(*at)->next_by_id;
    *at = inode->next_by_id;
    at = key_bucket(shard, inode->hash);
    while (*at != inode)
        at = &(*at)->next_by_key;
    *at = inode->next_by_key;
    shard->count--;
}

struct host_inode *inode_get(struct inode_table *table, uint64_t id)
{
    struct inode_shard *shard = shard_of(table, id);
    struct host_inode *inode;

    if (id == FUSE_ROOT_ID) {
        __atomic_add_fetch(&table->root->refs, 1, __ATOMIC_RELAXED);
        return table->root;
    }
    pthread_mutex_lock(&shard->lock);
    inode = shard->buckets ? *id_bucket(shard, id) : NULL;
    while (inode && inode->id != id)
        inode = inode->next_by_id;
    if (inode)
        __atomic_add_fetch(&inode->refs, 1, __ATOMIC_RELAXED);
    pthread_mutex_unlock(&shard->lock);
    return inode;
}

void inode_put(struct inode_table *table, struct host_inode *inode)
{
    if (__atomic_sub_fetch(&inode->refs, 1, __ATOMIC_ACQ_REL))
        return;
    if (inode->path_fd >= 0) {
        close(inode->path_fd);
        host_give_fd();
    }
    host_mount_put(table, inode->mount);
    free(inode);
}

static int add_locked(struct inode_table *table, struct inode_shard *shard, struct host_inode *inode)
{
    int err = shard->count >= MAX_INODES_IN_SHARD ? -ENFILE : 0;

    if (!err && shard->count >= shard->buckets)
        err = grow(shard);
    if (err)
        return err;
    inode->id = __atomic_add_fetch(&table->next_serial, 1, __ATOMIC_RELAXED) << INODE_SHARD_BITS | inode->hash % INODE_SHARDS;
    inode->next_by_id = *id_bucket(shard, inode->id);
    *id_bucket(shard, inode->id) = inode;
    inode->next_by_key = *key_bucket(shard, inode->hash);
    *key_bucket(shard, inode->hash) = inode;
    shard->count++;
    return 0;
}

struct host_inode *inode_table_peek(struct inode_table *table, const struct inode_key *key)
{
    struct inode_shard *shard = shard_of(table, key->hash);
    struct host_inode *inode;

    if (inode_has_key(table->root, key))
        return inode_get(table, FUSE_ROOT_ID);
    pthread_mutex_lock(&shard->lock);
    inode = find_key_locked(shard, key);
    if (inode)
        __atomic_add_fetch(&inode->refs, 1, __ATOMIC_RELAXED);
    pthread_mutex_unlock(&shard->lock);
    return inode;
}

int inode_table_find(struct inode_table *table, const struct inode_key *key, struct host_inode *fresh, struct host_inode **out)
{
    struct inode_shard *shard = shard_of(table, key->hash);
    struct host_inode *inode;
    int err = 0;

    if (inode_has_key(table->root, key)) { /* it is not counted */
        __atomic_add_fetch(&table->root->refs, 1, __ATOMIC_RELAXED);
        *out = table->root;
        return 0;
    }
    pthread_mutex_lock(&shard->lock);
    inode = find_key_locked(shard, key);
    if (!inode && fresh) {
        err = add_locked(table, shard, fresh);
        inode = err ? NULL : fresh;
    }
    if (inode) {
        inode->nlookup++;
        __atomic_add_fetch(&inode->refs, 1, __ATOMIC_RELAXED);
    } else if (!err) {
        err = -ENOENT;
    }
    pthread_mutex_unlock(&shard->lock);
    *out = inode;
    return err;
}

uint64_t inode_last_id(struct inode_table *table)
{
    return __atomic_load_n(&table->next_serial, __ATOMIC_RELAXED) << INODE_SHARD_BITS | (INODE_SHARDS - 1);
}

bool inode_look_up_again(struct inode_table *table, struct host_inode *inode)
{
    struct inode_shard *shard = shard_of(table, inode->id);
    bool is_known = inode == table->root;

    if (is_known)
        return true;
    pthread_mutex_lock(&shard->lock);
    is_known = inode->nlookup > 0;
    inode->nlookup += is_known;
    pthread_mutex_unlock(&shard->lock);
    return is_known;
}

void inode_forget(struct inode_table *table, uint64_t id, uint64_t nlookup)
{
    struct inode_shard *shard = shard_of(table, id);
    struct host_inode *inode;

    pthread_mutex_lock(&shard->lock);
    inode = shard->buckets ? *id_bucket(shard, id) : NULL;
    while (inode && inode->id != id)
        inode = inode->next_by_id;
    if (inode) {
        inode->nlookup -= nlookup < inode->nlookup ? nlookup : inode->nlookup;
        if (inode->nlookup)
            inode = NULL;
        else
            remove_locked(shard, inode);
    }
    pthread_mutex_unlock(&shard->lock);
    if (inode)
        inode_put(table, inode); /* the table's reference */
}

void inode_forget_all(struct inode_table *table)
{
    for (unsigned i = 0; i < INODE_SHARDS; i++) {
        struct inode_shard *shard = &table->shards[i];
        for (uint32_t bucket = 0;;) {
            struct host_inode *inode = NULL;
            pthread_mutex_lock(&shard->lock);
            while (bucket < shard->buckets && !(inode = shard->by_id[bucket]))
                bucket++;
            if (inode) {
                inode->nlookup = 0;
                remove_locked(shard, inode);
            }
            pthread_mutex_unlock(&shard->lock);
            if (!inode)
                break;
            inode_put(table, inode);
        }
    }
}

void inode_table_count(struct inode_table *table, struct inode_counts *counts)
{
    *counts = (struct inode_counts){ 0 };
    for (unsigned i = 0; i < INODE_SHARDS; i++) {
        struct inode_shard *shard = &table->shards[i];
        pthread_mutex_lock(&shard->lock);
        counts->inodes += shard->count;
        for (uint32_t bucket = 0; bucket < shard->buckets; bucket++) {
            for (struct host_inode *inode = shard->by_id[bucket]; inode; inode = inode->next_by_id)
                counts->path_fds += inode->path_fd >= 0;
        }
        pthread_mutex_unlock(&shard->lock);
    }
    pthread_mutex_lock(&table->mounts_lock);
    for (unsigned i = 0; i < HOST_MOUNT_BUCKETS; i++) {
        for (struct host_mount *mount = table->mounts[i]; mount; mount = mount->next) {
            counts->mounts++;
            pthread_mutex_lock(&mount->lock);
            counts->mount_fds += mount->fd >= 0;
            pthread_mutex_unlock(&mount->lock);
        }
    }
    pthread_mutex_unlock(&table->mounts_lock);
}
