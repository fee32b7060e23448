/*
 * A trace: the first access to each chunk of an image, in order. What the data plane records and what
 * a trace file holds (rafs/trace/format.py). All numbers are little-endian; nothing is padded.
 */
#ifndef VHOSTFS_TRACE_FORMAT_H
#define VHOSTFS_TRACE_FORMAT_H
#include <stdint.h>

#define VFS_TRACE_MAGIC 0x4543415254534656 /* "VFSTRACE" */
#define VFS_TRACE_VERSION 1
#define VFS_TRACE_MAX_RECORDS 262144
#define VFS_TRACE_MAX_BLOBS 4096

#define VFS_TRACE_MISSED 1 /* flag: the chunk was not there yet */

#pragma pack(push, 1)

struct vfs_trace_header {
    uint64_t magic;
    uint32_t version;
    uint32_t blob_count;
    uint32_t record_count;
    uint32_t runs;            /* recordings that this was merged of; 1: it is one */
    uint64_t dropped;         /* accesses that found no room */
    uint64_t started_at_s;    /* Unix time; of a merged trace, that of the latest run */
    uint64_t duration_ns;
    uint64_t body_size;       /* bytes that follow, compressed */
    uint8_t image_sha256[32]; /* of the bootstrap */
    uint8_t sha256[32];       /* of this header with zeros here, and the body as stored */
    uint8_t reserved[8];
};

struct vfs_trace_record {
    uint64_t time_ns;     /* since the recording began; of a merged trace, the median */
    uint64_t nid;
    uint64_t file_offset; /* of the first byte asked for */
    uint32_t length;      /* bytes asked for in this chunk */
    uint32_t blob_index;  /* in the trace's own list of blobs */
    uint32_t chunk_index;
    uint32_t pid;         /* of the reader, as the FUSE request has it; 0 in a merged trace, and uid too */
    uint32_t uid;
    uint16_t runs;        /* of the header's runs, those in which the chunk was read */
    uint16_t flags;
};

#pragma pack(pop)
#endif
