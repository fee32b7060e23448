"""The data plane in C, and the one typed wrapper round it; no other module touches `ffi` or `lib`."""
