/*
 * What Python may see of the data plane; native/dataplane.py is its one user.
 *
 * Functions return 0 or a negative errno unless they say otherwise. Those that may wait are called
 * with the interpreter's lock released (cffi does that for every call).
 */
#ifndef VHOSTFS_DATAPLANE_H
#define VHOSTFS_DATAPLANE_H
#include <stddef.h>
#include <stdint.h>

struct chunk_store;
struct chunk_link;
struct worker_rings;
struct blob;
struct vfs_image;
struct vfs_device;
struct fuse_counters;
struct trace;
struct vfs_trace_record; /* trace_format.h */
struct vfs_session;
struct rafs_chunk_record; /* rafs_v6.h */

void vfs_heap_trim(void); /* heap.c */

/* ---- chunks (blob.c, upcall.c) ---- */
struct vfs_upcall {
    uint32_t blob; /* handle */
    uint32_t first_chunk;
    uint32_t chunk_count;
    uint32_t reserved;
};

struct vfs_chunk_run {
    uint32_t first, count;
};

struct vfs_byte_range {
    uint64_t offset, length;
};

struct chunk_store *vfs_store_new(void); /* NULL: see errno */
void vfs_store_free(struct chunk_store *store);
int vfs_store_event_fd(const struct chunk_store *store);
unsigned vfs_store_take(struct chunk_store *store, struct vfs_upcall *upcalls, unsigned limit);
uint32_t vfs_store_new_handle(struct chunk_store *store);

int vfs_blob_open(struct chunk_store *store, int data_fd, int chunk_map_fd, int meta_fd, uint32_t chunk_count,
                  uint64_t uncompressed_size, struct blob **out);
int vfs_blob_add_memory(struct blob *blob, int data_fd, int map_fd); /* one, or another one, as the next */
int vfs_blob_add_visited(struct blob *blob, int fd);
void vfs_blob_close(struct chunk_store *store, struct blob *blob);
uint32_t vfs_blob_handle(const struct blob *blob);
int vfs_blob_is_ready(const struct blob *blob, uint32_t chunk);
uint32_t vfs_blob_ready_count(const struct blob *blob);
int vfs_blob_claim(struct blob *blob, uint32_t chunk); /* 1: won */
void vfs_blob_complete(struct chunk_store *store, struct blob *blob, uint32_t first, uint32_t count);
void vfs_blob_complete_in_memory(struct chunk_store *store, struct blob *blob, uint32_t first, uint32_t count);
void vfs_blob_unclaim(struct chunk_store *store, struct blob *blob, uint32_t first, uint32_t count);
void vfs_blob_fail(struct chunk_store *store, struct blob *blob, uint32_t first, uint32_t count);
void vfs_blob_forget(struct blob *blob, uint32_t first, uint32_t count);
int vfs_blob_is_on_disk(const struct blob *blob, uint32_t chunk);  /* READY there, and not only in memory */
int vfs_blob_was_visited(struct blob *blob, uint32_t chunk);       /* since this was asked last */
int vfs_blob_is_visited(const struct blob *blob, uint32_t chunk);  /* the same, and only looks */
uint32_t vfs_blob_visited_count(const struct blob *blob);
uint64_t vfs_blob_generation(const struct blob *blob);             /* of what was evicted from the disk */
/* What it asks of the caller stands in chunk_area.h. -ENXIO: there is no area in memory. */
int vfs_blob_evict(struct blob *blob, int in_memory, const struct vfs_chunk_run *runs, uint32_t run_count,
                   const struct vfs_byte_range *holes, uint32_t hole_count);

/* ---- the two ends of a link between a worker and its agent (link_api.c over link.c) ---- */
struct chunk_link *vfs_link_new(struct chunk_store *store); /* NULL: see errno */
int vfs_link_renew(struct chunk_link *link);
int vfs_link_ask_again(struct chunk_link *link); /* 0: the ring is full, call again */
void vfs_link_close(struct chunk_link *link);
int vfs_link_upcall_fd(const struct chunk_link *link); /* these three stay the link's */
int vfs_link_event_fd(const struct chunk_link *link);
int vfs_link_completion_fd(const struct chunk_link *link);
void vfs_blob_set_link(struct blob *blob, struct chunk_link *link, uint32_t handle);

