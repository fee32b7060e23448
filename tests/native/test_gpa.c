/* Guest memory: which regions are let in, and what an address turns into. */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"
#include "gpa.h"

#define PAGE 4096ull

static struct gpa_table table;
static int fd; /* 16 pages */

static int add(uint64_t gpa, uint64_t size, uint64_t user_addr) { return gpa_add_region(&table, gpa, size, user_addr, 0, fd); }

static void test_regions_that_are_refused(void)
{
    CHECK_EQ(add(PAGE, 0, 0), -EINVAL);
    CHECK_EQ(add(UINT64_MAX - PAGE + 1, PAGE, 0), -EINVAL); /* ends at 2^64 */
    CHECK_EQ(add(UINT64_MAX - PAGE + 2, PAGE, 0), -EINVAL);
    CHECK_EQ(add(0, PAGE, UINT64_MAX - PAGE + 1), -EINVAL);
    CHECK_EQ(add(0, UINT64_MAX, 0), -EINVAL);
    CHECK_EQ(add(0, 17 * PAGE, 0), -EINVAL); /* longer than its file */
    CHECK_EQ(gpa_add_region(&table, 0, PAGE, 0, 16 * PAGE, fd), -EINVAL);
    CHECK_EQ(gpa_add_region(&table, 0, PAGE, 0, UINT64_MAX - 1, fd), -EINVAL);
    CHECK_EQ(gpa_add_region(&table, 0, PAGE, 0, 0, -1), -EBADF);
    CHECK_EQ(table.count, 0);
}

static void test_the_last_bytes_of_the_address_space(void)
{
    uint64_t available;
    unsigned hint = 0;

    CHECK_EQ(add(UINT64_MAX - PAGE, PAGE, UINT64_MAX - PAGE), 0);
    CHECK(gpa_to_hva(&table, UINT64_MAX - 1, &available, &hint) == table.regions[0].hva + PAGE - 1);
    CHECK_EQ(available, 1);
    CHECK(!gpa_to_hva(&table, UINT64_MAX, &available, &hint));
    CHECK(!gpa_to_hva(&table, 0, &available, &hint));
    CHECK(!gpa_user_to_hva(&table, UINT64_MAX - PAGE, PAGE + 1));
    CHECK(gpa_user_to_hva(&table, UINT64_MAX - PAGE, PAGE));
    gpa_clear(&table);
}

static void test_overlap_and_neighbours(void)
{
    CHECK_EQ(add(8 * PAGE, 4 * PAGE, 108 * PAGE), 0);
    for (uint64_t first = 5; first <= 14; first++) {
        int inside = first > 5 && first < 12; /* three pages from `first` */
        CHECK_EQ(add(first * PAGE, 3 * PAGE, 200 * PAGE), inside ? -EINVAL : 0);
        if (!inside)
            CHECK_EQ(gpa_remove_region(&table, first * PAGE, 3 * PAGE, 200 * PAGE), 0);
        CHECK_EQ(add(50 * PAGE, 3 * PAGE, (100 + first) * PAGE), inside ? -EINVAL : 0);
        if (!inside)
            CHECK_EQ(gpa_remove_region(&table, 50 * PAGE, 3 * PAGE, (100 + first) * PAGE), 0);
    }
    CHECK_EQ(add(0, 16 * PAGE, 0), -EINVAL); /* all around it */
    CHECK_EQ(table.count, 1);
    gpa_clear(&table);
}

static void test_sorted_whatever_the_order(void)
{
    static const unsigned order[] = { 3, 0, 4, 1, 2 };
    uint64_t available;
    unsigned hint = 0;

    for (unsigned i = 0; i < 5; i++)
        CHECK_EQ(add(order[i] * 2 * PAGE, PAGE, order[i] * 3 * PAGE), 0);
    for (unsigned i = 0; i < 5; i++) {
        uint64_t gpa = i * 2 * PAGE;
        CHECK_EQ(table.regions[i].gpa, gpa);
        CHECK(gpa_to_hva(&table, gpa, &available, &hint) == table.regions[i].hva);
        CHECK_EQ(available, PAGE);
        CHECK_EQ(hint, i);
        CHECK(gpa_to_hva(&table, gpa + PAGE - 1, &available, &hint) == table.regions[i].hva + PAGE - 1);
        CHECK_EQ(available, 1);
        CHECK(!gpa_to_hva(&table, gpa + PAGE, &available, &hint)); /* the hole after it */
        CHECK(gpa_user_to_hva(&table, i * 3 * PAGE + 1, PAGE - 1) == table.regions[i].hva + 1);
        CHECK(!gpa_user_to_hva(&table, i * 3 * PAGE + 1, PAGE));
        CHECK(!gpa_user_to_hva(&table, i * 3 * PAGE + PAGE, 1));
    }
    gpa_clear(&table);
}

