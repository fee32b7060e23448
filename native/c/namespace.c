/* Paths, and the tree of pseudo directories. See namespace.h. */
#include "namespace.h"

#include <stdlib.h>
#include <string.h>

#define MAX_NODES (1u << 20)

int namespace_init(struct namespace *namespace, struct fuse_server *server)
{
    struct fuse_fs *root;

    namespace->server = server;
    namespace->nodes = calloc(2, sizeof(*namespace->nodes));
    if (!namespace->nodes)
        return -ENOMEM;
    namespace->count = 2;
    namespace->nodes[FUSE_ROOT_ID].parent = FUSE_ROOT_ID;
    root = pseudofs_new(server, namespace->nodes, namespace->count);
    if (!root)
        return -ENOMEM;
    fuse_replace(server, 0, root);
    return 0;
}

void namespace_destroy(struct namespace *namespace)
{
    for (uint32_t i = 0; i < namespace->count; i++)
        free(namespace->nodes[i].name);
    free(namespace->nodes);
    namespace->nodes = NULL;
    namespace->count = 0;
}

/* The next component of *path, and its length; 0 at the end; -EINVAL for one that cannot be. */
static int next_component(const char **path, const char **name)
{
    size_t length;

    while (**path == '/')
        (*path)++;
    *name = *path;
    length = strcspn(*path, "/");
    *path += length;
    if (length > FUSE_NAME_LIMIT || (length == 1 && **name == '.') || (length == 2 && !strncmp(*name, "..", 2)))
        return -EINVAL;
    return (int)length;
}

static uint32_t find_child(const struct namespace *namespace, uint32_t parent, const char *name, size_t length)
{
    uint32_t child = namespace->nodes[parent].first_child;

    while (child && (strncmp(namespace->nodes[child].name, name, length) || namespace->nodes[child].name[length]))
        child = namespace->nodes[child].next_sibling;
    return child;
}

/* Behind its siblings: listings go by the node's number (pseudofs.c). */
static int64_t add_child(struct namespace *namespace, uint32_t parent, const char *name, size_t length)
{
    struct pseudo_node *nodes;
    uint32_t *last;
    char *copy;

    if (namespace->count >= MAX_NODES)
        return -ENOSPC;
    copy = strndup(name, length);
    nodes = reallocarray(namespace->nodes, namespace->count + 1, sizeof(*nodes));
    if (nodes)
        namespace->nodes = nodes;
    if (!copy || !nodes) {
        free(copy);
        return -ENOMEM;
    }
    nodes[namespace->count] = (struct pseudo_node){ .name = copy, .parent = parent };
    for (last = &nodes[parent].first_child; *last; last = &nodes[*last].next_sibling)
        ;
    *last = namespace->count;
    return namespace->count++;
}

/* The node at `path`, or a negative errno; makes missing ones where `create` says so. */
static int64_t resolve(struct namespace *namespace, const char *path, bool create)
{
    int64_t at = FUSE_ROOT_ID;
    const char *name;
    int length;

    if (*path != '/')
        return -EINVAL;
    while ((length = next_component(&path, &name)) > 0) {
        uint32_t child;
        if (namespace->nodes[at].mount)
            return create ? -ENOTDIR : -ENOENT;
        child = find_child(namespace, (uint32_t)at, name, (size_t)length);
        at = child ? child : create ? add_child(namespace, (uint32_t)at, name, (size_t)length) : -ENOENT;
        if (at < 0)
            return at;
    }
    return length < 0 ? length : at;
}

static bool is_pseudo_root(const struct namespace *namespace)
{
    return namespace->nodes[FUSE_ROOT_ID].mount == 0;
}

/* Makes `index` what is mounted at a node, in a tree that is not published yet. NULL: no memory, and all is as before. */
static struct fuse_fs *tree_with(struct namespace *namespace, int64_t node, uint16_t index)
{
    uint16_t before = namespace->nodes[node].mount;
    struct fuse_fs *tree;

    namespace->nodes[node].mount = index;
    tree = pseudofs_new(namespace->server, namespace->nodes, namespace->count);
    if (!tree)
        namespace->nodes[node].mount = before;
    return tree;
}

/* One at "/" takes the place of the pseudo directories; its node is marked by an index that no
 * other mount has. */
#define MOUNTED_AT_ROOT UINT16_MAX

int namespace_mount(struct namespace *namespace, const char *path, struct fuse_fs *fs)
{
    int64_t at = is_pseudo_root(namespace) ? resolve(namespace, path, true) : -EEXIST;
    struct fuse_fs *tree;
    uint16_t index;
    int err;

    if (at < 0)
        return (int)at;
    if (namespace->nodes[at].mount || namespace->nodes[at].first_child)
        return -EEXIST;
    if (at == FUSE_ROOT_ID) {
        namespace->nodes[at].mount = MOUNTED_AT_ROOT;
        fuse_replace(namespace->server, 0, fs);
        return 0;
    }
    err = fuse_free_index(namespace->server, &index);
    if (err)
        return err;
    tree = tree_with(namespace, at, index);
    if (!tree)
        return -ENOMEM;
    /* From here on a guest can have seen it, and nothing fails. */
    fuse_replace(namespace->server, index, fs);
    fuse_replace(namespace->server, 0, tree);
    return 0;
}

int namespace_make_directory(struct namespace *namespace, const char *path)
{
    int64_t at = is_pseudo_root(namespace) ? resolve(namespace, path, true) : -EEXIST;
    struct fuse_fs *tree;

    if (at < 0)
        return (int)at;
    tree = pseudofs_new(namespace->server, namespace->nodes, namespace->count);
    if (!tree)
        return -ENOMEM;
    fuse_replace(namespace->server, 0, tree);
    return 0;
}

int namespace_node(const struct namespace *namespace, uint32_t number, char *path, size_t size, uint16_t *index)
{
    char *end = path + size - 1, *at = end;

    if (number <= FUSE_ROOT_ID || number >= namespace->count)
        return -ENOENT;
    *index = namespace->nodes[number].mount;
    *end = 0;
    for (; number != FUSE_ROOT_ID; number = namespace->nodes[number].parent) { /* from its last component on */
        size_t length = strlen(namespace->nodes[number].name);
        if ((size_t)(at - path) < length + 1)
            return -ERANGE;
        at -= length;
        memcpy(at, namespace->nodes[number].name, length);
        *--at = '/';
    }
    memmove(path, at, (size_t)(end - at) + 1);
    return 0;
}

int namespace_find(struct namespace *namespace, const char *path, struct fuse_fs **out)
{
    int64_t at = resolve(namespace, path, false);
    uint16_t index = at < 0 ? 0 : namespace->nodes[at].mount;

    if (at < 0 || !index)
        return at < 0 ? (int)at : -ENOENT;
    *out = namespace->server->mounts[index == MOUNTED_AT_ROOT ? 0 : index];
    return 0;
}

int namespace_umount(struct namespace *namespace, const char *path)
{
    int64_t at = resolve(namespace, path, false);
    uint16_t index = at < 0 ? 0 : namespace->nodes[at].mount;
    struct fuse_fs *tree;

    if (at < 0)
        return (int)at;
    if (!index)
        return -ENOENT;
    tree = tree_with(namespace, at, 0);
    if (!tree)
        return -ENOMEM;
    fuse_replace(namespace->server, 0, tree);
    if (at != FUSE_ROOT_ID)
        fuse_replace(namespace->server, index, NULL);
    return 0;
}
