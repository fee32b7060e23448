#include "dataplane.h"

const char *vfs_version(void) { return "0.1.0"; }