static void test_a_stale_hint_does_no_harm(void)
{
    uint64_t available;

    for (unsigned i = 0; i < 4; i++)
        CHECK_EQ(add(i * PAGE, PAGE, i * PAGE), 0);
    CHECK_EQ(gpa_remove_region(&table, PAGE, PAGE, PAGE), 0);
    for (unsigned stale = 0; stale < 5; stale++) {
        for (uint64_t gpa = 0; gpa < 5 * PAGE; gpa += PAGE / 2) {
            unsigned hint = stale;
            uint8_t *hva = gpa_to_hva(&table, gpa, &available, &hint);
            CHECK_EQ(hva != NULL, gpa / PAGE != 1 && gpa < 4 * PAGE);
            if (hva)
                CHECK_EQ(available, PAGE - gpa % PAGE);
        }
    }
    gpa_clear(&table);
    for (unsigned hint = 0; hint < 2; hint++) {
        unsigned at = hint;
        CHECK(!gpa_to_hva(&table, 0, &available, &at));
    }
}

static void test_remove_wants_all_three_values(void)
{
    CHECK_EQ(add(PAGE, PAGE, 2 * PAGE), 0);
    CHECK_EQ(gpa_remove_region(&table, 0, PAGE, 2 * PAGE), -ENOENT);
    CHECK_EQ(gpa_remove_region(&table, PAGE, 2 * PAGE, 2 * PAGE), -ENOENT);
    CHECK_EQ(gpa_remove_region(&table, PAGE, PAGE, PAGE), -ENOENT);
    CHECK_EQ(gpa_remove_region(&table, PAGE, PAGE, 2 * PAGE), 0);
    CHECK_EQ(gpa_remove_region(&table, PAGE, PAGE, 2 * PAGE), -ENOENT);
    CHECK_EQ(table.count, 0);
}

static void test_as_many_as_there_are_slots(void)
{
    for (unsigned i = 0; i < GPA_MAX_REGIONS; i++)
        CHECK_EQ(add(i * 2 * PAGE, PAGE, i * 2 * PAGE), 0);
    CHECK_EQ(add(GPA_MAX_REGIONS * 2 * PAGE, PAGE, GPA_MAX_REGIONS * 2 * PAGE), -ENOSPC);
    CHECK_EQ(gpa_remove_region(&table, 2 * PAGE, PAGE, 2 * PAGE), 0);
    CHECK_EQ(add(GPA_MAX_REGIONS * 2 * PAGE, PAGE, GPA_MAX_REGIONS * 2 * PAGE), 0);
    gpa_clear(&table);
}

static void test_the_offset_in_the_file(void)
{
    uint64_t available;
    unsigned hint = 0;
    char text[6] = { 0 };

    CHECK_EQ(pwrite(fd, "first", 5, 3 * PAGE + 7), 5);
    CHECK_EQ(gpa_add_region(&table, PAGE, PAGE, PAGE, 3 * PAGE + 7, fd), 0); /* no multiple of a page */
    memcpy(text, gpa_to_hva(&table, PAGE, &available, &hint), 5);
    CHECK(!strcmp(text, "first"));
    CHECK_EQ(available, PAGE);
    gpa_clear(&table);
}

int main(void)
{
    fd = memfd_create("guest", MFD_CLOEXEC);
    CHECK(fd >= 0 && ftruncate(fd, 16 * PAGE) == 0);
    RUN(test_regions_that_are_refused);
    RUN(test_the_last_bytes_of_the_address_space);
    RUN(test_overlap_and_neighbours);
    RUN(test_sorted_whatever_the_order);
    RUN(test_a_stale_hint_does_no_harm);
    RUN(test_remove_wants_all_three_values);
    RUN(test_as_many_as_there_are_slots);
    RUN(test_the_offset_in_the_file);
    close(fd);
    return 0;
}
