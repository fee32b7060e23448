/*
 * v5: the children of a directory have consecutive indexes, in the order of their names; "." and ".." are
 * not stored (specification 4.5).
 *
 * A cookie is 0 for ".", 1 for "..", then the child's position plus 2.
 */
#include <string.h>
#include <sys/stat.h>

#include "rafs5.h"

enum { DOTS = 2 };

static uint64_t parent_of(const struct rafs_image *image, const struct rafs_inode *dir)
{
    struct rafs5_record record;

    return dir->nid == RAFS_V5_ROOT_INO || rafs5_record(image, dir->nid, &record) ? dir->nid : record.inode->parent;
}

static uint8_t file_type(uint32_t mode)
{
    switch (mode & S_IFMT) {
    case S_IFREG: return 1;
    case S_IFDIR: return 2;
    case S_IFCHR: return 3;
    case S_IFBLK: return 4;
    case S_IFIFO: return 5;
    case S_IFSOCK: return 6;
    case S_IFLNK: return 7;
    default: return 0;
    }
}

static int read_child(const struct rafs_image *image, const struct rafs_inode *dir, uint64_t position, struct rafs_dirent *entry)
{
    uint64_t index = dir->u + position;
    struct rafs5_record record;
    int err = rafs5_record(image, index, &record);

    if (err)
        return err;
    entry->nid = record.inode->ino;
    entry->name = record.name;
    entry->name_length = record.inode->name_size;
    entry->file_type = file_type(record.inode->mode);
    /* A directory has one name and one parent, so the tree is one. */
    if (S_ISDIR(record.inode->mode) && (entry->nid != index || record.inode->parent != dir->nid))
        return -EUCLEAN;
    if (entry->name_length == 0 || entry->name_length > RAFS_MAX_NAME || memchr(entry->name, '/', entry->name_length) ||
        memchr(entry->name, 0, entry->name_length))
        return -EUCLEAN;
    return 0;
}

static int compare(const char *name, size_t length, const struct rafs_dirent *entry)
{
    size_t shared = length < entry->name_length ? length : entry->name_length;
    int order = memcmp(name, entry->name, shared);

    return order ? order : (length > entry->name_length) - (length < entry->name_length);
}

/* A second name's record may say what it wants: what it leads to must be of the same type. */
static int follow(const struct rafs_image *image, const struct rafs_dirent *entry, uint64_t *nid)
{
    struct rafs5_record first;
    int err = rafs5_record(image, entry->nid, &first);

    if (err)
        return err;
    if (file_type(first.inode->mode) != entry->file_type)
        return -EUCLEAN;
    *nid = entry->nid;
    return 0;
}

int rafs5_lookup(const struct rafs_image *image, const struct rafs_inode *dir, const char *name, size_t length,
                 uint64_t *nid)
{
    uint64_t low = 0, high = dir->count;

    if (length == 1 && name[0] == '.') {
        *nid = dir->nid;
        return 0;
    }
    if (length == 2 && name[0] == '.' && name[1] == '.') {
        *nid = parent_of(image, dir);
        return 0;
    }
    while (low < high) {
        uint64_t mid = low + (high - low) / 2;
        struct rafs_dirent entry;
        int err = read_child(image, dir, mid, &entry), order;
        if (err)
            return err;
        order = compare(name, length, &entry);
        if (order == 0)
            return follow(image, &entry, nid);
        if (order < 0)
            high = mid;
        else
            low = mid + 1;
    }
    return -ENOENT;
}

int rafs5_dir_entry(const struct rafs_image *image, const struct rafs_inode *dir, uint64_t cookie,
                    struct rafs_dirent *entry, uint64_t *next)
{
    int err;

    if (cookie >= DOTS + (uint64_t)dir->count)
        return 0;
    *next = cookie + 1;
    if (cookie < DOTS) {
        *entry = (struct rafs_dirent){ .nid = cookie ? parent_of(image, dir) : dir->nid, .name = "..", .name_length = (uint16_t)(cookie + 1), .file_type = 2 };
        return 1;
    }
    err = read_child(image, dir, cookie - DOTS, entry);
    if (!err)
        err = follow(image, entry, &entry->nid);
    return err ? err : 1;
}
