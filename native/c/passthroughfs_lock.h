/*
 * POSIX record locks of guests (an option): each owner of locks in an inode has an open file of its
 * own here, whose description carries them (F_OFD_SETLK), so that owners of one guest exclude each
 * other, other guests and the host. flock goes to the open file itself.
 *
 * Nobody waits: a lock that is taken is -EAGAIN, and a request to wait for it -EOPNOTSUPP. A wait
 * would hold a pool thread for as long as the guest likes, and could not be interrupted.
 */
#ifndef VHOSTFS_PASSTHROUGHFS_LOCK_H
#define VHOSTFS_PASSTHROUGHFS_LOCK_H
#include <pthread.h>
#include <stdint.h>

#define LOCK_BUCKETS 64

struct lock_owner {
    struct lock_owner *next;
    uint64_t inode_id, owner;
    unsigned refs; /* under the table's lock; the table has one */
    int fd;
};

struct lock_table {
    pthread_mutex_t lock;
    struct lock_owner *buckets[LOCK_BUCKETS];
};

void lock_table_init(struct lock_table *table);
void lock_table_destroy(struct lock_table *table);
/* Gives up what `owner` holds in an inode: it closed a descriptor of it. */
void lock_table_release(struct lock_table *table, uint64_t inode_id, uint64_t owner);
void lock_table_release_all(struct lock_table *table);
#endif
