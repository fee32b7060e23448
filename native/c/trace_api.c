/* Traces as Python sees them (decl/dataplane.h). */
#include "dataplane.h"
#include "device.h"
#include "image_api.h"
#include "namespace.h"
#include "rafsfs.h"
#include "trace.h"

struct trace *vfs_trace_new(const struct vfs_image *image, uint32_t capacity) { return trace_new(&image->rafs, capacity); }
void vfs_trace_free(struct trace *trace) { trace_free(trace); }

uint32_t vfs_trace_read(const struct trace *trace, uint32_t from, struct vfs_trace_record *out, uint32_t limit)
{
    return trace_read(trace, from, out, limit);
}

uint64_t vfs_trace_dropped(const struct trace *trace) { return trace_dropped(trace); }
uint64_t vfs_trace_duration_ns(const struct trace *trace) { return trace_duration_ns(trace); }

int vfs_device_set_trace(struct vfs_device *device, const char *path, struct trace *trace)
{
    struct fuse_fs *fs;
    int err = namespace_find(device_namespace(device), path, &fs);

    return err ? err : rafsfs_set_trace(fs, trace);
}
