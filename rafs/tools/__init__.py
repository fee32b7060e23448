"""What is done with finished images: `check`, `inspect`, `unpack`, `export`, `diff`, `stat`, `compact`.

They read through `rafs.filesystem`, return values, and print nothing; `vhostfs/cli_*.py` shows what they
found. An image that lies costs them time and memory in proportion to its size, whatever it claims to hold.
"""
