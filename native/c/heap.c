/* The process's own heap. */
#include <malloc.h>

#include "dataplane.h"

void vfs_heap_trim(void) { (void)malloc_trim(0); }
