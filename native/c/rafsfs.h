/*
 * A RAFS image as a mounted file system. Nothing is kept between requests: an inode's number is its
 * nid, and the image never changes, so there is nothing for FORGET to release.
 */
#ifndef VHOSTFS_RAFSFS_H
#define VHOSTFS_RAFSFS_H
#include "fuse_server.h"
#include "rafs_image.h"
#include "trace.h"

struct rafsfs {
    struct fuse_fs fs;
    const struct rafs_image *image;
    struct blob **blobs; /* by blob index of the image; NULL where one cannot be had */
    struct trace *trace; /* atomic; NULL: nothing is recorded */
    uint32_t trace_users; /* atomic */
};

/* The image and the blobs must outlive the mount. NULL: no memory. */
struct fuse_fs *rafsfs_new(const struct rafs_image *image, struct blob *const *blobs);

static inline struct rafsfs *rafsfs_of(const struct fuse_request *request) { return (struct rafsfs *)request->fs; }

/* Our number of an inode and the image's: FUSE_ROOT_ID is the root's, all others are the nid. */
int rafsfs_inode(const struct rafsfs *rafsfs, uint64_t id, struct rafs_inode *inode);
int rafsfs_nodeid(const struct rafsfs *rafsfs, uint64_t nid, uint64_t *nodeid);
/* The number that users see: the nid, made unique over all mounts. */
uint64_t rafsfs_ino(const struct rafsfs *rafsfs, uint64_t nid);
void rafsfs_fill_attr(const struct rafsfs *rafsfs, const struct rafs_inode *inode, struct fuse_attr *attr);
void rafsfs_fill_entry(const struct rafsfs *rafsfs, const struct rafs_inode *inode, uint64_t nodeid, struct fuse_entry_out *entry);

/* rafsfs_trace.c. The extent is a chunk's. Record to `trace`, or NULL: returns when nobody uses the one
 * before. -EINVAL: it is no image. */
void rafsfs_record(struct rafsfs *rafsfs, const struct fuse_request *request, uint64_t nid, uint64_t file_offset,
                   const struct rafs_extent *extent, bool missed);
int rafsfs_set_trace(struct fuse_fs *fs, struct trace *trace);
/* The mount as what it is; NULL: it is no image. */
struct rafsfs *rafsfs_of_fs(struct fuse_fs *fs);

fuse_handler rafsfs_lookup, rafsfs_getattr, rafsfs_statx, rafsfs_readlink, rafsfs_open, rafsfs_opendir; /* rafsfs_meta.c */
fuse_handler rafsfs_access, rafsfs_statfs, rafsfs_lseek;                                                /* rafsfs_meta.c */
fuse_handler rafsfs_readdir, rafsfs_readdirplus;   /* rafsfs_dir.c */
fuse_handler rafsfs_getxattr, rafsfs_listxattr;    /* rafsfs_xattr.c */
fuse_handler rafsfs_read;                          /* rafsfs_read.c */
#endif
