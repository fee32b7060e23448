/* The handle behind `struct vfs_image *`. */
#ifndef VHOSTFS_IMAGE_API_H
#define VHOSTFS_IMAGE_API_H
#include "rafs_image.h"

struct vfs_image {
    struct rafs_image rafs;
};
#endif
