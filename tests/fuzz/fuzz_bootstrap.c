/*
 * Invariant: any bytes are refused with a reason or can be read, every inode of them, within the image
 * and in bounded time.
 *
 * The input is a list of changes to a good image (offset, value), after how much of it is there.
 */
#include "fuzz.h"
#include "reader_walk.h"
#include "small_image.h"

enum { CHANGE = 3, WALK_LIMIT = 300 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t good[SMALL_SIZE], bytes[SMALL_SIZE];
    struct fuzz_input input = { data, size };
    struct rafs_image image;
    char why[256] = "";

    if (!good[EROFS_SUPER_OFFSET])
        small_image_fill(good);
    memcpy(bytes, good, sizeof(bytes));
    size_t present = SMALL_SIZE - fuzz_take(&input, 2) % SMALL_SIZE;
    while (input.left >= CHANGE) {
        size_t at = fuzz_take(&input, 2) % SMALL_SIZE;
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

/* Each field of what is looked at first, set to something else. */
size_t fuzz_seed(unsigned index, uint8_t *to)
{
    static const uint16_t places[] = {
        EROFS_SUPER_OFFSET, EROFS_SUPER_OFFSET + 12, EROFS_SUPER_OFFSET + 14, EROFS_SUPER_OFFSET + 40, EROFS_SUPER_OFFSET + 86,
        RAFS_V6_SUPER_OFFSET, RAFS_V6_SUPER_OFFSET + 8, RAFS_V6_SUPER_OFFSET + 20, RAFS_V6_SUPER_OFFSET + 24, SMALL_BLOCK + 64,
        2 * SMALL_BLOCK + SMALL_ROOT * 32, 2 * SMALL_BLOCK + SMALL_ROOT * 32 + 8, 2 * SMALL_BLOCK + SMALL_ROOT * 32 + 64,
        2 * SMALL_BLOCK + SMALL_ROOT * 32 + 72, 2 * SMALL_BLOCK + SMALL_CROWD * 32 + 8, 2 * SMALL_BLOCK + SMALL_CROWD * 32 + 16,
        5 * SMALL_BLOCK + 8, 2 * SMALL_BLOCK + SMALL_FILE * 32, 2 * SMALL_BLOCK + SMALL_FILE * 32 + 2, 2 * SMALL_BLOCK + SMALL_FILE * 32 + 8,
        2 * SMALL_BLOCK + SMALL_FILE * 32 + 16, 2 * SMALL_BLOCK + SMALL_FILE * 32 + 76, 2 * SMALL_BLOCK + SMALL_LINK * 32 + 8,
    };
    uint16_t place;

    if (index > sizeof(places) / sizeof(*places))
        return 0;
    memset(to, 0, 2 + CHANGE);
    if (index == 0)
        return 2;
    place = places[index - 1];
    memcpy(to + 2, &place, sizeof(place));
    to[4] = (uint8_t)(index * 37);
    return 2 + CHANGE;
}
