"""The one place that knows all back-ends: from a configuration to the back-end that it describes.

Remote ones are imported when they are first asked for: they take long.
"""

from __future__ import annotations

from pathlib import Path

from rafs.backend.config import Backend, HttpProxy, LocalDisk, LocalFs, ObjectStore, Registry
from rafs.backend.http import HttpPool
from rafs.backend.local import LocalBackend
from rafs.backend.localdisk import LocalDiskBackend
from rafs.backend.protocol import BlobBackend
from rafs.errors import BackendConfigError


def make_backend(backend: Backend, pool: HttpPool) -> BlobBackend:
    """The back-end that a configuration describes. Raises BackendConfigError for what cannot be served.

    `pool` has the connections of the remote ones; it is the caller's, and used by others too.
    """
    section = backend.section
    if isinstance(section, LocalFs):
        blob_file = Path(section.blob_file) if section.blob_file else None
        directories = [Path(name) for name in (section.dir, *section.alt_dirs) if name]
        return LocalBackend(*directories, blob_file=blob_file)
    if isinstance(section, LocalDisk):
        return LocalDiskBackend(Path(section.device_path), disable_gpt=section.disable_gpt)
    if isinstance(section, Registry):
        from rafs.backend.registry import RegistryBackend

        return RegistryBackend(pool, section)
    if isinstance(section, ObjectStore):
        from rafs.backend.object_store import ObjectStoreBackend

        return ObjectStoreBackend(pool, section)
    if isinstance(section, HttpProxy):
        from rafs.backend.http_proxy import HttpProxyBackend

        return HttpProxyBackend(pool, section)
    raise BackendConfigError(f"backend.{backend.type} is missing, though backend.type is {backend.type!r}")
