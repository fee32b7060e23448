/* Locks, and what only shows between processes. See posix.h. */
#include "posix.h"

#define OPEN "open 1 x O_RDWR+O_CREAT; "

const struct test_case process_cases[] = {
    { "flock", OPEN "open 2 x O_RDWR; flock 1 $1; flock 2 $2+LOCK_NB =?; flock 1 LOCK_UN; flock 2 $2+LOCK_NB", { "LOCK_SH|LOCK_EX", "LOCK_SH|LOCK_EX" } },
    { "flock.inherited", OPEN "flock 1 LOCK_EX; fork flock 1 LOCK_EX+LOCK_NB; fork flock 1 LOCK_UN; open 2 x O_RDWR; flock 2 LOCK_EX+LOCK_NB" },
    { "flock.closed", OPEN "open 2 x O_RDWR; flock 1 LOCK_EX; flock 2 LOCK_SH+LOCK_NB = EAGAIN; close 1; flock 2 LOCK_SH+LOCK_NB" },
    { "flock.upgrade", OPEN "open 2 x O_RDWR; flock 1 LOCK_SH; flock 2 LOCK_SH; flock 1 LOCK_EX+LOCK_NB = EAGAIN; flock 2 LOCK_UN; flock 1 LOCK_EX+LOCK_NB" },
    { "flock.kinds", "mkdir d; open 1 d O_RDONLY; flock 1 LOCK_EX; open 2 d O_RDONLY; flock 2 LOCK_SH+LOCK_NB = EAGAIN; mknod p p 0644; open 3 p O_RDWR; flock 3 LOCK_EX" },
    { "flock.readonly", "make x text; open 1 x O_RDONLY; flock 1 LOCK_EX; open 2 x O_PATH; flock 2 LOCK_EX = EBADF" },
    { "flock.and-posix", OPEN "flock 1 LOCK_EX; fork setlk 1 F_WRLCK 0 0; open 2 x O_RDWR; setlk 2 F_WRLCK 0 0; flock 2 LOCK_EX+LOCK_NB = EAGAIN" },
    { "flock.unlinked", OPEN "open 2 x O_RDWR; unlink x; flock 1 LOCK_EX; flock 2 LOCK_EX+LOCK_NB = EAGAIN; create x; open 3 x O_RDWR; flock 3 LOCK_EX+LOCK_NB" },

    { "lock", OPEN "setlk 1 $1 0 10; fork setlk 1 $2 $3 =?; fork getlk 1 $2 $3; setlk 1 F_UNLCK 0 0; fork setlk 1 $2 $3", { "F_RDLCK|F_WRLCK", "F_RDLCK|F_WRLCK", "same=0 10|inside=3 2|over=5 10|behind=10 5|far=100 0|to-end=9 0" } },
    { "lock.same-process", OPEN "open 2 x O_RDWR; setlk 1 F_WRLCK 0 10; setlk 2 F_WRLCK 0 10; getlk 2 F_WRLCK 0 10 = free; close 2; fork setlk 1 F_WRLCK 0 10" },
    { "lock.split", OPEN "setlk 1 F_WRLCK 0 30; setlk 1 F_UNLCK 10 10; fork setlk 1 F_WRLCK 10 10; fork setlk 1 F_WRLCK 0 10 = EAGAIN; fork getlk 1 F_WRLCK 5 100 = write:0:10; fork getlk 1 F_WRLCK 10 100 = write:20:10" },
    { "lock.merge", OPEN "setlk 1 F_WRLCK 0 10; setlk 1 F_WRLCK 10 10; setlk 1 F_RDLCK 5 2; fork getlk 1 F_WRLCK 0 0 = write:0:5; fork getlk 1 F_RDLCK 5 5 = write:7:13" },
    { "lock.modes", "make x text; open 1 x O_RDONLY; setlk 1 F_RDLCK 0 1; setlk 1 F_WRLCK 0 1 = EBADF; open 2 x O_WRONLY; setlk 2 F_RDLCK 0 1 = EBADF; setlk 2 F_WRLCK 0 1" },
    { "lock.bad", OPEN "setlk 1 F_WRLCK -1 1 = EINVAL; setlk 1 9 0 1 = EINVAL; open 2 x O_PATH; setlk 2 F_RDLCK 0 1 = EBADF" },
    { "lock.ofd", OPEN "open 2 x O_RDWR; setlk 1 $1 0 10 ofd; setlk 2 $2 5 10 ofd =?; fork setlk 1 $2 0 10 ofd; setlk 1 F_UNLCK 0 0 ofd; setlk 2 $2 5 10 ofd", { "F_RDLCK|F_WRLCK", "F_RDLCK|F_WRLCK" } },
    { "lock.ofd-and-posix", OPEN "open 2 x O_RDWR; setlk 1 F_WRLCK 0 10 ofd; setlk 2 F_WRLCK 0 10 = EAGAIN; fork setlk 2 F_RDLCK 5 1 = EAGAIN; close 1; setlk 2 F_WRLCK 0 10" },
    { "lock.ended-process", OPEN "fork setlk 1 F_WRLCK 0 0; setlk 1 F_WRLCK 0 0; getlk 1 F_WRLCK 0 0 = free" },

    { "process.write", OPEN "fork pwrite 1 0 text; pread 1 0 9 = text; fork truncate x 2; fstat 1 = f644:0:0:1:2; fork unlink x; fstat 1 = f644:0:0:0:2; fork create x; stat x = f644:0:0:1:0" },
    { "process.position", OPEN "fork write 1 one; write 1 two; fork write 1 six; pread 1 0 20 = onetwosix; lseek 1 0 SEEK_CUR = 9" },
    { "process.folder", "mkdir d; open 1 d O_RDONLY; fork create d/x; ls d = [x:f]; fork rename d/x d/y; ls d = [y:f]; fork unlink d/y; rmdir d; fork stat d = ENOENT" },
    { "process.users", "chmod . 01777; fork as 1000; as 1000; make x text; as 2000; open 1 x O_RDONLY; fork unlink x = EPERM; as 1000; fork unlink x; stat x = ENOENT" },
    { "process.socket", "bind x listen; stat x; bind x = EADDRINUSE; rename x y; unlink y; bind x; ls ." },
    { "process.socket.user", "chmod . 0777; as 1000; umask 022; bind x; stat x; as 0; mkdir d 0755; as 1000; bind d/x = EACCES" },
    { 0 },
};