/* The agent's ends; the descriptors are duplicated. -EINVAL: they are none of a link's. */
int vfs_rings_adopt(int upcall_fd, int event_fd, int completion_fd, struct worker_rings **out);
void vfs_rings_free(struct worker_rings *rings);
int vfs_rings_event_fd(const struct worker_rings *rings);
/* Returns how many; *more: there are others. -EPROTO: the worker has spoilt its ring. */
int vfs_rings_take(struct worker_rings *rings, struct vfs_upcall *upcalls, unsigned limit, int *more);
uint32_t vfs_rings_room(const struct worker_rings *rings);
int vfs_rings_push(struct worker_rings *rings, uint32_t blob, uint32_t first, uint32_t count, int has_failed); /* -EAGAIN: full */

/* ---- where chunks of a digest may lie (digest_index.c) ---- */
struct digest_index;
struct digest_index *vfs_digest_index_new(uint32_t capacity); /* NULL: no memory */
void vfs_digest_index_free(struct digest_index *index);
void vfs_digest_index_add(struct digest_index *index, const uint8_t *digest, uint32_t blob, uint32_t chunk);
void vfs_digest_index_add_all(struct digest_index *index, uint32_t blob, const uint8_t *digests, const uint8_t *ready, uint32_t count);
unsigned vfs_digest_index_find(struct digest_index *index, const uint8_t *digest, uint32_t blobs[4], uint32_t chunks[4]);

/* ---- the image reader (image_api.c over rafs_*.c) ---- */
struct vfs_inode {
    uint64_t nid;
    uint64_t size;
    uint64_t mtime;
    uint32_t mtime_nsec;
    uint32_t uid;
    uint32_t gid;
    uint32_t nlink;
    uint32_t rdev;
    uint16_t mode;
};

struct vfs_dirent {
    uint64_t nid;
    uint64_t next; /* cookie of the entry after this one */
    const char *name;
    uint16_t name_length;
    uint8_t file_type;
};

struct vfs_xattr {
    const char *prefix;
    const char *suffix;
    const uint8_t *value;
    uint32_t next; /* offset of the attribute after this one */
    uint32_t value_size;
    uint8_t suffix_length;
};

#define VFS_EXTENT_CHUNK 0
#define VFS_EXTENT_INLINE 1
#define VFS_EXTENT_HOLE 2

struct vfs_extent {
    uint32_t kind;
    uint32_t blob_index;
    uint32_t chunk_index;
    uint32_t offset_in_chunk;
    uint64_t length;
    uint64_t blob_offset;
    const uint8_t *inline_data;
};

struct vfs_image_facts {
    uint64_t size;
    uint64_t root_nid;
    uint64_t last_nid;
    uint64_t inos;
    uint64_t flags;
    uint64_t chunk_table_count;
    uint32_t chunk_size;
    uint32_t blob_count;
    uint32_t prefetch_count;
    uint8_t version; /* 6 or 5 */
};

/* On failure `why` holds a sentence. */
int vfs_image_open(int fd, struct vfs_image **out, char *why, size_t why_size);
void vfs_image_close(struct vfs_image *image);
void vfs_image_facts(const struct vfs_image *image, struct vfs_image_facts *facts);
const uint8_t *vfs_image_blob_record(const struct vfs_image *image, uint32_t index);   /* struct rafs_v6_blob, for v5 too */
const uint8_t *vfs_image_chunk_record(const struct vfs_image *image, uint64_t index);  /* struct rafs_chunk_record */
/* Of v5, which has no chunk table: a list of a blob's chunks (chunk_table.h). -EINVAL: not v5, or no such blob. */
int vfs_image_chunks(const struct vfs_image *image, uint32_t blob_index, struct rafs_chunk_record **records, uint32_t *count,
                     char *why, size_t why_size);
