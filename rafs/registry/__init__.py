"""OCI registries: names of images, credentials and tokens, a client of one repository."""
