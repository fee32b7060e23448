"""What a back-end is called by people: where its blobs are, without credentials. Pure."""

from __future__ import annotations

from rafs.backend.config import Azure, Backend, Gcs, HttpProxy, LocalDisk, LocalFs, Oss, Registry
from rafs.backend.http import host_of


def place_of(backend: Backend) -> str:
    """Two configurations may have one place; a configuration has the same one always."""
    section = backend.section
    if section is None:
        return ""
    if isinstance(section, LocalFs):
        return section.blob_file or section.dir
    if isinstance(section, LocalDisk):
        return section.device_path
    if isinstance(section, Registry):
        return f"{section.host}/{section.repo}"
    if isinstance(section, HttpProxy):
        address = section.addr.reveal()
        if address.startswith("/"):
            return address
        try:
            return host_of(address)
        except ValueError:
            return ""
    if isinstance(section, Azure):
        return f"{section.account_name}/{section.container_name}/{section.object_prefix}"
    if isinstance(section, Gcs):
        return f"{section.bucket_name}/{section.object_prefix}"
    endpoint = section.endpoint if isinstance(section, Oss) else section.endpoint or section.region
    return f"{endpoint.rpartition('@')[2]}/{section.bucket_name}/{section.object_prefix}"