void vfs_image_chunks_free(struct rafs_chunk_record *records);
const uint8_t *vfs_image_prefetch_table(const struct vfs_image *image);                /* le32 nids */
int vfs_image_inode(const struct vfs_image *image, uint64_t nid, struct vfs_inode *inode);
int64_t vfs_image_offset(const struct vfs_image *image, uint64_t nid);       /* of the inode's record in the file */
const uint8_t *vfs_image_digest(const struct vfs_image *image, uint64_t nid); /* v5: the inode's, 32 bytes; else NULL */
int vfs_image_lookup(const struct vfs_image *image, uint64_t nid, const char *name, size_t length, uint64_t *child);
int vfs_image_dirent(const struct vfs_image *image, uint64_t nid, uint64_t cookie, struct vfs_dirent *entry); /* 1, 0 at the end */
int vfs_image_xattr(const struct vfs_image *image, uint64_t nid, uint32_t offset, struct vfs_xattr *xattr);   /* 1, 0 at the end */
int vfs_image_map(const struct vfs_image *image, uint64_t nid, uint64_t offset, uint64_t length, struct vfs_extent *extent);

/* ---- lists and tables of the chunks of v5 blobs (chunk_table.h) ---- */
#define VFS_CHUNK_TABLE_MAGIC 0x56354354

struct vfs_chunk_bounds {
    uint32_t chunk_count;
    uint32_t chunk_size;
    uint64_t compressed_size;
    uint64_t uncompressed_size;
};

int vfs_chunk_list_check(const struct rafs_chunk_record *list, uint32_t count, const struct vfs_chunk_bounds *bounds, uint32_t *fault);
int vfs_chunk_table_check(const struct rafs_chunk_record *table, const struct vfs_chunk_bounds *bounds, uint32_t *fault);
int vfs_chunk_table_merge(struct rafs_chunk_record *table, const struct rafs_chunk_record *list, uint32_t count,
                          const struct vfs_chunk_bounds *bounds, uint8_t *added, uint32_t *fault);

/* ---- what is counted of a mount (fuse_counters.c) ---- */
#define VFS_FOP_GETATTR 0
#define VFS_FOP_READLINK 1
#define VFS_FOP_OPEN 2
#define VFS_FOP_RELEASE 3
#define VFS_FOP_READ 4
#define VFS_FOP_STATFS 5
#define VFS_FOP_GETXATTR 6
#define VFS_FOP_LISTXATTR 7
#define VFS_FOP_OPENDIR 8
#define VFS_FOP_LOOKUP 9
#define VFS_FOP_READDIR 10
#define VFS_FOP_READDIRPLUS 11
#define VFS_FOP_ACCESS 12
#define VFS_FOP_FORGET 13
#define VFS_FOP_BATCH_FORGET 14 /* nodes, not requests */
#define VFS_FOPS 15
#define VFS_SIZE_GROUPS 8 /* below 1, 4, 16, 64, 128, 512 KiB, 1 MiB; above */

struct vfs_mount_statistics {
    uint64_t hits[VFS_FOPS];
    uint64_t errors[VFS_FOPS];
    uint64_t read_sizes[VFS_SIZE_GROUPS]; /* reads by the bytes that they returned */
    uint64_t read_bytes;
    uint64_t missed_reads; /* those that waited for a chunk */
};

struct fuse_counters *vfs_counters_new(void); /* NULL: no memory */
void vfs_counters_free(struct fuse_counters *counters); /* nothing is mounted with them any more */
void vfs_counters_read(const struct fuse_counters *counters, struct vfs_mount_statistics *statistics);

/* ---- the device (device.c) ---- */
struct vfs_statistics {
    uint64_t requests;
    uint64_t replies;
    uint64_t reads;
    uint64_t read_bytes;
    uint64_t misses;        /* requests that waited for a chunk */
    uint64_t failed_misses; /* of those, answered EIO */
    uint64_t pool_runs;     /* requests run by a thread that may block: reads from the disk, most of a host directory's */
    uint64_t interrupts;    /* call_fd written */
    uint64_t sleeps;        /* times that a queue thread slept */
    uint64_t broken_rings;
};

