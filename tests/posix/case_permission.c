/* Who may do what: owner, group, supplementary group, others and root, on files and in folders. See posix.h. */
#include "posix.h"

/* File or folder of 1000:1000; who comes. */
#define WHO "owner=1000:500|group=1001:1000|supp=1002:2000:3000,1000|other=1003:3000|root=0:0"
#define CLASS_MODES "0000|0400|0200|0100|0040|0020|0010|0004|0002|0001|0077|0707|0770|0777"
#define STICKY_WHO "folder-owner=2000:1|file-owner=1000:1|other=3000:1|root=0:0"

const struct test_case permission_cases[] = {
    { "perm.file",
      "make f text; chown f 1000 1000; chmod f $2; as $1; open 1 f O_RDONLY =?; open 2 f O_WRONLY =?; open 3 f O_RDWR =?;"
      "open 4 f O_WRONLY+O_TRUNC =?; access f R_OK =?; access f W_OK =?; access f X_OK =?",
      { WHO, CLASS_MODES } },
    { "perm.folder",
      "mkdir d; make d/old text; mkdir d/sub 0777; chown d 1000 1000; chmod d $2; as $1; ls d =?; stat d/old =?; open 1 d/old O_RDONLY =?;"
      "create d/new 0644 =?; rename d/sub d/moved =?; link d/old d/linked =?; symlink x d/symlink =?; unlink d/old =?; access d R_OK+W_OK+X_OK =?",
      { WHO, CLASS_MODES } },
    { "perm.exec", "program f 0755; chown f 1000 1000; chmod f $2; as $1; exec f =?", { WHO, "0000|0100|0010|0001|0666|0111" } },
    { "perm.exec.setid", "program f 0755; chown f 77 88; chmod f $1; as 1000:1000; exec f =?", { "04755|02755|06755|0755" } },
    { "perm.exec.unreadable", "program f 0111; chown f 1000 1000; as 1000:1000; exec f = 232; open 1 f O_RDONLY = EACCES" },
    { "perm.exec.text", "make f text; chmod f 0755; exec f = ENOEXEC" },
    { "perm.exec.folder", "mkdir d 0755; exec d = EACCES" },
    { "perm.exec.busy", "program f 0755; open 1 f O_WRONLY; exec f = ETXTBSY; close 1; exec f = 0" },

    { "perm.sticky.unlink", "mkdir d; chown d 2000 1; chmod d 01777; create d/f; chown d/f 1000 1; as $1; unlink d/f =?", { STICKY_WHO } },
    { "perm.sticky.rmdir", "mkdir d; chown d 2000 1; chmod d 01777; mkdir d/f; chown d/f 1000 1; as $1; rmdir d/f =?", { STICKY_WHO } },
    { "perm.sticky.rename", "mkdir d; chown d 2000 1; chmod d 01777; create d/f; chown d/f 1000 1; as $1; rename d/f d/g =?", { STICKY_WHO } },
    { "perm.sticky.rename-over",
      "mkdir d; chown d 2000 1; chmod d 01777; create d/f; chown d/f 1000 1; as $1; create d/mine; rename d/mine d/f =?; ls d", { STICKY_WHO } },
    { "perm.sticky.rename-out",
      "mkdir d; mkdir out 0777; chown d 2000 1; chmod d 01777; create d/f; chown d/f 1000 1; as $1; rename d/f out/f =?", { STICKY_WHO } },
    { "perm.sticky.exchange",
      "mkdir d; chown d 2000 1; chmod d 01777; create d/f; chown d/f 1000 1; create d/g; chown d/g 3000 1; as $1; rename d/f d/g EXCHANGE =?",
      { STICKY_WHO } },
    { "perm.sticky.link", "mkdir d; chown d 2000 1; chmod d 01777; make d/f x; chown d/f 1000 1; chmod d/f 0666; as $1; link d/f d/g =?", { STICKY_WHO } },

    { "perm.chmod", "create f; chown f 1000 1000; as $1; chmod f $2 =?; stat f",
      { WHO, "0000|0644|04755|02755|02711|06777|01777" } },
    { "perm.chmod.group-not-mine", "create f; chown f 1000 5000; as 1000:1000; chmod f $1 =?; stat f", { "02755|02745|06711|0755" } },
    { "perm.chmod.folder", "mkdir d; chown d 1000 5000; as $1; chmod d $2 =?; stat d", { "owner=1000:1000|member=1000:5000|root=0:0", "02755|01777|03777" } },
    { "perm.chown", "create f; chown f 1000 1000; as $1; chown f $2 =?; stat f",
      { WHO, "same=-1 -1|uid=1003 -1|own-gid=-1 1000|supp-gid=-1 3000|strange-gid=-1 6000|both=1000 1000" } },
    { "perm.chown.supp", "create f; chown f 1000 1000; as 1000:1000:3000,4000; chown f -1 $1 =?; stat f", { "3000|4000|5000|1000" } },
    { "perm.truncate", "make f text; chown f 1000 1000; chmod f $2; as $1; truncate f 2 =?; stat f", { WHO, "0000|0200|0020|0002|0555" } },
    { "perm.utimens", "create f; chown f 1000 1000; chmod f $2; as $1; utimens f 1.5 2.5 =?; utimens f NOW NOW =?; touch f =?; utimens f OMIT OMIT =?",
      { WHO, "0000|0666|0020" } },
    { "perm.xattr", "create f; chown f 1000 1000; chmod f $2; as $1; setxattr f user.a 1 =?; getxattr f user.a =?; listxattr f =?; removexattr f user.a =?",
      { WHO, "0000|0600|0060|0006|0777" } },
    { "perm.xattr.trusted", "create f; setxattr f trusted.a 1; chmod f 0777; as $1; getxattr f trusted.a =?; setxattr f trusted.b 1 =?; listxattr f =?", { WHO } },
    { "perm.mknod", "chmod . 0777; as $1; mknod f $2 =?; ls .", { WHO, "pipe=p 0644|socket=s 0644|null=c 0644 1 3|whiteout=c 0 0 0|block=b 0644 7 0|file=f 0644" } },
    { "perm.link.of-others", "make f x; chown f 1000 1000; chmod f $2; chmod . 0777; as $1; link f g =?", { WHO, "0600|0666|04777" } },
    { "perm.symlink.of-others", "symlink x l; chown l 1000 1000; as $1; readlink l =?; chown l -1 -1 =?; unlink l =?", { WHO } },
    { "perm.parent", "mkdir a; mkdir a/b 0777; create a/b/f; chown a 1000 1000; chmod a $2; as $1; stat a/b/f =?; open 1 a/b/f O_RDONLY =?; unlink a/b/f =?",
      { WHO, "0000|0400|0700|0070|0007|0711" } },
    { "perm.rename.folder",
      "mkdir a 0777; mkdir b 0777; chmod a 0777; chmod b 0777; mkdir a/d; chown a/d 1000 1000; chmod a/d $2; as $1; rename a/d b/d =?; rename b/d b/e =?",
      { WHO, "0700|0500|0755|0777" } },
    { "perm.open.noatime", "make f x; chown f 1000 1000; chmod f 0666; as $1; open 1 f O_RDONLY+O_NOATIME =?", { WHO } },
    { "perm.held", "make f text; chmod f 0666; as 1000:1000; open 1 f O_RDWR; as 0; chmod f 0; as 1000:1000; pread 1 0 10 = text; pwrite 1 0 TE = 2; fstat 1; open 2 f O_RDONLY = EACCES" },
    { 0 },
};
