/* The two ends of a link as Python sees them (decl/dataplane.h). */
#include <errno.h>
#include <stdlib.h>

#include "dataplane.h"
#include "link.h"

struct chunk_link *vfs_link_new(struct chunk_store *store) { return chunk_link_new(store); }
int vfs_link_renew(struct chunk_link *link) { return chunk_link_renew(link); }
int vfs_link_ask_again(struct chunk_link *link) { return chunk_link_ask_again(link); }
void vfs_link_close(struct chunk_link *link) { chunk_link_close(link); }
int vfs_link_upcall_fd(const struct chunk_link *link) { return link->upcalls.memory_fd; }
int vfs_link_event_fd(const struct chunk_link *link) { return link->upcalls.event_fd; }
int vfs_link_completion_fd(const struct chunk_link *link) { return link->completions.memory_fd; }
void vfs_blob_set_link(struct blob *blob, struct chunk_link *link, uint32_t handle) { blob_set_link(blob, link, handle); }

struct worker_rings {
    struct upcall_ring upcalls;
    struct completion_ring completions;
};

int vfs_rings_adopt(int upcall_fd, int event_fd, int completion_fd, struct worker_rings **out)
{
    struct worker_rings *rings = calloc(1, sizeof(*rings));
    int err = rings ? upcall_ring_adopt(&rings->upcalls, upcall_fd, event_fd) : -ENOMEM;

    if (!err) {
        err = completion_ring_adopt(&rings->completions, completion_fd);
        if (err)
            upcall_ring_destroy(&rings->upcalls);
    }
    if (err)
        free(rings);
    else
        *out = rings;
    return err;
}

void vfs_rings_free(struct worker_rings *rings)
{
    upcall_ring_destroy(&rings->upcalls);
    completion_ring_destroy(&rings->completions);
    free(rings);
}

int vfs_rings_event_fd(const struct worker_rings *rings) { return rings->upcalls.event_fd; }

int vfs_rings_take(struct worker_rings *rings, struct vfs_upcall *upcalls, unsigned limit, int *more)
{
    bool is_more = false;
    int taken = upcall_take(&rings->upcalls, (struct upcall_record *)upcalls, limit, &is_more);

    *more = is_more;
    return taken;
}

uint32_t vfs_rings_room(const struct worker_rings *rings) { return completion_room(&rings->completions); }

int vfs_rings_push(struct worker_rings *rings, uint32_t blob, uint32_t first, uint32_t count, int has_failed)
{
    if (!completion_room(&rings->completions))
        return -EAGAIN;
    completion_push(&rings->completions, &(struct upcall_record){ blob, first, count, has_failed != 0 });
    return 0;
}
