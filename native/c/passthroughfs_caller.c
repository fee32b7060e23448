/*
 * Credentials of one thread, by raw system calls: the C library's would change all threads.
 *
 * setfsuid drops from the effective set, and setfsuid(0) raises again, the capabilities that
 * concern files (capabilities(7)); all others stay, and so does the permitted set.
 */
#include "passthroughfs_caller.h"

#include <errno.h>
#include <linux/capability.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "passthroughfs_host.h"

/* ---- extensions ---- */

static uint32_t padded(uint64_t size) { return (uint32_t)((size + 7) & ~7ull); }

/* One list of security contexts: only the first is of use, drivers send one. */
static int parse_labels(const uint8_t *at, uint32_t size, uint32_t count, struct caller_extensions *extensions)
{
    struct fuse_secctx context;
    const char *name = (const char *)at + sizeof(context);
    size_t room, length;

    if (count == 0)
        return 0;
    if (size < sizeof(context))
        return -EINVAL;
    memcpy(&context, at, sizeof(context));
    if (context.size == 0) /* the driver's module has no label to give */
        return 0;
    room = size - sizeof(context);
    length = strnlen(name, room);
    if (length == 0 || length == room || context.size > room - length - 1)
        return -EINVAL;
    extensions->label_name = name;
    extensions->label = (const uint8_t *)name + length + 1;
    extensions->label_size = context.size;
    return 0;
}

static int parse_groups(const uint8_t *at, uint32_t size, struct caller_extensions *extensions)
{
    uint32_t fields[2]; /* struct fuse_supp_groups: the number of groups, and the first */

    if (size < sizeof(fields[0]))
        return -EINVAL;
    memcpy(fields, at, size < sizeof(fields) ? sizeof(fields[0]) : sizeof(fields));
    if (fields[0] == 0)
        return 0;
    if (fields[0] > 1 || size < sizeof(fields)) /* a driver tells one at most: the directory's */
        return -EINVAL;
    extensions->has_group = true;
    extensions->group = fields[1];
    return 0;
}

int caller_parse_extensions(const struct fuse_server *server, const struct fuse_request *request, uint32_t at,
                            struct caller_extensions *extensions)
{
    uint64_t end = request->in.len - sizeof(request->in);

    *extensions = (struct caller_extensions){ 0 };
    if (!(server->flags & (FUSE_SECURITY_CTX | FUSE_CREATE_SUPP_GROUP)))
        return 0;
    if (end > request->args_size)
        return -EINVAL; /* more than any driver sends */
    while (end - at >= sizeof(struct fuse_ext_header)) {
        struct fuse_ext_header header;
        uint32_t size;
        int err = 0;
        memcpy(&header, request->args + at, sizeof(header));
        if (header.size < sizeof(header) || header.size > end - at)
            return -EINVAL;
        size = header.size - (uint32_t)sizeof(header);
        if (header.type <= FUSE_MAX_NR_SECCTX)
            err = parse_labels(request->args + at + sizeof(header), size, header.type, extensions);
        else if (header.type == FUSE_EXT_TYPE_GROUPS)
            err = parse_groups(request->args + at + sizeof(header), size, extensions);
        if (err)
            return err;
        at = padded(header.size) < end - at ? at + padded(header.size) : (uint32_t)end;
    }
    return 0;
}

/* ---- credentials ---- */

static int change_effective(uint32_t raise, uint32_t drop)
{
    struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
    struct __user_cap_data_struct sets[2];

    if (syscall(SYS_capget, &header, sets) < 0)
        return -errno;
    sets[0].effective = (sets[0].effective | (raise & sets[0].permitted)) & ~drop;
    return syscall(SYS_capset, &header, sets) < 0 ? -errno : 0;
}

static bool is_us(const struct fuse_request *request)
{
    return request->in.uid == geteuid() && request->in.gid == getegid();
}

/* Both return the previous id, whether they worked or not: ask again. */
static int set_ids(uid_t uid, gid_t gid)
{
    syscall(SYS_setfsgid, gid);
    syscall(SYS_setfsuid, uid);
    if ((gid_t)syscall(SYS_setfsgid, (gid_t)-1) != gid || (uid_t)syscall(SYS_setfsuid, (uid_t)-1) != uid)
        return -EPERM; /* an id that our user namespace does not have */
    return 0;
}

int caller_begin(const struct fuse_server *server, const struct fuse_request *request,
                 const struct caller_extensions *extensions, uint32_t umask)
{
    int err = host_set_umask(server->flags & FUSE_DONT_MASK ? umask : 0);
    bool has_group = extensions && extensions->has_group;

    if (err || is_us(request))
        return err;
    /* Our own supplementary groups are not the caller's. */
    if (syscall(SYS_setgroups, has_group, has_group ? &extensions->group : NULL) < 0)
        return -errno;
    err = set_ids(request->in.uid, request->in.gid);
    if (!err && extensions)
        err = change_effective(1u << CAP_DAC_OVERRIDE, 0);
    if (err)
        caller_end(request);
    return err;
}

/* Only for want of memory can this fail; the thread must not serve the next request as another user. */
static void be_us_again(void)
{
    if (set_ids(geteuid(), getegid()))
        abort();
}

void caller_end(const struct fuse_request *request)
{
    if (is_us(request))
        return;
    be_us_again();
    if (syscall(SYS_setgroups, 0, NULL) < 0)
        abort();
}

int caller_drop_fsetid(int64_t gid)
{
    int err = change_effective(0, 1u << CAP_FSETID);

    if (err || gid == -1)
        return err;
    err = syscall(SYS_setgroups, 0, NULL) < 0 ? -errno : set_ids(geteuid(), (gid_t)gid);
    if (err)
        caller_restore_fsetid(gid);
    return err;
}

void caller_restore_fsetid(int64_t gid)
{
    if (gid != -1)
        be_us_again();
    if (change_effective(1u << CAP_FSETID, 0))
        abort();
}
