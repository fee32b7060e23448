/* The table of what a passthrough can do and where it runs, and its life. See passthroughfs.h. */
#include "passthroughfs.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

/* Where an operation runs. One that may be tried by the queue thread returns -EAGAIN when it would
 * block; all that change the file system go to the pool at once: a journal may make them wait for
 * the disk, and none has a way to ask. Which pool that is, the mount says that the inode is on; an
 * operation that meets another one on its way, which may never answer, returns -EREMOTE. */
enum place { TRY, POOL, REMOTE };

static int64_t sync_all(struct passthroughfs *pt, struct fuse_request *request, struct host_inode *inode)
{
    return host_mounts_sync(&pt->inodes);
}

static int64_t not_a_terminal(struct passthroughfs *pt, struct fuse_request *request, struct host_inode *inode) { return -ENOTTY; }

static const struct {
    passthrough_op *run;
    enum place place;
} operations[FUSE_OPCODES] = {
    [FUSE_LOOKUP] = { passthroughfs_lookup, TRY },
    [FUSE_GETATTR] = { passthroughfs_getattr, TRY },
    [FUSE_STATX] = { passthroughfs_statx, TRY },
    [FUSE_SETATTR] = { passthroughfs_setattr, POOL },
    [FUSE_READLINK] = { passthroughfs_readlink, POOL }, /* a long target is in a block of its own */
    [FUSE_SYMLINK] = { passthroughfs_symlink, POOL },
    [FUSE_MKNOD] = { passthroughfs_mknod, POOL },
    [FUSE_MKDIR] = { passthroughfs_mkdir, POOL },
    [FUSE_UNLINK] = { passthroughfs_unlink, POOL },
    [FUSE_RMDIR] = { passthroughfs_rmdir, POOL },
    [FUSE_RENAME] = { passthroughfs_rename, POOL },
    [FUSE_RENAME2] = { passthroughfs_rename2, POOL },
    [FUSE_LINK] = { passthroughfs_link, POOL },
    [FUSE_OPEN] = { passthroughfs_open, TRY },
    [FUSE_CREATE] = { passthroughfs_create, POOL },
    [FUSE_TMPFILE] = { passthroughfs_tmpfile, POOL },
    [FUSE_READ] = { passthroughfs_read, TRY },
    [FUSE_WRITE] = { passthroughfs_write, TRY },
    [FUSE_STATFS] = { passthroughfs_statfs, TRY },
    [FUSE_RELEASE] = { passthroughfs_release, TRY },
    [FUSE_FSYNC] = { passthroughfs_fsync, POOL },
    [FUSE_SETXATTR] = { passthroughfs_setxattr, POOL },
    [FUSE_GETXATTR] = { passthroughfs_getxattr, TRY },
    [FUSE_LISTXATTR] = { passthroughfs_listxattr, TRY },
    [FUSE_REMOVEXATTR] = { passthroughfs_removexattr, POOL },
    [FUSE_FLUSH] = { passthroughfs_flush, TRY },
    [FUSE_OPENDIR] = { passthroughfs_opendir, TRY },
    [FUSE_READDIR] = { passthroughfs_readdir, POOL },
    [FUSE_READDIRPLUS] = { passthroughfs_readdirplus, POOL },
    [FUSE_RELEASEDIR] = { passthroughfs_release, TRY },
    [FUSE_FSYNCDIR] = { passthroughfs_fsync, POOL },
    [FUSE_GETLK] = { passthroughfs_getlk, POOL },
    [FUSE_SETLK] = { passthroughfs_setlk, POOL },
    [FUSE_SETLKW] = { passthroughfs_setlkw, POOL },
    [FUSE_ACCESS] = { passthroughfs_access, POOL },
    [FUSE_FALLOCATE] = { passthroughfs_fallocate, POOL },
    [FUSE_LSEEK] = { passthroughfs_lseek, POOL },
    [FUSE_COPY_FILE_RANGE] = { passthroughfs_copy_file_range, POOL },
    [FUSE_IOCTL] = { not_a_terminal, TRY },
    [FUSE_SYNCFS] = { sync_all, REMOTE }, /* of all mounts */
};

