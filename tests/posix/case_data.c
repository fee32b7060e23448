/* Bytes: writing, reading, mapping, holes, fallocate, copying. See posix.h. */
#include "posix.h"

#define OPEN "open 1 x O_RDWR+O_CREAT; "

const struct test_case data_cases[] = {
    { "data.write", OPEN "pwrite 1 $1 a $2; stat x; pread 1 0 3m; lseek 1 0 SEEK_END", { "0|1|4095|4k|100000", "1|4095|4k|4097|128k|1m|1100000" } },
    { "data.overwrite", OPEN "pwrite 1 0 a 64k; pwrite 1 $1 b $2; pread 1 0 128k; close 1; open 1 x O_RDONLY; pread 1 0 128k", { "0|1|4095|65535|65536|70000", "1|4096|5000" } },
    { "data.read", OPEN "pwrite 1 0 a 10k; pread 1 $1 $2; fsync 1; pread 1 $1 $2", { "0|1|4095|10239|10k|20k", "0|1|4k|64k" } },
    { "data.read.position", "make x abcdefgh; open 1 x O_RDONLY; read 1 2 = ab; read 1 3 = cde; lseek 1 0 SEEK_CUR = 5; lseek 1 -1 SEEK_END = 7; read 1 9 = h; read 1 9 = nothing; lseek 1 100 SEEK_SET = 100; read 1 1 = nothing; lseek 1 -1 SEEK_SET = EINVAL" },
    { "data.write.position", OPEN "write 1 abc; lseek 1 1 SEEK_SET; write 1 X; write 1 YZ; lseek 1 0 SEEK_CUR = 4; pread 1 0 9 = aXYZ; lseek 1 10 SEEK_SET; write 1 end; stat x = f644:0:0:1:13; pread 1 4 6 = 6*0" },
    { "data.reopen", OPEN "pwrite 1 0 text; close 1; open 2 x O_RDWR; pread 2 0 9 = text; pwrite 2 0 TE; close 2; open 1 x O_RDONLY; pread 1 0 9 = TExt" },
    { "data.fsync", OPEN "pwrite 1 0 a 100k; fsync 1; pwrite 1 50k b 1k; fdatasync 1; fsync 1; pread 1 0 100k; mkdir d; open 2 d O_RDONLY; fsync 2; fdatasync 2" },
    { "data.negative", OPEN "pread 1 -1 1 = EINVAL; pwrite 1 -1 a = EINVAL" },
    { "data.limit", OPEN "pwrite 1 17592186040319 a =?; pwrite 1 17592186044415 a =?; stat x; pread 1 9223372036854775807 1 =?; pwrite 1 9223372036854775807 a =?" },

    { "hole.read", OPEN "pwrite 1 100k a 10k; pread 1 0 120k; stat x; sparse x = 1; fsync 1; sparse x = 1" },
    { "hole.extents", OPEN "pwrite 1 0 a 64k; pwrite 1 256k b 64k; ftruncate 1 512k; fsync 1; extents 1" },
    { "hole.seek", OPEN "pwrite 1 64k a 64k; ftruncate 1 256k; fsync 1; lseek 1 $1 =?", { "data-0=0 SEEK_DATA|data-64k=64k SEEK_DATA|data-100000=100000 SEEK_DATA|data-128k=128k SEEK_DATA|data-256k=256k SEEK_DATA|data-300k=300k SEEK_DATA|hole-0=0 SEEK_HOLE|hole-64k=64k SEEK_HOLE|hole-128k=128k SEEK_HOLE|hole-256k=256k SEEK_HOLE|data-neg=-1 SEEK_DATA|hole-neg=-1 SEEK_HOLE" } },
    { "hole.seek.empty", OPEN "lseek 1 0 SEEK_DATA = ENXIO; lseek 1 0 SEEK_HOLE =?; ftruncate 1 1m; lseek 1 0 SEEK_DATA = ENXIO; lseek 1 0 SEEK_HOLE = 0; extents 1 = none" },
    { "hole.seek.folder", "mkdir d; open 1 d O_RDONLY; lseek 1 0 SEEK_DATA =?; lseek 1 0 SEEK_HOLE =?" },
    { "hole.seek.position", OPEN "pwrite 1 64k a 64k; fsync 1; lseek 1 0 SEEK_DATA = 65536; read 1 1 = a; lseek 1 0 SEEK_CUR = 65537" },
    { "hole.seek.unsynced", OPEN "pwrite 1 64k a 64k; ftruncate 1 256k; lseek 1 0 SEEK_DATA = 65536; lseek 1 64k SEEK_HOLE = 131072" },

    { "fallocate", OPEN "pwrite 1 0 a 20k; fallocate 1 $1 $2 =?; stat x; pread 1 0 100k; fsync 1; extents 1",
      { "grow=0|KEEP_SIZE|PUNCH|ZERO|zero-keep=ZERO+KEEP_SIZE", "start=0 4k|inside=4k 8k|odd=100 5000|end=16k 8k|beyond=40k 8k|all=0 20k" } },
    { "fallocate.shift", OPEN "pwrite 1 0 a 8k; pwrite 1 8k b 8k; pwrite 1 16k c 8k; fallocate 1 $1 =?; stat x; pread 1 0 100k", { "collapse=COLLAPSE 8k 8k|collapse-end=COLLAPSE 16k 8k|collapse-odd=COLLAPSE 100 200|insert=INSERT 8k 8k|insert-odd=INSERT 1 1|insert-end=INSERT 24k 8k" } },
    { "fallocate.bad", OPEN "fallocate 1 0 0 0 = EINVAL; fallocate 1 0 -1 1 = EINVAL; fallocate 1 0 0 -1 = EINVAL; fallocate 1 PUNCH_ONLY 0 1 =?; fallocate 1 0x80 0 1 =?; fallocate 1 0 9223372036854775807 1 =?; mkdir d; open 2 d O_RDONLY; fallocate 2 0 0 1 =?" },
    { "fallocate.keep", OPEN "fallocate 1 KEEP_SIZE 0 1m; stat x = f644:0:0:1:0; sparse x = 0; pwrite 1 0 a; stat x = f644:0:0:1:1; pread 1 0 9 = a" },
    { "fallocate.empty", OPEN "fallocate 1 0 0 1m; stat x = f644:0:0:1:1048576; sparse x = 0; pread 1 0 9 = 9*0; fallocate 1 PUNCH 0 1m; sparse x = 1; stat x = f644:0:0:1:1048576" },
    { "fallocate.then-map", OPEN "fallocate 1 0 0 64k; map 1 64k; poke 1 100 text; peek 1 100 4 = text; msync 1; fallocate 1 PUNCH 0 4k; peek 1 100 4 = 4*0; pread 1 100 4 = 4*0" },

    { "copy", "open 1 x O_RDWR+O_CREAT; open 2 y O_RDWR+O_CREAT; pwrite 1 0 a 10k; pwrite 1 5k b 100; pwrite 2 0 z 8k; copy 1 $1 2 $2 =?; stat y; pread 2 0 100k; stat x",
      { "0|1|5k|10k|20k", "start=0 10k|over=4k 10k|behind=20k 3k|one=0 1|none=0 0" } },
    { "copy.self", "open 1 x O_RDWR+O_CREAT; pwrite 1 0 a 4k; pwrite 1 4k b 4k; copy 1 0 1 $1 =?; pread 1 0 64k; stat x", { "overlap=2k 4k|apart=8k 8k|same=0 4k|touching=4k 4k" } },
    { "copy.modes", "make x text; make y other; open 1 x $1; open 2 y $2; copy 1 0 2 0 4 =?; stat y", { "O_RDONLY|O_WRONLY|O_RDWR", "O_RDONLY|O_WRONLY|O_RDWR|O_WRONLY+O_APPEND" } },
    { "copy.kinds", "mkdir d; make y other; open 1 d O_RDONLY; open 2 y O_RDWR; copy 1 0 2 0 4 =?; mknod p p 0644; open 3 p O_RDWR; copy 3 0 2 0 4 =?; copy 2 0 3 0 4 =?" },
    { "copy.large", "open 1 x O_RDWR+O_CREAT; pwrite 1 0 a 3m; pwrite 1 1m b 1m; open 2 y O_RDWR+O_CREAT; copy 1 0 2 0 3m = 3145728; pread 2 0 4m; copy 1 1m 2 100 1m = 1048576; pread 2 0 4m" },
    { "copy.unsynced", "open 1 x O_RDWR+O_CREAT; open 2 y O_RDWR+O_CREAT; pwrite 1 0 a 8k; map 1 8k; poke 1 4k text; pwrite 2 0 z 16k; pread 2 0 16k; copy 1 0 2 4k 8k = 8192; pread 2 0 16k; pread 2 8k 4 = text" },
    { "copy.bad", "make x text; open 1 x O_RDWR; copy 1 -1 1 0 1 =?; copy 1 0 1 -1 1 =?" },

    { "mmap.shared", OPEN "pwrite 1 0 a 8k; map 1 8k; peek 1 4k 1 = a; poke 1 4096 hello; pread 1 4096 5 = hello; msync 1; open 2 x O_RDONLY; pread 2 4096 5 = hello; unmap 1; pread 2 4096 5 = hello; stat x" },
    { "mmap.private", OPEN "pwrite 1 0 a 8k; map 1 8k private; poke 1 0 hello; peek 1 0 5 = hello; pread 1 0 5 = aaaaa; unmap 1; pread 1 0 5 = aaaaa" },
    { "mmap.write-then-seen", OPEN "pwrite 1 0 a 8k; map 1 8k; pwrite 1 100 text; peek 1 100 4 = text; open 2 x O_RDWR; pwrite 2 5000 more; peek 1 5000 4 = more" },
    { "mmap.beyond-end", OPEN "pwrite 1 0 a 100; map 1 8k; peek 1 100 3996 = 3996*0; fork peek 1 4k 1 = SIGBUS; ftruncate 1 8k; peek 1 4k 1 = 1*0; poke 1 8000 z; msync 1; pread 1 8000 1 = z; ftruncate 1 4k; fork peek 1 5k 1 = SIGBUS" },
    { "mmap.tail", OPEN "pwrite 1 0 a 100; map 1 4k; poke 1 200 zzz; msync 1; stat x = f644:0:0:1:100; ftruncate 1 300; pread 1 150 100 = 100*0" },
    { "mmap.two", OPEN "open 2 x O_RDWR; pwrite 1 0 a 4k; map 1 4k; map 2 4k; poke 1 10 one; peek 2 10 3 = one; poke 2 10 two; peek 1 10 3 = two; fork poke 1 10 six; peek 2 10 3 = six" },
    { "mmap.closed", OPEN "pwrite 1 0 a 4k; map 1 4k; close 1; poke 1 0 text; msync 1; unlink x; peek 1 0 4 = text; poke 1 0 TEXT; msync 1; peek 1 0 4 = TEXT" },
    { "mmap.truncated", OPEN "pwrite 1 0 a 12k; map 1 12k; ftruncate 1 4k; ftruncate 1 12k; peek 1 4k 8k = 8192*0; peek 1 0 1 = a" },
    { "mmap.hole", OPEN "ftruncate 1 1m; map 1 1m; peek 1 512k 10 = 10*0; poke 1 512k text; msync 1; fsync 1; pread 1 512k 4 = text; lseek 1 0 SEEK_DATA = 524288; sparse x = 1" },
    { "mmap.exec", "program x 0755; exec x = 0; rename x y; exec y = 0; open 1 y O_RDONLY; map 1 4k; unlink y; fork peek 1 1 3 = ELF" },
    { 0 },
};
