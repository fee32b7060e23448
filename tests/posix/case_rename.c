/* rename and its flags. See posix.h. */
#include "posix.h"

#define FROM "file=make a text|empty=mkdir a|full=mkdir a;create a/x|symlink=symlink t a|pipe=mknod a p 0644|nothing="
#define TO "file=make b other|empty=mkdir b|full=mkdir b;create b/y|symlink=symlink t b|nothing="
#define FLAGS "plain=|noreplace=NOREPLACE|exchange=EXCHANGE|whiteout=WHITEOUT"

const struct test_case rename_cases[] = {
    { "rename", "$1; $2; rename a b $3 =?; ls .; stat a =?; stat b =?", { FROM, TO, FLAGS } },
    { "rename.between", "mkdir d; mkdir e; cd d; $1; cd ../e; $2; cd ..; rename d/a e/b $3 =?; ls d; ls e; stat e/b =?; stat d; stat e", { FROM, TO, FLAGS } },
    { "rename.flags.bad", "create a; create b; rename a b $1 = EINVAL; ls . = [a:f+b:f]", { "both=NOREPLACE+EXCHANGE|whiteout-exchange=WHITEOUT+EXCHANGE|unknown=8|high=0x80000000" } },
    { "rename.whiteout", "make a text; rename a b WHITEOUT; stat a = c0:0:0:1:0.0; stat b = f644:0:0:1:4; unlink a; ls . = [b:f]" },
    { "rename.whiteout.folder", "mkdir a; create a/x; rename a b WHITEOUT; stat a = c0:0:0:1:0.0; ls b = [x:f]" },
    { "rename.whiteout.user", "chmod . 0777; as 1000; make a text; rename a b WHITEOUT =?; as 0; ls ." },
    { "rename.itself", "make a text; rename a a; rename a a NOREPLACE = EEXIST; rename a a EXCHANGE =?; stat a = f644:0:0:1:4; mkdir d; rename d d; rename . . =?; rename d/. e =?; rename d d/. =?" },
    { "rename.hardlink", "make a text; link a b; rename a b; ls . = [a:f+b:f]; stat a = f644:0:0:2:4; rename a b EXCHANGE; rename a b NOREPLACE = EEXIST" },
    { "rename.into-itself", "mkdir d; mkdir d/e; rename d d/x = EINVAL; rename d d/e = EINVAL; rename d d/e/f = EINVAL; rename d/e d = ENOTEMPTY; ls d = [e:d]; rename d d/e EXCHANGE = EINVAL" },
    { "rename.folder.parent", "mkdir a; mkdir b; mkdir a/d; stat a; stat b; rename a/d b/d; stat a; stat b; create b/d/f; same b/d/.. b = 1; rename b/d d; same d/.. . = 1" },
    { "rename.folder.cwd", "mkdir a; mkdir b; mkdir a/d; cd a/d; rename ../../a/d ../../b/e; create f; ls ../../b/e = [f:f]; same .. ../../b = 1" },
    { "rename.over.nlink", "make a text; make b other; link b c; stat c = f644:0:0:2:5; rename a b; stat c = f644:0:0:1:5; stat b = f644:0:0:1:4" },
    { "rename.over.open", "make a text; make b other; open 1 b O_RDWR; rename a b; pread 1 0 9 = other; fstat 1 = f644:0:0:0:5; pwrite 1 0 O = 1; stat b = f644:0:0:1:4; open 2 b O_RDONLY; pread 2 0 9 = text" },
    { "rename.open", "make a text; open 1 a O_RDWR; rename a b; pwrite 1 0 TE = 2; stat b; open 2 b O_RDONLY; pread 2 0 9 = TExt; fstat 1 = f644:0:0:1:4" },
    { "rename.times", "mkdir d; mkdir e; create d/a; mark d/a; rename d/a e/a; fork stat e/a; mark d; rename e/a d/a; changed d = mc; mark e; rename d/a e/b; changed e = mc" },
    { "rename.ctime", "create a; mark a; rename a b; link b a; changed a = c" },
    { "rename.missing", "rename a b = ENOENT; create a; rename a d/b = ENOENT; rename d/a b = ENOENT; create f; rename a f/b = ENOTDIR; rename f/a b = ENOTDIR" },
    { "rename.slash", "create a; mkdir d; rename a b/ = ENOTDIR; rename a/ b = ENOTDIR; rename d e/; rename e/ d; ls . = [a:f+d:d]" },
    { "rename.dots", "create a; mkdir d; rename a . =?; rename a .. =?; rename . a =?; rename d/.. x =?; rename d .. =?; ls . = [a:f+d:d]" },
    { "rename.symlink", "make f text; symlink f l; rename l m; readlink m = f; stat f = f644:0:0:1:4; make g other; rename g m; stat m = f644:0:0:1:5" },
    { "rename.through-symlink", "mkdir d; make d/f text; symlink d l; rename l/f l/g; ls d = [g:f]; rename l/g h; ls . = [d:d+h:f+l:l]" },
    { "rename.exchange.kinds", "mkdir d; create d/x; symlink t l; rename d l EXCHANGE; ls . = [d:l+l:d]; ls l = [x:f]; readlink d = t" },
    { "rename.exchange.folders", "mkdir a; mkdir b; mkdir a/1; create b/2; rename a/1 b EXCHANGE =?; ls . ; ls a; ls b; same a/1/.. a =?" },
    { "rename.exchange.parent", "mkdir a; mkdir a/x; mkdir b; create b/y; create b/z; rename a/x b/y EXCHANGE; ls a; ls b; stat a; stat b" },
    { "rename.exchange.missing", "create a; rename a b EXCHANGE = ENOENT; rename b a EXCHANGE = ENOENT; ls . = [a:f]" },
    { "rename.xattr", "create a; setxattr a user.k v; setcap a; rename a b; getxattr b user.k = v; getcap b; chmod b 06755; rename b c; stat c; getcap c" },
    { "rename.many", "mkdir d; many d 100; rename d e; count e = 100; mkdir d; rename e d/e; count d/e = 100; drain d/e = 100" },
    { "rename.replaced-by-folder", "create a; open 1 a O_RDWR; unlink a; mkdir a; create a/x; ls a = [x:f]; stat a; fstat 1 = f644:0:0:0:0; rename a b; create a; stat a = f644:0:0:1:0; stat b" },
    { "rename.user", "mkdir d 0755; create d/f; chown d/f 1000 1; as 1000; rename d/f d/g = EACCES; rename d/f e = EACCES; as 0; chmod d 0777; as 1000; rename d/f d/g; rename d/g e = EACCES" },
    { 0 },
};
