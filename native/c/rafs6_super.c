/* Opening a v6 bootstrap: the two super blocks and the tables they point at. See rafs_image.h. */
#include <string.h>

#include "rafs_image.h"
#include "rafs_parse.h"

static int check_erofs_super(struct rafs_image *image, const struct erofs_super_block *sb, struct reason why)
{
    if (sb->magic != EROFS_SUPER_MAGIC || !(sb->feature_compat & EROFS_COMPAT_RAFS_V6))
        return refuse(why, -EUCLEAN, "not a RAFS v6 bootstrap (no EROFS magic with the RAFS mark at offset 1024)");
    if (sb->blkszbits != 12)
        return refuse(why, -EOPNOTSUPP, "block size of 2^%u is not supported", sb->blkszbits);
    if (sb->feature_incompat != (EROFS_INCOMPAT_CHUNKED_FILE | EROFS_INCOMPAT_DEVICE_TABLE))
        return refuse(why, -EOPNOTSUPP, "the image has incompatible EROFS features 0x%x", sb->feature_incompat);
    if (sb->extra_devices > RAFS_MAX_BLOBS)
        return refuse(why, -EUCLEAN, "%u blobs; at most %u are possible", sb->extra_devices, RAFS_MAX_BLOBS);
    image->blkszbits = sb->blkszbits;
    image->inos = sb->inos;
    image->root_nid = sb->root_nid;
    image->blob_count = sb->extra_devices;
    image->meta_offset = (uint64_t)sb->meta_blkaddr << sb->blkszbits;
    if (image->meta_offset > image->size)
        return refuse(why, -EUCLEAN, "metadata would start at %llu, past the end of the image", (unsigned long long)image->meta_offset);
    image->last_nid = (image->size - image->meta_offset) / EROFS_SLOT_SIZE;
    return 0;
}

static int check_device_slots(const struct rafs_image *image, const struct erofs_super_block *sb, struct reason why)
{
    const struct erofs_device_slot *slots = rafs_at(image, (uint64_t)sb->devt_slotoff * sizeof(*slots), image->blob_count * sizeof(*slots));

    if (!slots)
        return refuse(why, -EUCLEAN, "the device table lies outside the image");
    for (unsigned i = 0; i < image->blob_count; i++) {
        if (memcmp(slots[i].tag, image->blobs[i].blob_id, sizeof(slots[i].tag)))
            return refuse(why, -EUCLEAN, "device slot %u names another blob than the blob table", i);
    }
    return 0;
}

static int check_tables(struct rafs_image *image, const struct rafs_v6_super_block *ext, struct reason why)
{
    int err = rafs_check_flags(image, ext->flags, why);

    if (!err)
        err = rafs_check_chunk_size(image, ext->chunk_size, why);
    if (err)
        return err;
    if (ext->blob_table_size != image->blob_count * sizeof(struct rafs_v6_blob))
        return refuse(why, -EUCLEAN, "blob table of %u bytes for %u blobs", ext->blob_table_size, image->blob_count);
    image->blobs = rafs_at(image, ext->blob_table_offset, ext->blob_table_size);
    image->chunk_table = rafs_at(image, ext->chunk_table_offset, ext->chunk_table_size);
    image->chunk_table_count = ext->chunk_table_size / sizeof(struct rafs_chunk_record);
    if (!image->blobs || !image->chunk_table)
        return refuse(why, -EUCLEAN, "the blob table or the chunk table lies outside the image");
    /* Old builders wrote a size without an offset for an empty table (section 2.3). */
    image->prefetch_count = ext->prefetch_table_offset ? ext->prefetch_table_size / 4 : 0;
    image->prefetch_table = rafs_at(image, ext->prefetch_table_offset, 4ull * image->prefetch_count);
    if (!image->prefetch_table)
        return refuse(why, -EUCLEAN, "the prefetch table lies outside the image");
    for (unsigned i = 0; i < image->blob_count; i++) {
        err = rafs_check_blob(image, i, why);
        if (err)
            return err;
    }
    return 0;
}

int rafs6_parse(struct rafs_image *image, struct reason why)
{
    const struct erofs_super_block *sb = rafs_at(image, EROFS_SUPER_OFFSET, sizeof(*sb));
    const struct rafs_v6_super_block *ext = rafs_at(image, RAFS_V6_SUPER_OFFSET, sizeof(*ext));
    int err;

    if (!sb || !ext)
        return refuse(why, -EUCLEAN, "%llu bytes are too short for a bootstrap", (unsigned long long)image->size);
    image->version = 6;
    image->reader = &rafs6_reader;
    err = check_erofs_super(image, sb, why);
    if (!err)
        err = check_tables(image, ext, why);
    return err ? err : check_device_slots(image, sb, why);
}
