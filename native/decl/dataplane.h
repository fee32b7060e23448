/* What Python may see of the data plane. Read by cffi (native/build_dataplane.py) and by the C files. */
#ifndef VHOSTFS_DATAPLANE_H
#define VHOSTFS_DATAPLANE_H
#include <stdint.h>

const char *vfs_version(void);
#endif
