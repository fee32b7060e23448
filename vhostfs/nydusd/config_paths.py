"""The files and directories that a configuration names: what a sandbox has to show."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rafs.backend.config import Backend, Gcs, HttpProxy, LocalDisk, LocalFs
from vhostfs.defaults import default_cache_dir
from vhostfs.nydusd.config import Config


def read_paths(config: Config) -> Iterator[Path]:
    """What is read: blobs on this machine, certificates, the socket of a proxy."""
    if config.backend is not None:
        yield from map(Path, backend_files(config.backend))


def backend_files(backend: Backend) -> Iterator[str]:
    """The same of a back-end, as its configuration spells it."""
    section = backend.section
    names: list[str] = []
    if isinstance(section, LocalFs):
        names = [section.blob_file, section.dir, *section.alt_dirs]
    elif isinstance(section, LocalDisk):
        names = [section.device_path]
    elif section is not None:
        names = [*section.ca_cert_files, section.client_cert_file, section.client_key_file]
        if isinstance(section, HttpProxy) and section.addr.reveal().startswith("/"):
            names.append(section.addr.reveal())
        elif isinstance(section, Gcs):
            names.append(section.service_account_file)
    yield from (name for name in names if name)


def cache_path(config: Config) -> Path:
    """The directory of the cache, which is written."""
    files = config.cache.filecache if config.cache is not None else None
    return Path(files.work_dir) if files is not None and files.work_dir else default_cache_dir()
