/* Operations on extended attributes and what is kept in them. See posix.h. */
#include <linux/capability.h>
#include <linux/limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>

#include "posix.h"

/* setxattr NAME ATTRIBUTE VALUE [FLAGS]; VALUE "-" is empty, "#N" so many x */
static int64_t op_setxattr(struct run *run, char **w)
{
    size_t size = !strcmp(w[3], "-") ? 0 : *w[3] == '#' ? (size_t)number(w[3] + 1) : strlen(w[3]);
    char *value = malloc(size + 1);

    if (*w[3] == '#')
        memset(value, 'x', size);
    else
        memcpy(value, w[3], size);
    int64_t answer = result(lsetxattr(w[1], w[2], value, size, w[4] ? flags(w[4]) : 0));
    free(value);
    return answer;
}

static int64_t op_getxattr(struct run *run, char **w)
{
    static char value[XATTR_SIZE_MAX + 1];
    ssize_t size = lgetxattr(w[1], w[2], value, w[3] ? (size_t)number(w[3]) : sizeof(value) - 1);

    if (size < 0)
        return -errno;
    if (w[3] && !number(w[3]))
        return size;
    value[size] = 0;
    if (size > 100 || strlen(value) != (size_t)size)
        detail(run, "%zd bytes", size);
    else
        detail(run, "%s", size ? value : "empty");
    return size;
}

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

/* The names, sorted; what the host's own security module adds is left out. */
static int64_t op_listxattr(struct run *run, char **w)
{
    static char list[XATTR_LIST_MAX];
    char *found[64];
    unsigned count = 0;
    ssize_t size = llistxattr(w[1], list, sizeof(list));

    if (size < 0)
        return -errno;
    for (char *at = list; at < list + size && count < 64; at += strlen(at) + 1)
        if (strcmp(at, "security.selinux") != 0)
            found[count++] = at;
    qsort(found, count, sizeof(*found), by_name);
    detail(run, "[");
    for (unsigned i = 0; i < count; i++)
        detail(run, "%s%s", i ? "+" : "", strlen(found[i]) > 100 ? "long" : found[i]);
    detail(run, "]");
    return size;
}

static int64_t op_listxattrsize(struct run *run, char **w)
{
    char list[XATTR_LIST_MAX];
    ssize_t size = llistxattr(w[1], number(w[2]) ? list : NULL, (size_t)number(w[2]));

    return result(size);
}

static int64_t op_removexattr(struct run *run, char **w) { return result(lremovexattr(w[1], w[2])); }

/* A file capability: cap_net_raw, permitted and effective. */
static int64_t op_setcap(struct run *run, char **w)
{
    struct vfs_cap_data data = { .magic_etc = VFS_CAP_REVISION_2 | VFS_CAP_FLAGS_EFFECTIVE, .data[0].permitted = 1u << CAP_NET_RAW };

    return result(lsetxattr(w[1], "security.capability", &data, XATTR_CAPS_SZ_2, 0));
}

static int64_t op_getcap(struct run *run, char **w)
{
    struct vfs_cap_data data;
    ssize_t size = lgetxattr(w[1], "security.capability", &data, sizeof(data));

    if (size < 0)
        return -errno;
    detail(run, "%zd:%#x:%#x", size, data.magic_etc, data.data[0].permitted);
    return 0;
}

/* ---- access control lists, as Linux keeps them: a version, then an entry each (acl(5)) ---- */
#define ACL_VERSION 2u
struct acl_entry {
    uint16_t tag, permissions;
    uint32_t id;
};
struct acl {
    uint32_t version;
    struct acl_entry entries[32];
};
static const struct {
    const char *name;
    uint16_t plain, with_id;
} acl_tags[] = { { "u", 0x01, 0x02 }, { "g", 0x04, 0x08 }, { "m", 0x10, 0 }, { "o", 0x20, 0 } };

static const char *acl_name(const char *word) { return *word == 'd' ? "system.posix_acl_default" : "system.posix_acl_access"; }

static struct acl_entry parse_acl_entry(const char *text)
{
    char tag[8], id[16] = "", permissions[8];
    struct acl_entry entry = { .id = UINT32_MAX };

    if (sscanf(text, "%7[^:]::%7s", tag, permissions) != 2 && sscanf(text, "%7[^:]:%15[^:]:%7s", tag, id, permissions) != 3)
        die("%s is no ACL entry", text);
    for (unsigned i = 0; i < 4; i++)
        if (!strcmp(acl_tags[i].name, tag))
            entry.tag = *id ? acl_tags[i].with_id : acl_tags[i].plain;
    if (*id)
        entry.id = (uint32_t)number(id);
    for (const char *p = permissions; *p; p++)
        entry.permissions |= *p == 'r' ? 4 : *p == 'w' ? 2 : *p == 'x' ? 1 : 0;
    return entry;
}

/* setacl NAME access|default u::rwx,u:1000:r-x,g::r-x,m::rwx,o::r-- */
static int64_t op_setacl(struct run *run, char **w)
{
    struct acl acl = { .version = ACL_VERSION };
    unsigned count = 0;
    char *save;

    for (char *one = strtok_r(w[3], ",", &save); one && count < 32; one = strtok_r(NULL, ",", &save))
        acl.entries[count++] = parse_acl_entry(one);
    return result(lsetxattr(w[1], acl_name(w[2]), &acl, sizeof(acl.version) + count * sizeof(*acl.entries), 0));
}

static int64_t op_getacl(struct run *run, char **w)
{
    struct acl acl;
    ssize_t size = lgetxattr(w[1], acl_name(w[2]), &acl, sizeof(acl));

    if (size < 0)
        return -errno;
    for (unsigned i = 0; i < ((size_t)size - sizeof(acl.version)) / sizeof(*acl.entries); i++) {
        const struct acl_entry *entry = &acl.entries[i];
        const char *tag = "?";
        for (unsigned t = 0; t < 4; t++)
            if (entry->tag && (entry->tag == acl_tags[t].plain || entry->tag == acl_tags[t].with_id))
                tag = acl_tags[t].name;
        detail(run, "%s%s:", i ? "+" : "", tag);
        if (entry->tag == 0x02 || entry->tag == 0x08)
            detail(run, "%u", entry->id);
        detail(run, ":%c%c%c", entry->permissions & 4 ? 'r' : '-', entry->permissions & 2 ? 'w' : '-', entry->permissions & 1 ? 'x' : '-');
    }
    return 0;
}

static int64_t op_removeacl(struct run *run, char **w) { return result(lremovexattr(w[1], acl_name(w[2]))); }

const struct op xattr_ops[] = {
    { "setxattr", 3, 4, op_setxattr },       { "getxattr", 2, 3, op_getxattr },   { "listxattr", 1, 1, op_listxattr },
    { "listxattrsize", 2, 2, op_listxattrsize }, { "removexattr", 2, 2, op_removexattr }, { "setcap", 1, 1, op_setcap },
    { "getcap", 1, 1, op_getcap },           { "setacl", 3, 3, op_setacl },       { "getacl", 2, 2, op_getacl },
    { "removeacl", 2, 2, op_removeacl },     { 0 },
};
