/* Keys of inodes. See passthroughfs_key.h. */
#include "passthroughfs_key.h"

#include <string.h>

static void mix(uint64_t *hash, const void *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++) /* FNV-1a */
        *hash = (*hash ^ ((const uint8_t *)bytes)[i]) * 0x100000001B3ull;
}

static void hash_key(struct inode_key *key)
{
    uint64_t hash = 0xCBF29CE484222325ull;

    mix(&hash, &key->mount, sizeof(key->mount));
    if (key->handle.size) {
        mix(&hash, key->handle.bytes, key->handle.size);
    } else {
        mix(&hash, &key->dev, sizeof(key->dev));
        mix(&hash, &key->ino, sizeof(key->ino));
    }
    key->hash = (uint32_t)(hash ^ hash >> 32);
}

int inode_key_make(const struct host_mount *mount, bool by_handle, int fd, const char *name, const struct statx *stat,
                   struct inode_key *key)
{
    int err = 0;

    key->mount = mount;
    key->dev = host_dev(stat);
    key->ino = stat->stx_ino;
    key->handle.size = 0;
    if (by_handle)
        err = host_get_handle_at(fd, name, &key->handle);
    hash_key(key);
    return err;
}

bool inode_has_key(const struct host_inode *inode, const struct inode_key *key)
{
    if (inode->hash != key->hash || inode->mount != key->mount || inode->handle.size != key->handle.size)
        return false;
    if (key->handle.size)
        return inode->handle.type == key->handle.type && !memcmp(inode->handle.bytes, key->handle.bytes, key->handle.size);
    return inode->dev == key->dev && inode->ino == key->ino;
}
