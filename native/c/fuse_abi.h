/* The FUSE wire structs: the system's <linux/fuse.h>, and what a 7.38 header does not have yet. */
#ifndef VHOSTFS_FUSE_ABI_H
#define VHOSTFS_FUSE_ABI_H
#include <linux/fuse.h>

#define FUSE_OLDEST_MINOR 31
#define FUSE_OUR_MINOR 39 /* STATX is the newest operation answered */

#if FUSE_KERNEL_MINOR_VERSION < 38
#error "vhostfs needs the FUSE definitions of Linux 6.1 or newer"
#endif
#ifndef FUSE_CREATE_SUPP_GROUP /* it came to 7.38 late, in Linux 6.3 */
#define FUSE_CREATE_SUPP_GROUP (1ULL << 34)
#endif
#if FUSE_KERNEL_MINOR_VERSION < 40
#define FUSE_NOTIFY_RESEND 7
#endif
#define FUSE_EXT_TYPE_GROUPS 32 /* FUSE_EXT_GROUPS there: uint32_t count, then as many uint32_t */
#if FUSE_KERNEL_MINOR_VERSION < 39
#define FUSE_STATX 52
struct fuse_sx_time {
    int64_t tv_sec;
    uint32_t tv_nsec;
    int32_t reserved;
};
struct fuse_statx {
    uint32_t mask;
    uint32_t blksize;
    uint64_t attributes;
    uint32_t nlink;
    uint32_t uid;
    uint32_t gid;
    uint16_t mode;
    uint16_t spare0[1];
    uint64_t ino;
    uint64_t size;
    uint64_t blocks;
    uint64_t attributes_mask;
    struct fuse_sx_time atime;
    struct fuse_sx_time btime;
    struct fuse_sx_time ctime;
    struct fuse_sx_time mtime;
    uint32_t rdev_major;
    uint32_t rdev_minor;
    uint32_t dev_major;
    uint32_t dev_minor;
    uint64_t spare2[14];
};
struct fuse_statx_in {
    uint32_t getattr_flags;
    uint32_t reserved;
    uint64_t fh;
    uint32_t sx_flags;
    uint32_t sx_mask;
};
struct fuse_statx_out {
    uint64_t attr_valid;
    uint32_t attr_valid_nsec;
    uint32_t flags;
    uint64_t spare[2];
    struct fuse_statx stat;
};
#endif
_Static_assert(sizeof(struct fuse_statx) == 256, "struct fuse_statx");
_Static_assert(sizeof(struct fuse_statx_out) == 288, "struct fuse_statx_out");
_Static_assert(sizeof(struct fuse_statx_in) == 24, "struct fuse_statx_in");
#endif