/* A host directory as a mount (passthroughfs.h). */
#define VFS_CACHE_AUTO 0   /* of file data in the guest: dropped at open when the file has changed */
#define VFS_CACHE_NEVER 1
#define VFS_CACHE_ALWAYS 2 /* kept: only the guest changes the files */
#define VFS_FILE_HANDLES_PREFER 0
#define VFS_FILE_HANDLES_NEVER 1
#define VFS_FILE_HANDLES_MANDATORY 2
#define VFS_DIRECTORY_WRITEBACK 1 /* the guest gathers writes; for the whole session, as the next */
#define VFS_DIRECTORY_LOCKS 2     /* POSIX locks and flock hold on the host too */
#define VFS_DIRECTORY_SUBMOUNTS 4 /* mounts in the directory are announced, and get devices of their own */

struct vfs_directory_options {
    uint64_t entry_valid_ns; /* how long a driver may trust a name, and attributes */
    uint64_t attr_valid_ns;
    uint32_t cache;
    uint32_t file_handles;
    uint32_t flags;
};

struct vfs_directory_facts {
    uint64_t inodes;     /* that the guest has looked up and not forgotten */
    uint64_t path_fds;   /* of those, kept as descriptors */
    uint64_t open_files;
    uint64_t mounts;     /* of the host inside the directory that it has met */
    uint64_t mount_fds;  /* of those, held open, as the guest has files open there */
};

/* `queues` counts the hiprio queue too; 0: no guest will use it. NULL: see errno. */
/* ---- recording first accesses (trace.c, rafsfs_trace.c); records are struct vfs_trace_record ---- */
struct trace *vfs_trace_new(const struct vfs_image *image, uint32_t capacity); /* NULL: no memory */
void vfs_trace_free(struct trace *trace); /* no mount records to it */
uint32_t vfs_trace_read(const struct trace *trace, uint32_t from, struct vfs_trace_record *out, uint32_t limit);
uint64_t vfs_trace_dropped(const struct trace *trace);
uint64_t vfs_trace_duration_ns(const struct trace *trace);

struct vfs_device *vfs_device_new(struct chunk_store *store, unsigned queues, int is_shared, uint64_t miss_timeout_ns, uint64_t poll_ns);
void vfs_device_free(struct vfs_device *device);
/* Mounts may come and go while queues run; one call at a time. blobs[i] is the image's blob i.
 * Errors as in namespace.h. */
int vfs_device_mount_image(struct vfs_device *device, const char *path, const struct vfs_image *image, struct blob **blobs,
                           struct fuse_counters *counters); /* or NULL */
/* Takes over source_fd, a descriptor of a directory (O_PATH will do), if it returns 0. -EOPNOTSUPP: its
 * file system has no file handles, or we may not open them, and they are mandatory; -EINVAL: the
 * device is for images only. */
int vfs_device_mount_directory(struct vfs_device *device, const char *path, int source_fd, const struct vfs_directory_options *options,
                               struct fuse_counters *counters);
