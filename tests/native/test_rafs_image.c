/* The reader on a good image, and on that image with anything in it changed. */
#include "reader_walk.h"
#include "small_image.h"

#include <errno.h>
#include <time.h>

static uint8_t bytes[SMALL_SIZE];
static struct rafs_image image;
static char why[256];

static void open_good(void)
{
    small_image_fill(bytes);
    if (small_image_open(&image, bytes, sizeof(bytes), why)) {
        fprintf(stderr, "%s\n", why);
        abort();
    }
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
    inode = inode_of(image.root_nid);
    CHECK_EQ(inode.mode, S_IFDIR | 0755);
    CHECK_EQ(inode.uid, 1000);
    CHECK_EQ(inode.gid, 100000);
    CHECK_EQ(inode.mtime, 1234567890);
    CHECK_EQ(inode.mtime_nsec, 42);
    inode = inode_of(SMALL_NULL);
    CHECK_EQ(inode.mode, S_IFCHR | 0666);
    CHECK_EQ(inode.u, 0x103);
    CHECK_EQ(inode.mtime, 0);
    for (uint64_t nid = SMALL_SIZE / 32 - 2 * 4096 / 32; nid < 2000; nid++)
        CHECK_EQ(rafs_inode_read(&image, nid, &inode), -EUCLEAN); /* behind the end */
    CHECK_EQ(rafs_inode_read(&image, 0, &inode), -EUCLEAN);
    CHECK_EQ(rafs_inode_read(&image, UINT64_MAX, &inode), -EUCLEAN);
    CHECK_EQ(rafs_inode_read(&image, UINT64_MAX / 32 + 1, &inode), -EUCLEAN);
    small_image_close(&image);
}

static void test_a_file_is_read_whole(void)
{
    int fd = memfd_create("bootstrap", MFD_CLOEXEC);

    small_image_fill(bytes);
    CHECK(fd >= 0 && write(fd, bytes, sizeof(bytes)) == sizeof(bytes));
    CHECK_EQ(rafs_image_open(&image, fd, why, sizeof(why)), 0);
    CHECK_EQ(inode_of(SMALL_INLINE).size, 12);
    rafs_image_close(&image);
    CHECK(ftruncate(fd, 8191) == 0);
    CHECK_EQ(rafs_image_open(&image, fd, why, sizeof(why)), -EUCLEAN);
    CHECK(ftruncate(fd, 8192) == 0);
    CHECK_EQ(rafs_image_open(&image, fd, why, sizeof(why)), -EUCLEAN);
    close(fd);
    CHECK_EQ(rafs_image_open(&image, fd, why, sizeof(why)), -EBADF);
}

static void test_owners_that_the_image_does_not_carry(void)
{
    small_image_fill(bytes);
    ((struct rafs_v6_super_block *)(bytes + RAFS_V6_SUPER_OFFSET))->flags &= ~(uint64_t)RAFS_FLAG_EXPLICIT_UIDGID;
    CHECK_EQ(small_image_open(&image, bytes, sizeof(bytes), why), 0);
    CHECK_EQ(inode_of(SMALL_ROOT).uid, geteuid());
    CHECK_EQ(inode_of(SMALL_ROOT).gid, getegid());
    small_image_close(&image);
}

