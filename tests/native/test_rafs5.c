/* The v5 reader on a good image, and on that image with anything in it changed. */
#include "reader_walk.h"
#include "small_image5.h"

#include <errno.h>
#include <time.h>

static uint8_t bytes[SMALL5_SIZE];
static struct rafs_image image;
static char why[256];

static void open_changed(void)
{
    if (small_image_open(&image, bytes, sizeof(bytes), why)) {
        fprintf(stderr, "%s\n", why);
        abort();
    }
}

static void open_good(void)
{
    small_image5_fill(bytes);
    open_changed();
}

static struct rafs_inode inode_of(uint64_t nid)
{
    struct rafs_inode inode;

    CHECK_EQ(rafs_inode_read(&image, nid, &inode), 0);
    return inode;
}

static void test_inodes(void)
{
    struct rafs_inode inode;

    open_good();
    CHECK_EQ(image.version, 5);
    CHECK_EQ(image.blobs[0].uncompressed_size, SMALL5_CHUNKS * 4096);
    inode = inode_of(image.root_nid);
    CHECK_EQ(inode.mode, S_IFDIR | 0755);
    CHECK_EQ(inode.uid, 1000);
    CHECK_EQ(inode.gid, 100000);
    CHECK_EQ(inode.mtime, 1234567890);
    CHECK_EQ(inode.mtime_nsec, 42);
    CHECK_EQ(inode_of(SMALL5_NULL).u, 0x103);
    CHECK_EQ(inode_of(SMALL5_LINK).size, 9);
    CHECK_EQ(rafs_inode_read(&image, SMALL5_HARD, &inode), -EUCLEAN); /* a name, not an inode */
    CHECK_EQ(rafs_inode_read(&image, 0, &inode), -EUCLEAN);
    CHECK_EQ(rafs_inode_read(&image, SMALL5_COUNT + 1, &inode), -EUCLEAN);
    CHECK_EQ(rafs_inode_read(&image, UINT64_MAX, &inode), -EUCLEAN);
    small_image_close(&image);
}

static void test_owners_that_the_image_does_not_carry(void)
{
    small_image5_fill(bytes);
    ((struct rafs_v5_super_block *)bytes)->flags &= ~(uint64_t)RAFS_FLAG_EXPLICIT_UIDGID;
    open_changed();
    CHECK_EQ(inode_of(SMALL5_ROOT).uid, geteuid());
    CHECK_EQ(inode_of(SMALL5_ROOT).gid, getegid());
    small_image_close(&image);
}

static void test_an_old_image_without_the_sizes_of_its_blobs(void)
{
    small_image5_fill(bytes);
    ((struct rafs_v5_super_block *)bytes)->extended_blob_table_entries = 0;
    open_changed();
    CHECK_EQ(image.blobs[0].chunk_count, SMALL5_CHUNKS);
    CHECK_EQ(image.blobs[0].uncompressed_size, 3 * 4096 + 100);
    small_image_close(&image);
}

static void test_lookup_finds_what_readdir_lists(void)
{
    static const uint64_t dirs[] = { SMALL5_ROOT, SMALL5_CROWD };
    static const unsigned counts[] = { 8, 22 };

    open_good();
    for (unsigned i = 0; i < 2; i++) {
        struct rafs_inode dir = inode_of(dirs[i]);
        struct rafs_dirent entry;
        uint64_t cookie = 0, next, nid;
        unsigned count = 0;
        for (; rafs_dir_entry(&image, &dir, cookie, &entry, &next) == 1; cookie = next, count++) {
            char absent[40];
            struct rafs_inode child = inode_of(entry.nid);
            CHECK_EQ(rafs_lookup(&image, &dir, entry.name, entry.name_length, &nid), 0);
            CHECK_EQ(nid, entry.nid);
            CHECK_EQ(entry.file_type, S_ISDIR(child.mode) ? 2 : S_ISREG(child.mode) ? 1 : S_ISLNK(child.mode) ? 7 : 3);
            memcpy(absent, entry.name, entry.name_length);
            absent[entry.name_length] = 0;
            CHECK_EQ(rafs_lookup(&image, &dir, absent, entry.name_length + 1u, &nid), -ENOENT);
            if (count > 1)
                CHECK_EQ(rafs_lookup(&image, &dir, entry.name, entry.name_length - 1u, &nid), -ENOENT);
        }
        CHECK_EQ(count, counts[i]);
        CHECK_EQ(rafs_dir_entry(&image, &dir, UINT64_MAX, &entry, &next), 0);
        CHECK_EQ(rafs_lookup(&image, &dir, "", 0, &nid), -ENOENT);
        CHECK_EQ(rafs_lookup(&image, &dir, "..", 2, &nid), 0);
        CHECK_EQ(nid, SMALL5_ROOT);
    }
    small_image_close(&image);
}