int vfs_device_directory_facts(struct vfs_device *device, const char *path, struct vfs_directory_facts *facts); /* -EINVAL: not a directory */
/* Record the reads of an image, of the same as `trace`'s; NULL: stop. -EINVAL: a directory is mounted there. */
int vfs_device_set_trace(struct vfs_device *device, const char *path, struct trace *trace);
int vfs_device_umount(struct vfs_device *device, const char *path);
int vfs_device_add_region(struct vfs_device *device, uint64_t gpa, uint64_t size, uint64_t user_addr, uint64_t mmap_offset, int fd);
int vfs_device_remove_region(struct vfs_device *device, uint64_t gpa, uint64_t size, uint64_t user_addr);
void vfs_device_clear_regions(struct vfs_device *device);
/* Between begin and end no queue touches guest memory; begin waits for that. */
void vfs_device_pause(struct vfs_device *device);
int vfs_device_resume(struct vfs_device *device); /* -EFAULT: a started ring's areas are gone */
void vfs_device_set_features(struct vfs_device *device, int indirect, int event_idx);
int vfs_vring_set_num(struct vfs_device *device, unsigned index, uint32_t num);
int vfs_vring_set_addr(struct vfs_device *device, unsigned index, uint64_t desc, uint64_t avail, uint64_t used);
int vfs_vring_set_base(struct vfs_device *device, unsigned index, uint32_t base);
int vfs_vring_set_kick(struct vfs_device *device, unsigned index, int fd);  /* -1: none; takes the fd over if it returns 0 */
int vfs_vring_set_call(struct vfs_device *device, unsigned index, int fd);  /* same */
int vfs_vring_set_err(struct vfs_device *device, unsigned index, int fd);   /* same */
int vfs_vring_set_enable(struct vfs_device *device, unsigned index, int enabled);
int64_t vfs_vring_stop(struct vfs_device *device, unsigned index, unsigned drain_ms); /* the base */
/* Stops everything at once, forgets rings, features and memory. */
void vfs_device_reset(struct vfs_device *device);
int vfs_device_statistics(const struct vfs_device *device, unsigned index, struct vfs_statistics *statistics);

/* ---- a session on /dev/fuse (fusedev.c) ---- */
/* What INIT agreed on: what a successor must know that takes the session over. */
struct vfs_session_terms {
    uint64_t flags;
    uint32_t minor;
};

/* Before INIT: processes of this host will use it, and are kept from waiting for us where that can be. */
void vfs_device_serve_host(struct vfs_device *device);
/* For a successor that must have the same node ids: see namespace.h. The next mount gets `index`, if free. */
int vfs_device_make_directory(struct vfs_device *device, const char *path);
int vfs_device_node(const struct vfs_device *device, uint32_t number, char *path, size_t size, uint16_t *index);
void vfs_device_next_index(struct vfs_device *device, uint16_t index);
int vfs_device_session_terms(const struct vfs_device *device, struct vfs_session_terms *terms); /* -ENOTCONN: no INIT yet */
int vfs_device_adopt_session(struct vfs_device *device, const struct vfs_session_terms *terms); /* -EPROTO: not one of ours */

/* `fds` are one session's: the first, and clones of it. It takes them over if it returns 0. `channels`
 * threads read from them in turn. The device must outlive it. */
int vfs_session_new(struct vfs_device *device, const int *fds, unsigned fd_count, unsigned channels, struct vfs_session **out);
int vfs_session_start(struct vfs_session *session); /* when it fails, stop and free */
/* Reads no more; waits up to drain_ms for what waits, then fails it, or leaves it unanswered (abandon). */
void vfs_session_stop(struct vfs_session *session, unsigned drain_ms, int abandon);
void vfs_session_free(struct vfs_session *session); /* stops it, and closes its descriptors */
int vfs_session_ended_fd(const struct vfs_session *session); /* readable when the kernel has ended it */
/* Has the kernel ask again what a predecessor on the same descriptors read and never answered.
 * -EINVAL: a kernel before 6.9. */
int vfs_session_resend(const struct vfs_session *session);
/* Has the kernel forget what it knows of a name. -ENOENT: it knows nothing. */
int vfs_session_forget_entry(const struct vfs_session *session, uint64_t parent, const char *name);
/* Requests that wait for a chunk or the disk, the latest first; returns how many were stored. */
struct vfs_in_flight {
    uint64_t unique;
    uint64_t nodeid;
    uint64_t since_s; /* of the epoch */
    uint32_t opcode;
};
unsigned vfs_session_in_flight(struct vfs_session *session, struct vfs_in_flight *requests, unsigned limit);
void vfs_session_statistics(const struct vfs_session *session, struct vfs_statistics *statistics);
#endif
