/* Inline extended attributes (specification 2.11). Shared ones do not exist in RAFS. */
#include <errno.h>

#include "rafs6.h"

static const char *const prefixes[] = {
    [EROFS_XATTR_USER] = "user.",
    [EROFS_XATTR_POSIX_ACL_ACCESS] = "system.posix_acl_access",
    [EROFS_XATTR_POSIX_ACL_DEFAULT] = "system.posix_acl_default",
    [EROFS_XATTR_TRUSTED] = "trusted.",
    [EROFS_XATTR_SECURITY] = "security.",
};

int rafs6_xattr_entry(const struct rafs_image *image, const struct rafs_inode *inode, uint32_t offset,
                      struct rafs_xattr *xattr, uint32_t *next)
{
    const uint32_t first = sizeof(struct erofs_xattr_ibody_header);
    const struct erofs_xattr_entry *entry;
    uint32_t at = offset ? offset : first, size;

    if (inode->xattr_size < at + sizeof(*entry))
        return 0;
    entry = rafs_at(image, inode->xattr_offset + at, sizeof(*entry)); /* inside: xattr_size was checked */
    size = (uint32_t)sizeof(*entry) + entry->name_len + entry->value_size;
    if (size > inode->xattr_size - at)
        return -EUCLEAN;
    if (entry->name_index >= sizeof(prefixes) / sizeof(*prefixes) || !prefixes[entry->name_index])
        return -EOPNOTSUPP;
    xattr->prefix = prefixes[entry->name_index];
    xattr->suffix = (const char *)(entry + 1);
    xattr->suffix_length = entry->name_len;
    xattr->value = (const uint8_t *)(entry + 1) + entry->name_len;
    xattr->value_size = entry->value_size;
    *next = at + ((size + 3) & ~3u);
    return 1;
}
