/* The region table: validation, mapping, look-up. See gpa.h. */
#include "gpa.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#define HUGETLBFS_MAGIC_NUMBER 0x958458f6

static bool overlaps(uint64_t a, uint64_t b, uint64_t a_size, uint64_t b_size)
{
    return a < b + b_size && b < a + a_size; /* neither end wraps: checked before */
}

static int check_region(const struct gpa_table *table, uint64_t gpa, uint64_t size, uint64_t user_addr)
{
    uint64_t end;

    if (size == 0 || __builtin_add_overflow(gpa, size, &end) || __builtin_add_overflow(user_addr, size, &end))
        return -EINVAL;
    for (unsigned i = 0; i < table->count; i++) {
        const struct gpa_region *r = &table->regions[i];
        if (overlaps(gpa, r->gpa, size, r->size) || overlaps(user_addr, r->user_addr, size, r->size))
            return -EINVAL;
    }
    return table->count == GPA_MAX_REGIONS ? -ENOSPC : 0;
}

/* mmap from file offset 0 even when the region starts later: hugetlbfs accepts only offsets that
 * are multiples of its page, and front-ends pass others. */
static int map_region(struct gpa_region *region, uint64_t mmap_offset, int fd)
{
    uint64_t length;
    struct stat st;
    struct statfs fs;

    if (__builtin_add_overflow(region->size, mmap_offset, &length) || length > SIZE_MAX / 2)
        return -EINVAL;
    if (fstat(fd, &st) < 0)
        return -errno;
    /* A region past the end of its file would fault in a queue thread at first use. */
    if (S_ISREG(st.st_mode) && (uint64_t)st.st_size < length)
        return -EINVAL;
    if (fstatfs(fd, &fs) == 0 && fs.f_type == HUGETLBFS_MAGIC_NUMBER)
        length = (length + (uint64_t)fs.f_bsize - 1) / (uint64_t)fs.f_bsize * (uint64_t)fs.f_bsize;
    region->map_length = length;
    region->map_base = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    if (region->map_base == MAP_FAILED)
        return -errno;
    madvise(region->map_base, length, MADV_DONTDUMP); /* a core file has no use for the guest's memory */
    region->hva = (uint8_t *)region->map_base + mmap_offset;
    return 0;
}

int gpa_add_region(struct gpa_table *table, uint64_t gpa, uint64_t size, uint64_t user_addr,
                   uint64_t mmap_offset, int fd)
{
    struct gpa_region region = { .gpa = gpa, .size = size, .user_addr = user_addr };
    unsigned at = 0;
    int err = check_region(table, gpa, size, user_addr);

    if (!err)
        err = map_region(&region, mmap_offset, fd);
    if (err)
        return err;
    while (at < table->count && table->regions[at].gpa < gpa)
        at++;
    memmove(&table->regions[at + 1], &table->regions[at], (table->count - at) * sizeof(region));
    table->regions[at] = region;
    table->count++;
    return 0;
}

int gpa_remove_region(struct gpa_table *table, uint64_t gpa, uint64_t size, uint64_t user_addr)
{
    for (unsigned i = 0; i < table->count; i++) {
        struct gpa_region *r = &table->regions[i];
        if (r->gpa != gpa || r->size != size || r->user_addr != user_addr)
            continue;
        munmap(r->map_base, r->map_length);
        table->count--;
        memmove(r, r + 1, (table->count - i) * sizeof(*r));
        return 0;
    }
    return -ENOENT;
}

void gpa_clear(struct gpa_table *table)
{
    for (unsigned i = 0; i < table->count; i++)
        munmap(table->regions[i].map_base, table->regions[i].map_length);
    table->count = 0;
}

uint8_t *gpa_to_hva(const struct gpa_table *table, uint64_t gpa, uint64_t *available, unsigned *hint)
{
    unsigned low = 0, high = table->count;

    if (*hint < high && gpa - table->regions[*hint].gpa < table->regions[*hint].size) {
        low = *hint;
    } else {
        while (low < high) { /* first region that starts after gpa */
            unsigned mid = low + (high - low) / 2;
            if (table->regions[mid].gpa <= gpa)
                low = mid + 1;
            else
                high = mid;
        }
        if (low == 0 || gpa - table->regions[low - 1].gpa >= table->regions[low - 1].size)
            return NULL;
        low--;
        *hint = low;
    }
    const struct gpa_region *r = &table->regions[low];
    *available = r->size - (gpa - r->gpa);
    return r->hva + (gpa - r->gpa);
}

void *gpa_user_to_hva(const struct gpa_table *table, uint64_t user_addr, uint64_t length)
{
    for (unsigned i = 0; i < table->count; i++) {
        const struct gpa_region *r = &table->regions[i];
        uint64_t offset = user_addr - r->user_addr;
        if (offset < r->size && length <= r->size - offset)
            return r->hva + offset;
    }
    return NULL;
}
