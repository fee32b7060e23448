"""Figures in the shapes that nydusd's clients parse (contract 4.7). Array lengths are theirs. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from native.dataplane import MountStatistics
    from rafs.prefetch.statistics import PrefetchStatistics
    from vhostfs.agent.protocol import BackendFigures, Figures
    from vhostfs.rafs_instance import RafsInstance

#: of the arrays of operations, and of those by size or latency
OPERATIONS = 15
BUCKETS = 8
_PREFETCH = (
    "prefetch_data_amount",
    "prefetch_requests_count",
    "prefetch_workers",
    "prefetch_unmerged_chunks",
    "prefetch_cumulative_time_millis",
    "prefetch_begin_time_secs",
    "prefetch_begin_time_millis",
    "prefetch_end_time_secs",
    "prefetch_end_time_millis",
)


def files(mountpoint: str, statistics: MountStatistics) -> dict[str, Any]:
    """GET /api/v1/metrics. Latencies are not measured, and the answer says so."""
    return {
        "files_account_enabled": False,
        "access_pattern_enabled": False,
        "record_latest_read_files_enabled": False,
        "measure_latency": False,
        "id": mountpoint,
        "nr_opens": statistics.opens,
        "data_read": statistics.read_bytes,
        "block_count_read": list(statistics.read_sizes),
        "fop_hits": list(statistics.hits),
        "fop_errors": list(statistics.errors),
        "fop_cumulative_latency_total": [0] * OPERATIONS,
        "read_latency_dist": [0] * BUCKETS,
    }


def blob_cache(instance: RafsInstance, figures: Figures) -> dict[str, Any]:
    """GET /api/v1/metrics/blobcache. A hit is a read that waited for nothing."""
    statistics = instance.counters.read()
    states = [(blob.native.ready_count(), blob.native.chunk_count) for blob in instance.blobs]
    return {
        "underlying_files": [f"{blob.blob_id}.blob.data" for blob in instance.blobs],
        "store_path": str(instance.cache_dir),
        "partial_hits": statistics.missed_reads,
        "whole_hits": statistics.reads - statistics.missed_reads,
        "total": statistics.reads,
        "entries_count": sum(ready for ready, _ in states),
        **_prefetch(figures.prefetch),
        "buffered_backend_size": figures.fetch.get("bytes_in_flight", 0),
        "data_all_ready": all(ready == total for ready, total in states),
    }


def _prefetch(statistics: PrefetchStatistics) -> dict[str, int]:
    """Times are of the clock, in two parts. All is zero where nothing is prefetched."""
    began_ms, ended_ms = int(statistics.began_at * 1000), int(statistics.ended_at * 1000)
    figures = (
        statistics.read_bytes,
        statistics.requests,
        statistics.workers,
        statistics.unmerged_chunks,
        int(statistics.seconds * 1000),
        *divmod(began_ms, 1000),
        *divmod(ended_ms, 1000),
    )
    return dict(zip(_PREFETCH, figures, strict=True))


def backend(kind: str, statistics: BackendFigures) -> dict[str, Any]:
    """GET /api/v1/metrics/backend."""
    return {
        "backend_type": kind,
        "read_count": statistics.reads,
        "read_errors": statistics.errors,
        "read_errors_by_kind": dict(statistics.errors_by_kind),  # ours
        "read_amount_total": statistics.read_bytes,
        "read_cumulative_latency_millis_total": int(statistics.seconds * 1000),
        "read_cumulative_latency_millis_dist": [int(s * 1000) for s in statistics.seconds_by_size],
        "read_count_block_size_dist": list(statistics.reads_by_size),
        "read_latency_sizes_dist": [list(row) for row in statistics.reads_by_latency_and_size],
    }


def super_block(instance: RafsInstance) -> Mapping[str, Any]:
    """GET /api/v1/daemon/backend: what the image's super block says."""
    image = instance.image
    return {
        "version": "v6",
        "root_inode": image.root_nid,
        "inodes_count": image.inode_count,
        "chunk_size": image.chunk_size,
        "flags": image.flags,
        "blob_count": image.blob_count,
        "meta_size": image.size,
    }