static void test_lookup_finds_what_readdir_lists(void)
{
    struct rafs_inode dir;
    struct rafs_dirent entry;
    uint64_t cookie = 0, next, nid;
    unsigned count = 0;

    open_good();
    dir = inode_of(SMALL_CROWD);
    for (; rafs_dir_entry(&image, &dir, cookie, &entry, &next) == 1; cookie = next, count++) {
        char absent[40];
        CHECK_EQ(rafs_lookup(&image, &dir, entry.name, entry.name_length, &nid), 0);
        CHECK_EQ(nid, entry.nid);
        memcpy(absent, entry.name, entry.name_length);
        absent[entry.name_length] = 0;
        CHECK_EQ(rafs_lookup(&image, &dir, absent, entry.name_length + 1u, &nid), -ENOENT);
        if (count > 1) {
            absent[entry.name_length - 1]--;
            absent[entry.name_length] = '9';
            CHECK_EQ(rafs_lookup(&image, &dir, absent, entry.name_length + 1u, &nid), -ENOENT);
            CHECK_EQ(rafs_lookup(&image, &dir, entry.name, entry.name_length - 1u, &nid), -ENOENT);
        }
    }
    CHECK_EQ(count, 210);
    CHECK_EQ(rafs_dir_entry(&image, &dir, cookie, &entry, &next), 0);
    CHECK_EQ(rafs_dir_entry(&image, &dir, 3ull << 16, &entry, &next), 0);
    CHECK_EQ(rafs_dir_entry(&image, &dir, 100, &entry, &next), 0); /* past the block's last */
    CHECK_EQ(rafs_lookup(&image, &dir, "", 0, &nid), -ENOENT);
    small_image_close(&image);
}

static void test_extents(void)
{
    struct rafs_inode file;
    struct rafs_extent extent;
    static const uint32_t chunk_of[] = { 2, 0, 99, 1 };

    open_good();
    file = inode_of(SMALL_FILE);
    for (uint64_t at = 0; at < SMALL_FILE_SIZE; at += 1 + at % 1000) {
        uint64_t in_chunk = at % 4096, left = SMALL_FILE_SIZE - at, expected = 4096 - in_chunk < left ? 4096 - in_chunk : left;
        CHECK_EQ(rafs_map(&image, &file, at, left, &extent), 0);
        CHECK_EQ(extent.length, expected);
        CHECK_EQ(extent.kind, at / 4096 == 2 ? RAFS_EXTENT_HOLE : RAFS_EXTENT_CHUNK);
        if (extent.kind == RAFS_EXTENT_CHUNK) {
            CHECK_EQ(extent.chunk_index, chunk_of[at / 4096]);
            CHECK_EQ(extent.blob_offset, chunk_of[at / 4096] * 4096);
            CHECK_EQ(extent.offset_in_chunk, in_chunk);
        }
        CHECK_EQ(rafs_map(&image, &file, at, 1, &extent), 0);
        CHECK_EQ(extent.length, 1);
    }
    CHECK_EQ(rafs_map(&image, &file, SMALL_FILE_SIZE, 1, &extent), -EINVAL);
    CHECK_EQ(rafs_map(&image, &file, 1, SMALL_FILE_SIZE, &extent), -EINVAL);
    CHECK_EQ(rafs_map(&image, &file, UINT64_MAX, 2, &extent), -EINVAL);
    CHECK_EQ(rafs_map(&image, &file, 0, 0, &extent), -EINVAL);
    file = inode_of(SMALL_INLINE);
    CHECK_EQ(rafs_map(&image, &file, 7, 5, &extent), 0);
    CHECK(extent.kind == RAFS_EXTENT_INLINE && !memcmp(extent.inline_data, "guest", 5));
    file = inode_of(SMALL_PLAIN);
    CHECK_EQ(rafs_map(&image, &file, 2999, 1, &extent), 0);
    CHECK(extent.kind == RAFS_EXTENT_INLINE && *extent.inline_data == 'p');
    small_image_close(&image);
}

static void test_attributes(void)
{
    static const char *const names[] = { "user.color", "trusted.empty", "security.capability" };
    struct rafs_inode file;
    struct rafs_xattr xattr;
    uint32_t at = 0;

    open_good();
    file = inode_of(SMALL_FILE);
    for (unsigned i = 0; i < 3; i++) {
        CHECK_EQ(rafs_xattr_entry(&image, &file, at, &xattr, &at), 1);
        CHECK_EQ(rafs_xattr_find(&image, &file, names[i], strlen(names[i]), &xattr), 0);
        CHECK_EQ(rafs_xattr_find(&image, &file, names[i], strlen(names[i]) - 1, &xattr), -ENODATA);
    }
    CHECK_EQ(rafs_xattr_entry(&image, &file, at, &xattr, &at), 0);
    CHECK_EQ(rafs_xattr_find(&image, &file, "user.color", 10, &xattr), 0);
    CHECK(xattr.value_size == 3 && !memcmp(xattr.value, "red", 3));
    file = inode_of(SMALL_ROOT);
    CHECK_EQ(rafs_xattr_entry(&image, &file, 0, &xattr, &at), 0);
    CHECK_EQ(rafs_xattr_find(&image, &file, "user.color", 10, &xattr), -ENODATA);
    small_image_close(&image);
}