static void test_extents(void)
{
    struct rafs_inode file;
    struct rafs_extent extent;
    static const uint32_t chunk_of[] = { 2, 0, 2, 3 };

    open_good();
    file = inode_of(SMALL5_FILE);
    for (uint64_t at = 0; at < SMALL5_FILE_SIZE; at += 1 + at % 1000) {
        uint64_t in_chunk = at % 4096, left = SMALL5_FILE_SIZE - at;
        CHECK_EQ(rafs_map(&image, &file, at, left, &extent), 0);
        CHECK_EQ(extent.length, 4096 - in_chunk < left ? 4096 - in_chunk : left);
        CHECK_EQ(extent.kind, RAFS_EXTENT_CHUNK);
        CHECK_EQ(extent.chunk_index, chunk_of[at / 4096]);
        CHECK_EQ(extent.blob_offset, chunk_of[at / 4096] * 4096);
        CHECK_EQ(extent.offset_in_chunk, in_chunk);
    }
    CHECK_EQ(rafs_map(&image, &file, SMALL5_FILE_SIZE, 1, &extent), -EINVAL);
    CHECK_EQ(rafs_map(&image, &file, 0, 0, &extent), -EINVAL);
    file = inode_of(SMALL5_HOLES);
    for (uint64_t at = 0; at < 4 * 4096; at += 500) {
        CHECK_EQ(rafs_map(&image, &file, at, 4 * 4096 - at, &extent), 0);
        CHECK_EQ(extent.kind, at / 4096 % 2 ? RAFS_EXTENT_CHUNK : RAFS_EXTENT_HOLE);
        CHECK_EQ(extent.length, 4096 - at % 4096);
    }
    file = inode_of(SMALL5_LINK);
    CHECK_EQ(rafs_map(&image, &file, 5, 4, &extent), 0);
    CHECK(extent.kind == RAFS_EXTENT_INLINE && extent.length == 4 && !memcmp(extent.inline_data, "file", 4));
    small_image_close(&image);
}

static void test_attributes(void)
{
    static const char *const names[] = { "user.color", "trusted.empty", "security.capability" };
    static const unsigned sizes[] = { 3, 0, 12 };
    struct rafs_inode file;
    struct rafs_xattr xattr;
    uint32_t at = 0;

    open_good();
    file = inode_of(SMALL5_FILE);
    for (unsigned i = 0; i < 3; i++) {
        CHECK_EQ(rafs_xattr_entry(&image, &file, at, &xattr, &at), 1);
        CHECK_EQ(rafs_xattr_find(&image, &file, names[i], strlen(names[i]), &xattr), 0);
        CHECK_EQ(xattr.value_size, sizes[i]);
        CHECK_EQ(rafs_xattr_find(&image, &file, names[i], strlen(names[i]) - 1, &xattr), -ENODATA);
    }
    CHECK_EQ(rafs_xattr_entry(&image, &file, at, &xattr, &at), 0);
    file = inode_of(SMALL5_ROOT);
    CHECK_EQ(rafs_xattr_find(&image, &file, "user.color", 10, &xattr), -ENODATA);
    small_image_close(&image);
}

static void test_the_chunks_of_a_blob(void)
{
    const struct chunk_bounds bounds = { SMALL5_CHUNKS, 4096, SMALL5_CHUNKS * 4096, SMALL5_CHUNKS * 4096 };
    struct rafs_chunk_record *list, table[SMALL5_CHUNKS] = { 0 }, lie;
    uint32_t count, fault;
    uint8_t added = 0;

    open_good();
    CHECK_EQ(rafs5_chunks(&image, 0, &list, &count, why, sizeof(why)), 0);
    CHECK_EQ(count, 4);
    CHECK_EQ(chunk_list_check(list, count, &bounds, &fault), 0);
    CHECK_EQ(chunk_table_merge(table, list + 1, 2, &bounds, &added, &fault), 0);
    CHECK_EQ(added, 0x60);
    added = 0;
    CHECK_EQ(chunk_table_merge(table, list, count, &bounds, &added, &fault), 0);
    CHECK_EQ(added, 0x90);
    CHECK_EQ(chunk_table_check(table, &bounds, &fault), 0);
    lie = list[3];
    lie.digest[0]++;
    CHECK_EQ(chunk_table_merge(table, &lie, 1, &bounds, &added, &fault), -EEXIST);
    CHECK_EQ(fault, 3);
    table[3] = (struct rafs_chunk_record){ 0 };
    lie.uncompressed_offset -= 1; /* into chunk 2 */
    added = 0;
    CHECK_EQ(chunk_table_merge(table, &lie, 1, &bounds, &added, &fault), -EUCLEAN);
    CHECK(!chunk_record_is_there(&table[3]));
    free(list);
    small_image_close(&image);
}

