/* Extended attributes of each namespace, and access control lists. See posix.h. */
#include "posix.h"

#define KINDS "file=create x|folder=mkdir x|symlink=symlink t x|pipe=mknod x p 0644|null=mknod x c 0644 1 3|whiteout=mknod x c 0 0 0"
#define ATTRIBUTES "user.a|trusted.a|trusted.overlay.opaque|trusted.overlay.origin|security.a|security.capability|system.a|other.a|a|user.|nothing."
#define ACL "u::rwx,u:1000:r-x,g::r-x,g:2000:rw-,m::rwx,o::---"

const struct test_case xattr_cases[] = {
    { "xattr", "$1; setxattr x $2 value =?; getxattr x $2 =?; listxattr x; setxattr x $2 other XATTR_CREATE =?; setxattr x $2 third XATTR_REPLACE =?; getxattr x $2 =?; removexattr x $2 =?; getxattr x $2 =?; listxattr x; removexattr x $2 =?", { KINDS, ATTRIBUTES } },
    { "xattr.flags", "create x; setxattr x user.a 1 XATTR_REPLACE = ENODATA; setxattr x user.a 1 XATTR_CREATE; setxattr x user.a 2 XATTR_CREATE = EEXIST; setxattr x user.a 3 XATTR_REPLACE; getxattr x user.a = 3; setxattr x user.a 4 4 = EINVAL" },
    { "xattr.size", "create x; setxattr x user.a #$1 =?; getxattr x user.a =?; getxattr x user.a 0 =?; getxattr x user.a 10 =?; listxattr x", { "0|1|10|255|1000|3900|5000|65536|65537" } },
    { "xattr.name", "create x; setxattr x $1 v =?; getxattr x $1 =?; listxattr x", { "250=user.@250|251=user.@251|255=user.@255|dots=user.a.b.c|utf8=user.%C3%A9|odd=user.a%20b" } },
    { "xattr.list", "create x; listxattr x = []; setxattr x user.b 1; setxattr x user.a 2; setxattr x trusted.c 3; setxattr x security.d 4; listxattr x; listxattrsize x 0; listxattrsize x 5 = ERANGE; listxattrsize x 36; removexattr x user.a; listxattr x" },
    { "xattr.user", "create x; setxattr x trusted.a 1; setxattr x security.b 2; setxattr x user.c 3; chmod x 0666; as 1000; listxattr x = [security.b+user.c]; getxattr x security.b = 2; setxattr x security.b 3 = EPERM; setxattr x trusted.a 3 = EPERM" },
    { "xattr.user.sticky-folder", "mkdir d; chmod d 01777; as 1000; setxattr d user.a 1 = EPERM; getxattr d user.a = ENODATA" },
    { "xattr.missing", "setxattr x user.a 1 = ENOENT; getxattr x user.a = ENOENT; listxattr x = ENOENT; create x; getxattr x user.a = ENODATA; removexattr x user.a = ENODATA" },
    { "xattr.binary", "create x; setxattr x user.a a%00b =?; setxattr x user.b %FF%FE; getxattr x user.b" },
    { "xattr.many", "create x; setxattr x user.1 #100; setxattr x user.2 #100; setxattr x user.3 #100; setxattr x user.4 #100; setxattr x user.5 #100; setxattr x user.6 #100; listxattr x; getxattr x user.6" },
    { "xattr.kept", "create x; setxattr x user.a 1; setxattr x trusted.b 2; link x y; getxattr y user.a = 1; rename y z; getxattr z trusted.b = 2; open 1 z O_WRONLY+O_TRUNC; getxattr z user.a = 1; chmod z 0600; chown z 1 1; listxattr x" },
    { "xattr.overlay", "mkdir x; setxattr x trusted.overlay.opaque y; setxattr x trusted.overlay.impure y; setxattr x trusted.overlay.redirect /a/b; getxattr x trusted.overlay.opaque = y; listxattr x; rename x z; getxattr z trusted.overlay.redirect = /a/b" },
    { "xattr.selinux", "create x; setxattr x security.selinux system_u:object_r:container_file_t:s0 =?; getxattr x security.selinux =?" },
    { "xattr.cap", "create x; setcap x; getcap x; listxattr x = [security.capability]; removexattr x security.capability; getcap x = ENODATA; setxattr x security.capability short = EINVAL" },

    { "acl.set", "$1; chmod x 0640 =?; setacl x access " ACL " =?; getacl x access =?; stat x; listxattr x; removeacl x access =?; stat x; getacl x access =?", { KINDS } },
    { "acl.default", "$1; setacl x default " ACL " =?; getacl x default =?; stat x; removeacl x default =?", { KINDS } },
    { "acl.minimal", "create x; setacl x access $1; getacl x access =?; stat x; listxattr x", { "u::rw-,g::r--,o::---|u::rwx,g::rwx,o::rwx|u::---,g::---,o::---" } },
    { "acl.bad", "create x; setacl x access $1 =?; stat x; listxattr x", { "no-user=g::r--,o::---|no-mask=u::rwx,u:1000:rwx,g::r--,o::---|order=o::r--,u::rwx,g::r--|twice=u::rwx,u:1:r--,u:1:r--,g::r--,m::rwx,o::---|mask-only=m::rwx|bits=u::rwx,g::r--,o::---,o::r--" } },
    { "acl.check", "make x text; chown x 500 600; setacl x access u::rw-,u:1000:$1,g::r--,g:2000:$1,m::$2,o::---; as $3; open 1 x O_RDONLY =?; open 1 x O_WRONLY =?; access x R_OK =?; access x W_OK =?",
      { "r--|rw-|---", "rw-|r--|---", "named-user=1000:1|named-group=1001:2000|supp=1001:1:2000|owning-group=1001:600|owner=500:1|other=1001:1|root=0" } },
    { "acl.check.folder", "mkdir d; make d/f text; setacl d access u::rwx,u:1000:$1,g::---,m::rwx,o::---; as $2; ls d =?; stat d/f =?; create d/g =?; unlink d/f =?", { "rwx|r-x|--x|r--|-wx|---", "named=1000|other=1001" } },
    { "acl.chmod", "create x; setacl x access " ACL "; chmod x $1; getacl x access; stat x", { "0600|0640|0777|0707|0070" } },
    { "acl.chown", "create x; setacl x access " ACL "; chown x 5 6; getacl x access; stat x; rename x y; getacl y access; link y z; getacl z access" },
    { "acl.inherit", "mkdir d; setacl d default $1; umask $2; create d/f 0666; mkdir d/d 0777; mknod d/p p 0666; symlink t d/l; stat d/f; stat d/d; stat d/p; stat d/l; getacl d/f access =?; getacl d/d access =?; getacl d/d default =?; getacl d/p access =?",
      { "full=" ACL "|minimal=u::rwx,g::r-x,o::---|masked=u::rwx,u:1000:rwx,g::rwx,m::r--,o::r--", "0000|0022|0077" } },
    { "acl.inherit.mode", "mkdir d; setacl d default " ACL "; umask 022; create d/f $1; mkdir d/d $1; stat d/f; stat d/d; getacl d/f access =?; getacl d/d access =?", { "0000|0600|0640|0777" } },
    { "acl.inherit.open", "mkdir d; setacl d default " ACL "; umask 077; open 1 d/f O_RDWR+O_CREAT 0664; fstat 1; getacl d/f access; open 2 d O_TMPFILE+O_RDWR 0664 =?; fstat 2 =?; linkfd 2 d/g =?; getacl d/g access =?" },
    { "acl.inherit.user", "mkdir d 0777; setacl d default u::rwx,u:1000:rw-,g::r-x,m::rwx,o::---; as 1000:2000; umask 027; create d/f 0666; mkdir d/d; stat d/f; stat d/d; getacl d/f access =?" },
    { "acl.inherit.deep", "mkdir d; setacl d default " ACL "; mkdir d/a; mkdir d/a/b; create d/a/b/f 0644; getacl d/a/b default; getacl d/a/b/f access; removeacl d/a/b default; create d/a/b/g 0644; getacl d/a/b/g access = ENODATA" },
    { "acl.user", "create x; chown x 1000 1000; as 1000; setacl x access " ACL "; getacl x access; as 1001; setacl x access u::rwx,g::rwx,o::rwx = EPERM; removeacl x access = EPERM" },
    { "acl.setgid", "create x; chown x 1000 2000; chmod x 02755; as 1000:1000; setacl x access u::rwx,u:5:rwx,g::rwx,m::rwx,o::--- =?; stat x; getacl x access =?" },
    { "acl.umask", "umask 027; create f 0666; mkdir d 0777; stat f = f640:0:0:1:0; stat d; mkdir e; setacl e default u::rwx,g::rwx,o::rwx; create e/f 0666; stat e/f = f666:0:0:1:0" },
    { 0 },
};