static void test_an_image_cut_at_every_block(void)
{
    for (size_t size = 0; size < SMALL_SIZE; size += size < 3 * SMALL_BLOCK ? 97 : 1021) {
        small_image_fill(bytes);
        if (!small_image_open(&image, bytes, size, why)) {
            walk_image(&image, 300);
            small_image_close(&image);
        }
    }
}

static uint64_t seed = 1;

static uint32_t next_random(void) /* the same each time */
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(seed >> 33);
}

/* A value that breaks things: at a border, or any. */
static uint8_t mean_byte(void)
{
    static const uint8_t mean[] = { 0, 1, 2, 0x7F, 0x80, 0xFE, 0xFF, 12, 32 };
    uint32_t choice = next_random() % 12;

    return choice < sizeof(mean) ? mean[choice] : (uint8_t)next_random();
}

/* What a mutation hits: most of an image is data that nobody interprets. */
static size_t interesting_offset(void)
{
    static const struct { size_t first, size; } places[] = {
        { EROFS_SUPER_OFFSET, 128 }, { RAFS_V6_SUPER_OFFSET, 256 }, { 1408, 128 }, { SMALL_BLOCK, 256 },
        { 2 * SMALL_BLOCK, 3 * SMALL_BLOCK }, { 2 * SMALL_BLOCK + SMALL_ROOT * 32, 200 }, { 2 * SMALL_BLOCK + SMALL_FILE * 32, 200 },
        { 2 * SMALL_BLOCK + SMALL_CROWD * 32, 300 }, { 5 * SMALL_BLOCK, 1300 }, { 6 * SMALL_BLOCK, 1300 },
    };
    uint32_t place = next_random() % (sizeof(places) / sizeof(*places));

    return places[place].first + next_random() % places[place].size;
}

static void test_mutations(void)
{
    unsigned opened = 0, rounds = 4000;

    for (unsigned round = 0; round < rounds; round++) {
        small_image_fill(bytes);
        for (unsigned hits = 1 + next_random() % 6; hits; hits--) {
            size_t at = interesting_offset();
            for (unsigned run = 1 + (next_random() & 3); run && at < SMALL_SIZE; run--, at++)
                bytes[at] = mean_byte();
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

/* A directory or a file whose size is a lie costs no more time than its image has bytes. */
static void test_sizes_that_lie(void)
{
    static const uint64_t sizes[] = { 1ull << 32, 1ull << 52, INT64_MAX, (uint64_t)INT64_MAX + 1, UINT64_MAX };
    static const uint64_t nids[] = { SMALL_ROOT, SMALL_CROWD, SMALL_FILE, SMALL_LINK };
    clock_t start = clock();

    for (unsigned i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
        for (unsigned n = 0; n < sizeof(nids) / sizeof(*nids); n++) {
            small_image_fill(bytes);
            ((struct erofs_inode_extended *)small_inode(bytes, nids[n]))->size = sizes[i];
            if (!small_image_open(&image, bytes, sizeof(bytes), why)) {
                walk_image(&image, 100000);
                small_image_close(&image);
            }
        }
    }
    CHECK((clock() - start) / CLOCKS_PER_SEC < 20);
}

int main(void)
{
    RUN(test_inodes);
    RUN(test_a_file_is_read_whole);
    RUN(test_owners_that_the_image_does_not_carry);
    RUN(test_lookup_finds_what_readdir_lists);
    RUN(test_extents);
    RUN(test_attributes);
    RUN(test_an_image_cut_at_every_block);
    RUN(test_mutations);
    RUN(test_sizes_that_lie);
    return 0;
}