/* A record where files contradict each other, or that of others too. */
static void test_chunks_that_cannot_be(void)
{
    struct rafs_chunk_record *list, *first;
    uint32_t count;

    small_image5_fill(bytes);
    first = (struct rafs_chunk_record *)((uint8_t *)small5_inode(bytes, SMALL5_HOLES) + sizeof(struct rafs_v5_inode) + 8);
    first[1].digest[5]++;
    open_changed();
    CHECK_EQ(rafs5_chunks(&image, 0, &list, &count, why, sizeof(why)), -EUCLEAN);
    small_image_close(&image);
    small_image5_fill(bytes);
    first[1].chunk_index = SMALL5_CHUNKS;
    open_changed();
    CHECK_EQ(rafs5_chunks(&image, 0, &list, &count, why, sizeof(why)), -EUCLEAN);
    small_image_close(&image);
}

/* One parent, one name: whatever the records say, a walk of directories ends. */
static void test_directories_are_a_tree(void)
{
    struct rafs_inode dir;
    struct rafs_dirent entry;
    uint64_t next;

    small_image5_fill(bytes);
    small5_inode(bytes, SMALL5_CROWD)->child_index = SMALL5_ROOT;
    open_changed();
    CHECK_EQ(rafs_inode_read(&image, SMALL5_CROWD, &dir), -EUCLEAN);
    small_image_close(&image);
    small_image5_fill(bytes);
    small5_inode(bytes, SMALL5_FIRST)->ino = SMALL5_ROOT;
    open_changed();
    dir = inode_of(SMALL5_CROWD);
    CHECK_EQ(rafs_dir_entry(&image, &dir, 2, &entry, &next), -EUCLEAN); /* a name of a file that leads to a directory */
    small_image_close(&image);
    small_image5_fill(bytes);
    small5_inode(bytes, SMALL5_FIRST)->mode = S_IFDIR | 0755;
    small5_inode(bytes, SMALL5_FIRST)->ino = SMALL5_FIRST;
    small5_inode(bytes, SMALL5_FIRST)->parent = SMALL5_ROOT;
    open_changed();
    dir = inode_of(SMALL5_CROWD);
    CHECK_EQ(rafs_dir_entry(&image, &dir, 2, &entry, &next), -EUCLEAN); /* a directory of another parent */
    small_image_close(&image);
}

static uint64_t seed = 1;

static uint32_t next_random(void) /* the same each time */
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(seed >> 33);
}

static void test_mutations(void)
{
    static const uint8_t mean[] = { 0, 1, 2, 0x7F, 0x80, 0xFE, 0xFF, 12, 32 };
    unsigned opened = 0, rounds = 10000;

    for (unsigned round = 0; round < rounds; round++) {
        small_image5_fill(bytes);
        for (unsigned hits = 1 + next_random() % 6; hits; hits--) {
            size_t at = next_random() % 4 ? RAFS_V5_SUPER_SIZE + next_random() % (SMALL5_SIZE - RAFS_V5_SUPER_SIZE) : next_random() % 80;
            for (unsigned run = 1 + (next_random() & 3); run && at < SMALL5_SIZE; run--, at++)
                bytes[at] = next_random() % 4 ? mean[next_random() % sizeof(mean)] : (uint8_t)next_random();
        }
        if (!small_image_open(&image, bytes, sizeof(bytes), why)) {
            opened++;
            walk_image(&image, 300);
            small_image_close(&image);
        } else {
            CHECK(why[0]); /* a refusal has a reason */
        }
        why[0] = 0;
    }
    CHECK(opened > rounds / 4 && opened < rounds); /* the walk is what this is about */
}

static void test_an_image_cut_anywhere(void)
{
    for (size_t size = 0; size < SMALL5_SIZE; size += size < RAFS_V5_SUPER_SIZE ? 1021 : 13) {
        small_image5_fill(bytes);
        if (!small_image_open(&image, bytes, size, why)) {
            walk_image(&image, 300);
            small_image_close(&image);
        }
    }
}

int main(void)
{
    RUN(test_inodes);
    RUN(test_owners_that_the_image_does_not_carry);
    RUN(test_an_old_image_without_the_sizes_of_its_blobs);
    RUN(test_lookup_finds_what_readdir_lists);
    RUN(test_extents);
    RUN(test_attributes);
    RUN(test_the_chunks_of_a_blob);
    RUN(test_chunks_that_cannot_be);
    RUN(test_directories_are_a_tree);
    RUN(test_mutations);
    RUN(test_an_image_cut_anywhere);
    return 0;
}
