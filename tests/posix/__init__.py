"""What a file system has to do, as programs of ours: a table of cases (posix.h), random operations (fsx.c).

Both are C, static, and run in a guest on a shared directory and on the host on the file system below it.
"""
