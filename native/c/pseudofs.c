/* The pseudo directories. See pseudofs.h. */
#include "pseudofs.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "rafs_format.h"

/* How long a driver may keep a mounted root under its name. After an umount the old one answers
 * ESTALE, at which the guest's kernel looks the path up again, so this only bounds a stale listing. */
#define MOUNT_VALID_S 1

struct pseudofs {
    struct fuse_fs fs;
    struct fuse_server *server;
    time_t born;
    uint32_t count;
    struct pseudo_node nodes[];
};

static struct pseudofs *pseudofs_of(const struct fuse_request *request) { return (struct pseudofs *)request->fs; }

static const struct pseudo_node *node_of(const struct fuse_request *request)
{
    const struct pseudofs *pseudo = pseudofs_of(request);

    return request->id >= 1 && request->id < pseudo->count ? &pseudo->nodes[request->id] : NULL;
}

static void fill_attr(const struct pseudofs *pseudo, uint64_t id, struct fuse_attr *attr)
{
    *attr = (struct fuse_attr){
        .ino = id,
        .mode = S_IFDIR | 0755,
        .nlink = 2,
        .atime = (uint64_t)pseudo->born,
        .mtime = (uint64_t)pseudo->born,
        .ctime = (uint64_t)pseudo->born,
        .blksize = RAFS_BLOCK_SIZE,
    };
    for (uint32_t child = pseudo->nodes[id].first_child; child; child = pseudo->nodes[child].next_sibling)
        attr->nlink++;
}

/* The entry of node `id`: the root of what is mounted there, or the directory itself. A directory
 * that has children stays one; without, it may become a mount. */
static int describe(struct fuse_request *request, uint64_t id, struct fuse_entry_out *entry)
{
    struct pseudofs *pseudo = pseudofs_of(request);
    const struct pseudo_node *node = &pseudo->nodes[id];
    struct fuse_context *context = request->context;
    struct fuse_fs *mounted;
    int err = -ESTALE;

    if (!node->mount) {
        *entry = (struct fuse_entry_out){ .nodeid = id, .entry_valid = node->first_child ? FUSE_FOREVER : 0 };
        fill_attr(pseudo, id, &entry->attr);
        return 0;
    }
    /* The context announces one file system at a time: from here on not us, and `pseudo` is not
     * touched any more. */
    mounted = fuse_enter(pseudo->server, context, (uint64_t)node->mount << FUSE_ID_BITS);
    if (mounted) {
        err = mounted->type->describe_root(mounted, request->may_block, entry);
        entry->entry_valid = MOUNT_VALID_S;
        entry->entry_valid_nsec = 0;
    }
    return err;
}

static int64_t lookup(struct fuse_server *server, struct fuse_request *request)
{
    const struct pseudofs *pseudo = pseudofs_of(request);
    const struct pseudo_node *node = node_of(request);
    const char *name = (const char *)request->args;
    struct fuse_entry_out entry;
    uint32_t child;
    int err;

    if (strnlen(name, request->args_size) == request->args_size)
        return -EINVAL;
    if (!node)
        return -ESTALE;
    if (!strcmp(name, ".")) {
        child = (uint32_t)request->id;
    } else if (!strcmp(name, "..")) {
        child = node->parent;
    } else {
        child = node->first_child;
        while (child && strcmp(pseudo->nodes[child].name, name))
            child = pseudo->nodes[child].next_sibling;
    }
    if (!child) /* an error, not node id 0: the driver must not remember that there was none */
        return -ENOENT;
    err = describe(request, child, &entry);
    if (err == -EAGAIN && !request->may_block)
        return fuse_to_pool(request, FUSE_WAIT_REMOTE);
    return err ? err : fuse_reply(request, &entry, sizeof(entry));
}

static int64_t getattr(struct fuse_server *server, struct fuse_request *request)
{
    struct fuse_attr_out out = { .attr_valid = server->is_on_host ? FUSE_FOREVER : 0 };

    if (!node_of(request))
        return -ESTALE;
    fill_attr(pseudofs_of(request), request->id, &out.attr);
    return fuse_reply(request, &out, sizeof(out));
}

static int64_t statx_(struct fuse_server *server, struct fuse_request *request)
{
    struct fuse_attr attr;

    if (!node_of(request))
        return -ESTALE;
    fill_attr(pseudofs_of(request), request->id, &attr);
    return fuse_reply_statx(request, &attr, 0);
}

static int64_t opendir_(struct fuse_server *server, struct fuse_request *request)
{
    struct fuse_open_out out = { 0 };

    return node_of(request) ? fuse_reply(request, &out, sizeof(out)) : -ESTALE;
}

/* An entry's place in a listing is its node number, so that it stays the same when others come between
 * two requests: siblings are in the order of their numbers, and all are greater than these two. */
enum { SELF = 0, PARENT = 1 };

