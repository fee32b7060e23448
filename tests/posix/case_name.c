/* Names: their lengths and bytes; folders of many; reading a folder that changes. See posix.h. */
#include "posix.h"

#define NAMES "1=a|254=@254|255=@255|hidden=.hidden|dots=...|star=*|space=a%20b|newline=a%0Ab|latin1=%E9t%E9|utf8=%C3%A9|high=%FF%FE|control=%01%7F|backslash=a%5Cb|quote=%22%27|dash=-rf|trailing=a.|colon=a:b|wide=%F0%9F%92%BE"

const struct test_case name_cases[] = {
    { "name.file", "create $1; stat $1; ls . =?; link $1 other; rename $1 new; rename new $1; unlink $1; ls . = [other:f]", { NAMES } },
    { "name.folder", "mkdir $1; create $1/x; ls $1 = [x:f]; symlink x $1/l; statf $1/l; unlink $1/x; unlink $1/l; rmdir $1; ls . = []", { NAMES } },
    { "name.too-long", "$1 = ENAMETOOLONG; ls .",
      { "create=create @256|mkdir=mkdir @256|mknod=mknod @256 p 0644|symlink=symlink t @256|stat=stat @256|unlink=unlink @256|rmdir=rmdir @256|open=open 1 @256 O_RDONLY|"
        "chmod=chmod @256 0644|chown=chown @256 1 1|truncate=truncate @256 0|readlink=readlink @256|ls=ls @256|setxattr=setxattr @256 user.a 1|below=create @256/x" } },
    { "name.too-long.far", "create f; rename f @256 = ENAMETOOLONG; link f @256 = ENAMETOOLONG; rename @256 f = ENAMETOOLONG; ls . = [f:f]" },
    { "name.path", "create f; stat $1f =?; chmod $1f 0600 =?; open 1 $1f O_RDONLY =?", { "4001=&2000|4095=&2047|4096=&2047/" } },
    { "name.path.deep", "mkdir @255; mkdir @255/@255; mkdir @255/@255/@255; create @255/@255/@255/@255; stat @255/@255/@255/@255; rename @255/@255/@255/@255 f; ls . =?; stat f" },
    { "name.case", "make a 1; make A 22; stat a = f644:0:0:1:1; stat A = f644:0:0:1:2; ls . = [A:f+a:f]; unlink a; stat A = f644:0:0:1:2; stat a = ENOENT" },
    { "name.normalisation", "make %C3%A9 1; stat e%CC%81 = ENOENT; make e%CC%81 22; stat %C3%A9 = f644:0:0:1:1" },
    { "name.slashes", "mkdir d; create d//f; stat d///f; stat ./d/./f; stat d/../d/f; ls d/ = [f:f]; stat d/f/ = ENOTDIR; stat d/f/.. = ENOTDIR; stat d/.." },
    { "name.negative", "stat x = ENOENT; create x; stat x = f644:0:0:1:0; unlink x; stat x = ENOENT; mkdir x; stat x =?; rmdir x; stat x = ENOENT; symlink t x; stat x; rename x y; stat x = ENOENT" },
    { "name.reused", "make x one; open 1 x O_RDONLY; unlink x; make x three; stat x = f644:0:0:1:5; pread 1 0 9 = one; fstat 1 = f644:0:0:0:3; rename x y; stat x = ENOENT; pread 1 0 9 = one" },

    { "readdir.types", "create f; mkdir d; symlink t l; mknod p p 0644; mknod s s 0644; mknod c c 0644 1 3; mknod b b 0644 7 0; mknod w c 0 0 0; ls ." },
    { "readdir.empty", "ls . = []; create x; unlink x; ls . = []; mkdir d; ls d = []" },
    { "readdir.many", "mkdir d; many d $1; count d = $1; drain d = $1; ls d = []; rmdir d", { "1|40|300|1200" } },
    { "readdir.long", "mkdir d; create d/@255; create d/a@254; create d/b@254; create d/c@254; create d/d@254; create d/e@254; ls d; unlink d/@255; ls d" },
    { "readdir.seekdir", "mkdir d; many d $1; seekdir d $1 = $1", { "2|64|500" } },
    { "readdir.churn", "mkdir d; many d $1; churn d $1 =?; count d =?", { "20|200|600" } },
    { "readdir.after-rename", "mkdir d; mkdir e; create d/a; create d/b; ls d = [a:f+b:f]; rename d/a e/a; ls d = [b:f]; ls e = [a:f]; rename e/a e/c; ls e = [c:f]" },
    { "readdir.file", "create f; ls f = ENOTDIR; ls x = ENOENT; symlink f l; ls l = ENOTDIR; open 1 f O_RDONLY+O_DIRECTORY = ENOTDIR" },
    { "readdir.unreadable", "mkdir d; create d/f; chmod d 0300; as 1000; ls d = EACCES; as 0; chmod d 0333; as 1000; ls d = EACCES; stat d/f" },
    { "readdir.opened-then-changed", "mkdir d; many d 10; open 1 d O_RDONLY+O_DIRECTORY; drain d = 10; rmdir d; fstat 1 =?; ls d = ENOENT" },
    { 0 },
};
