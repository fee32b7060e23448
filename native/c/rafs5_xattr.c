/* v5: extended attributes, each a length, the whole name, a NUL and the value (specification 4.5). */
#include <string.h>

#include "rafs5.h"

static bool is_known(const char *name, size_t length)
{
    static const char *const prefixes[] = { "user.", "trusted.", "security." };
    static const char *const names[] = { "system.posix_acl_access", "system.posix_acl_default" };

    for (unsigned i = 0; i < sizeof(prefixes) / sizeof(*prefixes); i++) {
        if (length >= strlen(prefixes[i]) && !memcmp(name, prefixes[i], strlen(prefixes[i])))
            return true;
    }
    for (unsigned i = 0; i < sizeof(names) / sizeof(*names); i++) {
        if (length == strlen(names[i]) && !memcmp(name, names[i], length))
            return true;
    }
    return false;
}

int rafs5_xattr_entry(const struct rafs_image *image, const struct rafs_inode *inode, uint32_t offset,
                      struct rafs_xattr *xattr, uint32_t *next)
{
    uint32_t size;
    const char *pair;
    size_t name;

    if (offset >= inode->xattr_size || inode->xattr_size - offset < sizeof(size))
        return 0;
    pair = rafs_at(image, inode->xattr_offset + offset, inode->xattr_size - offset); /* inside: xattr_size was checked */
    memcpy(&size, pair, sizeof(size));
    pair += sizeof(size);
    if (size > inode->xattr_size - offset - sizeof(size))
        return -EUCLEAN;
    name = strnlen(pair, size);
    if (name == 0 || name == size || name > RAFS_MAX_NAME)
        return -EUCLEAN;
    if (!is_known(pair, name))
        return -EOPNOTSUPP;
    xattr->prefix = "";
    xattr->suffix = pair;
    xattr->suffix_length = (uint8_t)name;
    xattr->value = (const uint8_t *)pair + name + 1;
    xattr->value_size = size - (uint32_t)name - 1;
    *next = offset + (uint32_t)sizeof(size) + size;
    return 1;
}
