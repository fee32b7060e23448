/* v5: all chunk records, which stand with the inodes (specification 4.6). See rafs_image.h. */
#include <stdlib.h>
#include <string.h>

#include "chunk_table.h"
#include "rafs5.h"

int rafs5_each_chunk(const struct rafs_image *image, int (*visit)(void *context, const struct rafs_chunk_record *chunk), void *context,
                     struct reason why)
{
    uint64_t budget = image->size / sizeof(struct rafs_chunk_record); /* records do not share bytes */

    for (uint64_t nid = 1; nid <= image->last_nid; nid++) {
        struct rafs_inode inode;
        const struct rafs_chunk_record *chunks;
        if (rafs5_inode_read(image, nid, &inode) || inode.layout != EROFS_LAYOUT_CHUNK_BASED)
            continue; /* another name of a file; or a fault, which whoever reads it is told of */
        if (inode.count > budget)
            return refuse(why, -EUCLEAN, "the chunk records of inode %llu are those of others too", (unsigned long long)nid);
        budget -= inode.count;
        chunks = rafs_at(image, inode.payload_offset, (uint64_t)inode.count * sizeof(*chunks)); /* checked with the inode */
        for (uint32_t i = 0; i < inode.count; i++) {
            int err = chunks[i].flags & RAFS_CHUNK_HOLE ? 0 : visit(context, &chunks[i]);
            if (err)
                return refuse(why, err, "chunk %u of inode %llu cannot be: blob %u, chunk %u", i, (unsigned long long)nid,
                              chunks[i].blob_index, chunks[i].chunk_index);
        }
    }
    return 0;
}

struct gathering {
    const struct rafs_image *image;
    uint32_t blob_index;
    uint32_t count, room;
    struct rafs_chunk_record *records;
};

static int gather(void *context, const struct rafs_chunk_record *chunk)
{
    struct gathering *to = context;

    if (chunk->blob_index != to->blob_index)
        return chunk->blob_index < to->image->blob_count ? 0 : -EUCLEAN;
    if (chunk->chunk_index >= to->image->blobs[chunk->blob_index].chunk_count)
        return -EUCLEAN;
    if (to->count == to->room) {
        uint32_t room = to->room ? 2 * to->room : 64;
        struct rafs_chunk_record *more = reallocarray(to->records, room, sizeof(*more));
        if (!more)
            return -ENOMEM;
        to->records = more;
        to->room = room;
    }
    return chunk_record_normalize(&to->records[to->count++], chunk);
}

static int by_index(const void *left, const void *right)
{
    uint32_t a = ((const struct rafs_chunk_record *)left)->chunk_index, b = ((const struct rafs_chunk_record *)right)->chunk_index;

    return (a > b) - (a < b);
}

/* Files share chunks: leaves one record of each. */
static int keep_one(struct gathering *to, struct reason why)
{
    uint32_t kept = 0;

    if (to->count)
        qsort(to->records, to->count, sizeof(*to->records), by_index);
    for (uint32_t i = 0; i < to->count; i++) {
        if (kept && to->records[kept - 1].chunk_index == to->records[i].chunk_index) {
            if (memcmp(&to->records[kept - 1], &to->records[i], sizeof(*to->records)))
                return refuse(why, -EUCLEAN, "two files say different things about chunk %u of blob %u", to->records[i].chunk_index, to->blob_index);
        } else {
            to->records[kept++] = to->records[i];
        }
    }
    to->count = kept;
    return 0;
}

int rafs5_chunks(const struct rafs_image *image, uint32_t blob_index, struct rafs_chunk_record **records, uint32_t *count,
                 char *why_text, size_t why_size)
{
    struct reason why = { why_text, why_size };
    struct gathering to = { .image = image, .blob_index = blob_index };
    int err = rafs5_each_chunk(image, gather, &to, why);

    if (!err)
        err = keep_one(&to, why);
    if (err) {
        free(to.records);
        return err;
    }
    *records = to.records;
    *count = to.count;
    return 0;
}
