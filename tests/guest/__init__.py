"""A real Linux guest under QEMU, for the tests, the demo and the benchmarks.

In reading order: `debian` (packages, unpacked into the cache and never installed), `kernel` (image and
modules), `initramfs` (what the guest boots from), `vm` (one run of a script in a guest), `backend` (the
daemon behind the guest's virtio-fs device). It stands under tests because no installed program needs it;
bench/ imports it from here.
"""
