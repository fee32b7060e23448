/*
 * The files and directories that a guest has open. A file handle is a slot and a serial that makes
 * it another one each time the slot is used, so that a handle that was released is never taken for
 * a new one. Every open file is a descriptor of ours, counted by host_take_fd.
 */
#ifndef VHOSTFS_PASSTHROUGHFS_FILE_H
#define VHOSTFS_PASSTHROUGHFS_FILE_H
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "passthroughfs_inode.h"

#define OPEN_FILE_SHARDS 16

struct open_file {
    uint64_t fh;
    unsigned refs; /* atomic; the table has one until RELEASE */
    struct host_inode *inode;
    int fd;
    bool is_writable;
    bool is_synchronous;    /* each write waits for the disk */
    bool was_changed;       /* atomic: written to, or cut */
    bool appends;           /* it was opened with O_APPEND, which stays with us: see passthroughfs_io.c */
    bool nowait_unsupported[2]; /* atomic; of reads, of writes */
    pthread_mutex_t lock;   /* of a directory: its position */
};

struct open_file_shard {
    pthread_mutex_t lock;
    struct open_file **files;
    uint32_t *free; /* a stack of slots */
    uint32_t slots, free_count, serial;
};

struct open_file_table {
    struct inode_table *inodes;
    struct open_file_shard shards[OPEN_FILE_SHARDS];
    unsigned next_shard; /* atomic */
};

void open_file_table_init(struct open_file_table *table, struct inode_table *inodes);
void open_file_table_destroy(struct open_file_table *table);
uint64_t open_file_table_count(struct open_file_table *table);

/* Takes over fd, whatever it returns. 0: *fh is the handle; -ENFILE: the guest has too many. */
int open_file_add(struct open_file_table *table, struct host_inode *inode, int fd, int flags, uint64_t *fh);
/* The file with handle `fh` of `inode` (NULL: of any), and a reference. NULL: there is none. */
struct open_file *open_file_get(struct open_file_table *table, uint64_t fh, const struct host_inode *inode);
static inline void open_file_changed(struct open_file *file) { __atomic_store_n(&file->was_changed, true, __ATOMIC_RELAXED); }
void open_file_put(struct open_file_table *table, struct open_file *file);
/* Takes it out of the table; the caller gets the table's reference. NULL: there is none. */
struct open_file *open_file_remove(struct open_file_table *table, uint64_t fh);
void open_file_remove_all(struct open_file_table *table);
#endif
