/* Comparison with a local copy. See verify.h. */
#include "verify.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"

const uint8_t *verify_map(const char *root, const struct target *file)
{
    char path[PATH_MAX];
    struct stat stat;

    snprintf(path, sizeof(path), "%s/%s", root, file->path);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &stat))
        die("%s: %s", path, strerror(errno));
    if ((uint64_t)stat.st_size != file->attr.size)
        die("%s has %lld bytes, the share's %llu", path, (long long)stat.st_size, (unsigned long long)file->attr.size);
    const uint8_t *data = mmap(NULL, file->attr.size, PROT_READ, MAP_SHARED, fd, 0);
    if (data == MAP_FAILED)
        die("cannot map %s: %s", path, strerror(errno));
    close(fd);
    return data;
}

static uint64_t check_read(const struct share *share, const struct target *file, const uint8_t *local, uint64_t offset, uint32_t size, bool is_scattered)
{
    struct ring *ring = share->session->ring;
    struct slot *slot = ring_take(ring);
    uint64_t left = offset < file->attr.size ? file->attr.size - offset : 0, wanted = size < left ? size : left;
    bool is_right = true;

    memset(slot->data, 0xA5, RING_MAX_DATA);
    slot->is_scattered = is_scattered;
    int64_t got = session_read(share->session, file, offset, size, slot);
    for (uint64_t at = 0; got > 0 && at < wanted; at += RING_PAGE)
        is_right &= !memcmp(slot_page(slot, (uint32_t)(at / RING_PAGE)), local + offset + at, wanted - at < RING_PAGE ? wanted - at : RING_PAGE);
    /* what was not asked for, or lies behind the end of the file, stays as it was */
    if (!is_scattered)
        for (uint64_t at = wanted; at < RING_MAX_DATA; at++)
            is_right &= slot->data[at] == 0xA5;
    ring_give_back(ring, slot);
    if (got == (int64_t)wanted && is_right)
        return 0;
    fprintf(stderr, "READ of %u bytes at %llu: %lld, not %llu%s\n", size, (unsigned long long)offset, (long long)got,
            (unsigned long long)wanted, is_right ? "" : "; wrong data");
    return 1;
}

static bool is_same(const struct fuse_attr *attr, const struct stat *stat)
{
    return attr->mode == stat->st_mode && attr->nlink == stat->st_nlink && attr->uid == stat->st_uid && attr->gid == stat->st_gid &&
           attr->mtime == (uint64_t)stat->st_mtim.tv_sec && (S_ISDIR(stat->st_mode) || attr->size == (uint64_t)stat->st_size);
}

static uint64_t check_entry(const struct share *share, const char *root, const struct entry *entry)
{
    char path[PATH_MAX];
    struct stat stat;
    struct target found;

    snprintf(path, sizeof(path), "%s/%s/%s", root, share->directory.path, entry->name);
    if (lstat(path, &stat)) {
        fprintf(stderr, "%s is in the share only\n", path);
        return 1;
    }
    snprintf(path, sizeof(path), "%s/%s", share->directory.path, entry->name);
    session_open(share->session, path, S_ISDIR(stat.st_mode), &found);
    if (is_same(&entry->attr, &stat) && is_same(&found.attr, &stat) && found.nodeid == entry->nodeid)
        return 0;
    fprintf(stderr, "%s: other attributes or another node than locally, by READDIRPLUS or by LOOKUP\n", path);
    return 1;
}

static size_t count_local(const char *root, const char *directory)
{
    char path[PATH_MAX];
    size_t count = 0;

    snprintf(path, sizeof(path), "%s/%s", root, directory);
    DIR *stream = opendir(path);
    if (!stream)
        die("%s: %s", path, strerror(errno));
    while (readdir(stream))
        count++;
    closedir(stream);
    return count - 2; /* without . and .. */
}

uint64_t verify(const struct share *share, const char *root, const struct target *file, const uint8_t *local)
{
    uint64_t size = file->attr.size, reads = 0, bad = 0;
    static const uint32_t sizes[] = { 1, 511, 4095, 4096, 4097, 70001, 1 << 20 };

    for (uint64_t offset = 0; offset < size; offset += RING_MAX_DATA, reads++)
        bad += check_read(share, file, local, offset, RING_MAX_DATA, reads % 2);
    for (unsigned i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
        bad += check_read(share, file, local, size / 3 + 1, sizes[i], false); /* odd */
        bad += check_read(share, file, local, size - 1, sizes[i], false);     /* over the end */
        bad += check_read(share, file, local, size, sizes[i], false);         /* behind it */
        bad += check_read(share, file, local, size / 2 / RING_MAX_DATA * RING_MAX_DATA + RING_MAX_DATA - 3, sizes[i], false); /* over a chunk's */
        reads += 4;
    }
    size_t local_count = count_local(root, share->directory.path);
    if (local_count != share->listing.count) {
        fprintf(stderr, "%s has %zu entries, locally %zu\n", share->directory.path, share->listing.count, local_count);
        bad++;
    }
    for (size_t i = 0; i < share->listing.count; i++)
        bad += check_entry(share, root, &share->listing.entries[i]);
    printf("{\"verified_reads\": %llu, \"verified_entries\": %zu, \"bad\": %llu}\n", (unsigned long long)reads, share->listing.count,
           (unsigned long long)bad);
    fflush(stdout);
    return bad;
}
