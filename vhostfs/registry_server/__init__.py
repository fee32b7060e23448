"""A small OCI registry: the Distribution API over a directory, for demos, tests and single hosts.

Reading order: `store` (what is in the directory), `uploads` (blobs on their way in), `manifests` (what is
taken), `server` (routes and the process).
"""