static int64_t list(struct fuse_request *request, bool plus)
{
    const struct fuse_read_in *in = (const struct fuse_read_in *)request->args;
    const struct pseudofs *pseudo = pseudofs_of(request);
    const struct pseudo_node *node = node_of(request);
    const struct fuse_entry_out unknown = { 0 }; /* node id 0: to be looked up when it is wanted */
    uint64_t room = fuse_reply_room(request, in->size), done = 0;
    uint8_t packed[FUSE_DIRENT_MAX];
    uint32_t number = SELF;

    if (!node)
        return -ESTALE;
    do {
        const char *name = number == SELF ? "." : number == PARENT ? ".." : pseudo->nodes[number].name;
        uint64_t ino = number == SELF ? request->id : number == PARENT ? node->parent : number;
        if (number >= in->offset) {
            size_t size = fuse_pack_dirent(packed, plus ? &unknown : NULL, ino, number + 1, S_IFDIR >> 12, name, strlen(name));
            if (size > room - done)
                break;
            fuse_iov_write(request->writable, request->writable_count, sizeof(struct fuse_out_header) + done, packed, size);
            done += size;
        }
        number = number == SELF ? PARENT : number == PARENT ? node->first_child : pseudo->nodes[number].next_sibling;
    } while (number);
    return (int64_t)done;
}

static int64_t readdir_(struct fuse_server *server, struct fuse_request *request) { return list(request, false); }
static int64_t readdirplus(struct fuse_server *server, struct fuse_request *request) { return list(request, true); }

static int64_t statfs_(struct fuse_server *server, struct fuse_request *request)
{
    struct fuse_statfs_out out = { .st = { .bsize = RAFS_BLOCK_SIZE, .frsize = RAFS_BLOCK_SIZE, .namelen = FUSE_NAME_LIMIT } };

    return fuse_reply(request, &out, sizeof(out));
}

/* The guest's file system is all that is mounted. */
static int64_t syncfs_(struct fuse_server *server, struct fuse_request *request)
{
    return request->may_block ? fuse_sync_all(server, request->context) : fuse_to_pool(request, FUSE_WAIT_REMOTE);
}

static int64_t access_(struct fuse_server *server, struct fuse_request *request)
{
    return ((const struct fuse_access_in *)request->args)->mask & W_OK ? -EROFS : 0;
}

static int64_t listxattr_(struct fuse_server *server, struct fuse_request *request)
{
    const struct fuse_getxattr_in *in = (const struct fuse_getxattr_in *)request->args;
    struct fuse_getxattr_out out = { 0 };

    return in->size ? 0 : fuse_reply(request, &out, sizeof(out));
}

static void free_pseudofs(struct fuse_fs *fs) { free(fs); }

static int describe_root(struct fuse_fs *fs, bool may_block, struct fuse_entry_out *entry)
{
    *entry = (struct fuse_entry_out){ .nodeid = FUSE_ROOT_ID };
    fill_attr((struct pseudofs *)fs, FUSE_ROOT_ID, &entry->attr);
    return 0;
}

static const struct fuse_fs_type pseudofs_type = {
    .name = "pseudo",
    .describe_root = describe_root,
    .free = free_pseudofs,
    .handlers = {
        [FUSE_LOOKUP] = lookup,
        [FUSE_GETATTR] = getattr,
        [FUSE_STATX] = statx_,
        [FUSE_OPENDIR] = opendir_,
        [FUSE_READDIR] = readdir_,
        [FUSE_READDIRPLUS] = readdirplus,
        [FUSE_RELEASEDIR] = fuse_nothing_to_do,
        [FUSE_STATFS] = statfs_,
        [FUSE_SYNCFS] = syncfs_,
        [FUSE_ACCESS] = access_,
        [FUSE_GETXATTR] = fuse_no_attribute,
        [FUSE_LISTXATTR] = listxattr_,
        [FUSE_FSYNCDIR] = fuse_nothing_to_do,
        [FUSE_FLUSH] = fuse_nothing_to_do,
        [FUSE_FSYNC] = fuse_nothing_to_do,
        [FUSE_RELEASE] = fuse_nothing_to_do,
        [FUSE_GETLK] = fuse_no_locks,
        [FUSE_SETLK] = fuse_no_locks,
        [FUSE_SETLKW] = fuse_no_locks,
        [FUSE_IOCTL] = fuse_no_ioctl,
        /* Files do not exist here, nor can they be made. */
        [FUSE_READLINK] = fuse_read_only,
        [FUSE_OPEN] = fuse_read_only,
        [FUSE_READ] = fuse_read_only,
        [FUSE_LSEEK] = fuse_read_only,
        [FUSE_SETATTR] = fuse_read_only,
        [FUSE_SYMLINK] = fuse_read_only,
        [FUSE_MKNOD] = fuse_read_only,
        [FUSE_MKDIR] = fuse_read_only,
        [FUSE_UNLINK] = fuse_read_only,
        [FUSE_RMDIR] = fuse_read_only,
        [FUSE_RENAME] = fuse_read_only,
        [FUSE_RENAME2] = fuse_read_only,
        [FUSE_LINK] = fuse_read_only,
        [FUSE_WRITE] = fuse_read_only,
        [FUSE_SETXATTR] = fuse_read_only,
        [FUSE_REMOVEXATTR] = fuse_read_only,
        [FUSE_CREATE] = fuse_read_only,
        [FUSE_TMPFILE] = fuse_read_only,
        [FUSE_FALLOCATE] = fuse_read_only,
        [FUSE_COPY_FILE_RANGE] = fuse_read_only,
    },
};

struct fuse_fs *pseudofs_new(struct fuse_server *server, const struct pseudo_node *nodes, uint32_t count)
{
    struct pseudofs *pseudo = calloc(1, sizeof(*pseudo) + count * sizeof(*nodes));

    if (!pseudo)
        return NULL;
    pseudo->fs.type = &pseudofs_type;
    pseudo->server = server;
    pseudo->born = time(NULL);
    pseudo->count = count;
    memcpy(pseudo->nodes, nodes, count * sizeof(*nodes));
    return &pseudo->fs;
}
