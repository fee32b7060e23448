/*
 * Opening a v5 bootstrap: the super block and the tables it points at (specification 4.1 to 4.4).
 *
 * Its blob tables become entries as v6 has them, so that nobody else need know two kinds. Images that were
 * built before there was an extended table do not say how large a blob is; it is then as large as their
 * files need.
 */
#include <stdlib.h>
#include <string.h>

#include "rafs5.h"

#define KNOWN_FEATURES 0x70000FFF /* others may be ignored (specification 1.5) */

static int check_super(struct rafs_image *image, const struct rafs_v5_super_block *sb, struct reason why)
{
    if (sb->version != RAFS_V5_VERSION || sb->super_size != RAFS_V5_SUPER_SIZE)
        return refuse(why, -EOPNOTSUPP, "RAFS version 0x%x with a super block of %u bytes is not known", sb->version, sb->super_size);
    if (sb->inode_table_entries > image->size / sizeof(struct rafs_v5_inode))
        return refuse(why, -EUCLEAN, "%u inodes do not fit %llu bytes", sb->inode_table_entries, (unsigned long long)image->size);
    image->inos = sb->inodes;
    image->last_nid = sb->inode_table_entries;
    image->inode_table = rafs_at(image, sb->inode_table_offset, 4ull * sb->inode_table_entries);
    image->prefetch_count = sb->prefetch_table_entries;
    image->prefetch_table = rafs_at(image, sb->prefetch_table_offset, 4ull * sb->prefetch_table_entries);
    if (!image->inode_table || !image->prefetch_table)
        return refuse(why, -EUCLEAN, "the inode table or the prefetch table lies outside the image");
    return 0;
}

static int count_blobs(const uint8_t *table, uint32_t size, struct reason why)
{
    const uint32_t entry = sizeof(struct rafs_v5_blob_head) + sizeof(((struct rafs_v6_blob *)0)->blob_id);
    int count = 0;

    while (size > sizeof(struct rafs_v5_blob_head)) {
        if (size < entry || (size > entry && table[entry]))
            return refuse(why, -EUCLEAN, "blob %d has an id that is not 64 hexadecimal digits", count);
        if (++count > RAFS_V5_MAX_BLOBS)
            return refuse(why, -EUCLEAN, "more than %d blobs", RAFS_V5_MAX_BLOBS);
        table += entry + 1;
        size = size > entry ? size - entry - 1 : 0;
    }
    return count;
}

static void make_blob(struct rafs_image *image, uint32_t index, const uint8_t *entry, const struct rafs_v5_extended_blob *extended)
{
    struct rafs_v6_blob *blob = &image->made_blobs[index];

    *blob = (struct rafs_v6_blob){
        .blob_index = index,
        .chunk_size = image->chunk_size,
        .compression_algo = image->flags & RAFS_FLAG_COMPRESS_NONE ? RAFS_CODEC_NONE : image->flags & RAFS_FLAG_COMPRESS_LZ4 ? RAFS_CODEC_LZ4 :
                            image->flags & RAFS_FLAG_COMPRESS_GZIP ? RAFS_CODEC_GZIP : RAFS_CODEC_ZSTD,
        .digest_algo = image->flags & RAFS_FLAG_DIGEST_BLAKE3 ? RAFS_DIGEST_BLAKE3 : RAFS_DIGEST_SHA256,
    };
    memcpy(blob->blob_id, entry + sizeof(struct rafs_v5_blob_head), sizeof(blob->blob_id));
    if (extended) {
        blob->chunk_count = extended->chunk_count;
        blob->features = extended->features & KNOWN_FEATURES;
        blob->uncompressed_size = extended->uncompressed_size;
        blob->compressed_size = extended->compressed_size;
    }
}

/* Without the extended table: what the chunks of all files need. compressed_size stays 0, unknown. */
static int measure_chunk(void *context, const struct rafs_chunk_record *chunk)
{
    struct rafs_image *image = context;
    struct rafs_v6_blob *blob;

    if (chunk->blob_index >= image->blob_count || chunk->chunk_index >= RAFS_MAX_CHUNKS || chunk->uncompressed_offset > RAFS_MAX_UNCOMPRESSED)
        return -EUCLEAN;
    blob = &image->made_blobs[chunk->blob_index];
    if (chunk->chunk_index >= blob->chunk_count)
        blob->chunk_count = chunk->chunk_index + 1;
    if (chunk->uncompressed_offset + chunk->uncompressed_size > blob->uncompressed_size)
        blob->uncompressed_size = chunk->uncompressed_offset + chunk->uncompressed_size;
    return 0;
}

static int make_blobs(struct rafs_image *image, const struct rafs_v5_super_block *sb, struct reason why)
{
    const uint8_t *table = rafs_at(image, sb->blob_table_offset, sb->blob_table_size);
    const struct rafs_v5_extended_blob *extended =
        rafs_at(image, sb->extended_blob_table_offset, (uint64_t)sb->extended_blob_table_entries * sizeof(*extended));
    int count;

    if (!table || (sb->extended_blob_table_entries && !extended))
        return refuse(why, -EUCLEAN, "a blob table lies outside the image");
    count = count_blobs(table, sb->blob_table_size, why);
    if (count < 0)
        return count;
    if (sb->extended_blob_table_entries && sb->extended_blob_table_entries != (uint32_t)count)
        return refuse(why, -EUCLEAN, "%d blobs, and %u in the extended table", count, sb->extended_blob_table_entries);
    image->made_blobs = calloc((size_t)count + 1, sizeof(*image->made_blobs));
    if (!image->made_blobs)
        return refuse(why, -ENOMEM, "no memory for %d blobs", count);
    image->blobs = image->made_blobs;
    image->blob_count = (uint16_t)count;
    for (int i = 0; i < count; i++)
        make_blob(image, (uint32_t)i, table + (size_t)i * (sizeof(struct rafs_v5_blob_head) + 65), sb->extended_blob_table_entries ? &extended[i] : NULL);
    return sb->extended_blob_table_entries ? 0 : rafs5_each_chunk(image, measure_chunk, image, why);
}

int rafs5_parse(struct rafs_image *image, struct reason why)
{
    const struct rafs_v5_super_block *sb = rafs_at(image, 0, sizeof(*sb));
    int err;

    if (!sb)
        return refuse(why, -EUCLEAN, "%llu bytes are too short for a bootstrap", (unsigned long long)image->size);
    image->version = 5;
    image->reader = &rafs5_reader;
    image->root_nid = RAFS_V5_ROOT_INO;
    err = check_super(image, sb, why);
    if (!err)
        err = rafs_check_flags(image, sb->flags, why);
    if (!err)
        err = rafs_check_chunk_size(image, sb->chunk_size, why);
    if (!err)
        err = make_blobs(image, sb, why);
    for (unsigned i = 0; !err && i < image->blob_count; i++)
        err = rafs_check_blob(image, i, why);
    return err;
}