static int64_t handle(struct fuse_server *server, struct fuse_request *request)
{
    struct passthroughfs *pt = (struct passthroughfs *)request->fs;
    uint32_t opcode = request->in.opcode;
    bool needs_inode = opcode != FUSE_RELEASE && opcode != FUSE_RELEASEDIR;
    struct host_inode *inode;
    int64_t result;

    if (!operations[opcode].run)
        return -ENOSYS;
    if (operations[opcode].place == REMOTE && !request->may_block)
        return fuse_to_pool(request, FUSE_WAIT_REMOTE);
    inode = needs_inode ? inode_get(&pt->inodes, request->id) : NULL;
    if (needs_inode && !inode)
        return -ESTALE;
    result = operations[opcode].place == POOL && !request->may_block ? -EAGAIN : operations[opcode].run(pt, request, inode);
    if (result == -EAGAIN && !request->may_block)
        result = fuse_to_pool(request, !inode || inode->mount->is_local ? FUSE_WAIT_HOST : FUSE_WAIT_REMOTE);
    else if (result == -EREMOTE && !passthroughfs_may_wait_for_others(request))
        result = fuse_to_pool(request, FUSE_WAIT_REMOTE);
    if (inode)
        inode_put(&pt->inodes, inode);
    /* What the host's kernel lacks it lacks for this share; a driver that hears ENOSYS asks no more for any. */
    return result == -ENOSYS ? -EOPNOTSUPP : result;
}

static int describe_root(struct fuse_fs *fs, bool may_block, struct fuse_entry_out *entry)
{
    struct passthroughfs *pt = (struct passthroughfs *)fs;
    struct host_path path;
    struct statx stat;
    int err = may_block || pt->inodes.root->mount->is_local ? inode_path(&pt->inodes, pt->inodes.root, true, &path) : -EAGAIN;

    if (err)
        return err;
    err = host_stat(path.fd, &stat);
    host_path_close(&path);
    *entry = (struct fuse_entry_out){ .nodeid = fuse_nodeid(fs, FUSE_ROOT_ID) };
    if (!err)
        passthroughfs_fill_attr(pt, &stat, &entry->attr);
    return err;
}

static void forget(struct fuse_fs *fs, uint64_t id, uint64_t nlookup)
{
    inode_forget(&((struct passthroughfs *)fs)->inodes, id, nlookup);
}

static void end_session(struct fuse_fs *fs)
{
    struct passthroughfs *pt = (struct passthroughfs *)fs;

    lock_table_release_all(&pt->locks);
    open_file_remove_all(&pt->files);
    inode_forget_all(&pt->inodes);
}

static int sync_mounts(struct fuse_fs *fs) { return host_mounts_sync(&((struct passthroughfs *)fs)->inodes); }

static void free_passthroughfs(struct fuse_fs *fs)
{
    struct passthroughfs *pt = (struct passthroughfs *)fs;

    lock_table_destroy(&pt->locks);
    open_file_table_destroy(&pt->files);
    inode_table_destroy(&pt->inodes);
    ino_map_destroy(&pt->inos);
    free(pt);
}

static const struct fuse_fs_type passthroughfs_type = {
    .name = "passthrough",
    .describe_root = describe_root,
    .forget = forget,
    .sync = sync_mounts,
    .end_session = end_session,
    .free = free_passthroughfs,
    .handlers = { [1 ... FUSE_OPCODES - 1] = handle },
};

int passthroughfs_new(struct fuse_server *server, int source_fd, int proc_fd, const struct vfs_directory_options *options,
                      struct fuse_fs **out)
{
    struct passthroughfs *pt = calloc(1, sizeof(*pt));
    int real_fd, err;

    if (!pt)
        return -ENOMEM;
    *pt = (struct passthroughfs){ .fs.type = &passthroughfs_type, .server = server, .options = *options, .proc_fd = proc_fd };
    real_fd = host_reopen(proc_fd, source_fd, O_RDONLY | O_DIRECTORY);
    err = real_fd < 0 ? real_fd : ino_map_init(&pt->inos);
    if (!err) {
        err = inode_table_init(&pt->inodes, real_fd, proc_fd, options->file_handles != VFS_FILE_HANDLES_NEVER,
                               options->file_handles == VFS_FILE_HANDLES_MANDATORY);
        if (err)
            ino_map_destroy(&pt->inos);
    }
    if (err) {
        if (real_fd >= 0)
            close(real_fd);
        free(pt);
        return err;
    }
    open_file_table_init(&pt->files, &pt->inodes);
    lock_table_init(&pt->locks);
    close(source_fd);
    *out = &pt->fs;
    return 0;
}

int passthroughfs_facts(struct fuse_fs *fs, struct vfs_directory_facts *facts)
{
    struct passthroughfs *pt = (struct passthroughfs *)fs;
    struct inode_counts counts;

    if (fs->type != &passthroughfs_type)
        return -EINVAL;
    inode_table_count(&pt->inodes, &counts);
    *facts = (struct vfs_directory_facts){
        .inodes = counts.inodes,
        .path_fds = counts.path_fds,
        .mounts = counts.mounts,
        .mount_fds = counts.mount_fds,
        .open_files = open_file_table_count(&pt->files),
    };
    return 0;
}
