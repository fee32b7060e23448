/* open and its flags, O_TMPFILE, O_APPEND, O_DIRECT, O_PATH. See posix.h. */
#include "posix.h"

#define SOMETHING "nothing=|file=make x text|folder=mkdir x|symlink=make t text;symlink t x|dangling=symlink t x|loop=symlink x x|to-folder=mkdir t;symlink t x|read-only=make x text;chmod x 0444|null=mknod x c 0666 1 3"
#define OPEN_FLAGS "O_RDONLY|O_WRONLY|O_RDWR|O_RDONLY+O_CREAT|O_WRONLY+O_CREAT+O_EXCL|O_WRONLY+O_TRUNC|O_RDWR+O_CREAT+O_TRUNC|O_RDONLY+O_DIRECTORY|O_WRONLY+O_DIRECTORY|O_RDONLY+O_NOFOLLOW|O_RDWR+O_CREAT+O_NOFOLLOW|O_PATH|O_PATH+O_NOFOLLOW|O_WRONLY+O_APPEND|O_RDONLY+O_TRUNC"

const struct test_case open_cases[] = {
    { "open", "$1; open 1 x $2 0640 =?; fstat 1 =?; close 1 =?; ls .; stat x =?; statf x =?", { SOMETHING, OPEN_FLAGS } },
    { "open.user", "chmod . 0777; as 1000; $1 =?; open 1 x $2 0640 =?; fstat 1 =?; ls .", { SOMETHING, "O_RDONLY|O_RDWR|O_WRONLY+O_CREAT|O_WRONLY+O_TRUNC" } },
    { "open.mode-0", "open 1 x O_RDWR+O_CREAT $1; pwrite 1 0 text; pread 1 0 9 = text; fstat 1; close 1; as 1000; open 1 x O_RDWR = EACCES", { "0000|0400|0200" } },
    { "open.created-unwritable", "chmod . 0777; as 1000; open 1 x O_WRONLY+O_CREAT+O_EXCL 0444; write 1 text = 4; close 1; open 1 x O_WRONLY = EACCES; stat x = f444:1000:1000:1:4" },
    { "open.protected-regular", "chmod . 01777; as 1000; make x text; chmod x 0666; as 0; open 1 x O_WRONLY+O_CREAT =?; as 2000; open 1 x O_WRONLY+O_CREAT =?" },
    { "open.trunc", "make x text; open 2 x O_RDWR; open 1 x O_WRONLY+O_TRUNC; fstat 2 = f644:0:0:1:0; pread 2 0 9 = nothing; pwrite 2 3 y = 1; pread 2 0 9 =?; stat x" },
    { "open.trunc.setid", "make x text; chmod x 06777; as $1; open 1 x O_WRONLY+O_TRUNC; stat x", { "user=1000|root=0" } },
    { "open.trunc.times", "make x text; mark x; open 1 x O_WRONLY+O_TRUNC; changed x = mc; mark x; open 1 x O_WRONLY+O_TRUNC; changed x = mc" },
    { "open.twice", "open 1 x O_RDWR+O_CREAT; open 2 x O_RDWR; pwrite 1 0 text; pread 2 0 9 = text; pwrite 2 4 more; pread 1 0 9 = textmore; lseek 1 0 SEEK_END = 8" },
    { "open.wronly.read", "make x text; open 1 x O_WRONLY; pread 1 0 4 = EBADF; open 2 x O_RDONLY; pwrite 2 0 a = EBADF; ftruncate 2 0 = EINVAL; fallocate 2 0 0 1 = EBADF" },
    { "open.folder", "mkdir x; open 1 x O_RDONLY; pread 1 0 4 = EISDIR; pwrite 1 0 a = EBADF; fsync 1; ftruncate 1 0 = EINVAL; open 2 x O_WRONLY = EISDIR; open 2 x O_RDWR+O_CREAT = EISDIR" },
    { "open.path", "make x text; open 1 x O_PATH; fstat 1 = f644:0:0:1:4; pread 1 0 4 = EBADF; fchmod 1 0600 = EBADF; linkfd 1 y; same x y = 1" },
    { "open.path.symlink", "symlink t x; open 1 x O_PATH+O_NOFOLLOW; fstat 1 = l777:0:0:1:1" },
    { "open.sync", "open 1 x O_RDWR+O_CREAT+$1; pwrite 1 0 text = 4; pread 1 0 9 = text; pwrite 1 4 a 100k; fstat 1", { "O_SYNC|O_DSYNC" } },

    { "append.write", "make x text; open 1 x O_WRONLY+O_APPEND; write 1 one; write 1 two; stat x = f644:0:0:1:10; open 2 x O_RDONLY; pread 2 0 20 = textonetwo; lseek 1 0 SEEK_CUR = 10" },
    { "append.pwrite", "make x text; open 1 x O_WRONLY+O_APPEND; pwrite 1 0 one = 3; open 2 x O_RDONLY; pread 2 0 20 = textone" },
    { "append.two", "open 1 x O_WRONLY+O_APPEND+O_CREAT; open 2 x O_WRONLY+O_APPEND; write 1 a; write 2 bb; write 1 c; write 2 dd; open 3 x O_RDONLY; pread 3 0 20 = abbcdd" },
    { "append.and-plain", "open 1 x O_WRONLY+O_APPEND+O_CREAT; open 2 x O_RDWR; write 1 abc; pwrite 2 5 z; write 1 def; pread 2 6 9 = def; stat x = f644:0:0:1:9" },
    { "append.processes", "open 1 x O_WRONLY+O_APPEND+O_CREAT; fork write 1 aa; fork write 1 bb; write 1 cc; open 2 x O_RDONLY; pread 2 0 9 = aabbcc" },
    { "append.set", "make x text; open 1 x O_RDWR; getfl 1; write 1 T; setfl 1 O_APPEND; getfl 1; write 1 more; setfl 1 0; pwrite 1 1 E; pread 1 0 20 = TExtmore" },
    { "append.truncated", "make x text; open 1 x O_WRONLY+O_APPEND; truncate x 2; write 1 y; truncate x 5; write 1 z; open 2 x O_RDONLY; stat x = f644:0:0:1:6; pread 2 0 3 = tey; pread 2 5 1 = z" },
    { "append.large", "open 1 x O_RDWR+O_APPEND+O_CREAT; pwrite 1 0 a 300k; pwrite 1 0 b 300k; stat x; pread 1 300k 1 = b; pread 1 307199 1 = a" },

    { "direct", "open 1 x O_RDWR+O_CREAT+O_DIRECT; pwrite 1 0 a 8k = 8192; pread 1 4k 4k =?; pwrite 1 4k b 4k; pread 1 0 16k; stat x; close 1; open 2 x O_RDONLY; pread 2 0 8k" },
    { "direct.and-cached", "open 1 x O_RDWR+O_CREAT+O_DIRECT; open 2 x O_RDWR; pwrite 2 0 a 64k; pread 1 0 64k; pwrite 1 4k b 8k; pread 2 0 64k; pwrite 2 10k c 4k; fsync 2; pread 1 0 64k" },
    { "direct.large", "open 1 x O_RDWR+O_CREAT+O_DIRECT; pwrite 1 0 a 3m = 3145728; pwrite 1 1m b 1m; pread 1 0 3m; pread 1 2m 4m; pread 1 4m 4k = nothing" },
    { "direct.beyond-end", "open 1 x O_RDWR+O_CREAT+O_DIRECT; pwrite 1 16k a 4k; pread 1 0 32k; stat x; pread 1 20k 4k = nothing" },
    { "direct.set", "make x text; open 1 x O_RDWR; setfl 1 O_DIRECT; getfl 1; pwrite 1 0 a 4k; pread 1 0 4k; setfl 1 0; pread 1 0 4k" },

    { "tmpfile", "open 1 . O_TMPFILE+O_RDWR 0640; fstat 1; pwrite 1 0 text; pread 1 0 9 = text; ls . = []; linkfd 1 x; stat x = f640:0:0:1:4; open 2 x O_RDONLY; pread 2 0 9 = text; linkfd 1 y; stat y = f640:0:0:2:4" },
    { "tmpfile.excl", "open 1 . O_TMPFILE+O_RDWR+O_EXCL 0644; pwrite 1 0 text; linkfd 1 x = ENOENT; ls . = []" },
    { "tmpfile.wronly", "open 1 . O_TMPFILE+O_WRONLY 0600; pwrite 1 0 text; linkfd 1 x; open 2 x O_RDONLY; pread 2 0 9 = text" },
    { "tmpfile.rdonly", "open 1 . O_TMPFILE+O_RDONLY 0600 = EINVAL" },
    { "tmpfile.file", "create f; open 1 f O_TMPFILE+O_RDWR 0644 = ENOTDIR; open 1 x O_TMPFILE+O_RDWR 0644 = ENOENT" },
    { "tmpfile.user", "chmod . $1; as 1000:2000; umask 027; open 1 . O_TMPFILE+O_RDWR 0666 =?; fstat 1 =?; linkfd 1 x =?; as 0; ls .", { "0777|0755" } },
    { "tmpfile.group", "chown . 0 4000; chmod . 02777; as 1000:1000; open 1 . O_TMPFILE+O_RDWR 0666; fstat 1; linkfd 1 x; stat x" },
    { "tmpfile.over", "make x other; open 1 . O_TMPFILE+O_RDWR 0644; linkfd 1 x = EEXIST; unlink x; linkfd 1 x; stat x = f644:0:0:1:0" },
    { "tmpfile.attributes", "open 1 . O_TMPFILE+O_RDWR 0644; fchmod 1 0600; fchown 1 5 6; futimens 1 1.5 2.5; ftruncate 1 10; fallocate 1 0 0 20; linkfd 1 x; stat x = f600:5:6:1:20; times x =?" },
    { "tmpfile.xattr", "open 1 . O_TMPFILE+O_RDWR 0644; linkfd 1 x; setxattr x user.a 1; getxattr x user.a = 1" },
    { 0 },
};
