"""OCI images: descriptors, manifests and configurations; layouts on disk."""
