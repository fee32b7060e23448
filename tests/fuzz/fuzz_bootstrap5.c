/*
 * Invariant: as fuzz_bootstrap.c, of RAFS v5: any bytes are refused with a reason or can be read, every inode
 * of them, within the image and in bounded time.
 *
 * The input is a list of changes to a good image (offset, value), after how much of it is there.
 */
#include "fuzz.h"
#include "reader_walk.h"
#include "small_image5.h"

enum { CHANGE = 3, WALK_LIMIT = 300 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t good[SMALL5_SIZE], bytes[SMALL5_SIZE];
    struct fuzz_input input = { data, size };
    struct rafs_image image;
    char why[256] = "";

    if (!good[0])
        small_image5_fill(good);
    memcpy(bytes, good, sizeof(bytes));
    size_t present = SMALL5_SIZE - fuzz_take(&input, 2) % SMALL5_SIZE;
    while (input.left >= CHANGE) {
        size_t at = fuzz_take(&input, 2) % SMALL5_SIZE;
        bytes[at] = (uint8_t)fuzz_take(&input, 1);
    }
    if (small_image_open(&image, bytes, present, why)) {
        CHECK(why[0]);
        return 0;
    }
    walk_image(&image, WALK_LIMIT);
    small_image_close(&image);
    return 0;
}

/* Each field of the super block, and of some records, set to something else. */
size_t fuzz_seed(unsigned index, uint8_t *to)
{
    static uint8_t good[SMALL5_SIZE];
    static const unsigned inodes[] = { SMALL5_ROOT, SMALL5_CROWD, SMALL5_FILE, SMALL5_HARD, SMALL5_HOLES, SMALL5_LINK };
    enum { FIELDS = 12, SUPER = 80 };
    unsigned number = index;
    uint16_t place;

    if (!good[0])
        small_image5_fill(good);
    memset(to, 0, 2 + CHANGE);
    if (index == 0)
        return 2;
    if (--number < SUPER / 4) {
        place = (uint16_t)(number * 4);
    } else {
        number -= SUPER / 4;
        if (number / FIELDS >= sizeof(inodes) / sizeof(*inodes))
            return 0;
        place = (uint16_t)(small5_record_offset(good, inodes[number / FIELDS]) + 32 + number % FIELDS * 8);
    }
    memcpy(to + 2, &place, sizeof(place));
    to[4] = (uint8_t)(index * 37);
    return 2 + CHANGE;
}
