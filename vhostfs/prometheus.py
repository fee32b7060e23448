"""The figures of a daemon in the text that Prometheus reads: a table of names, and values in, bytes out.

Counters are sums since the start. Images that share a back-end or a cache share its figures, which are given
once. Heavy to import: it waits for the first who asks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from operator import add
from typing import NamedTuple, Protocol

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from rafs.metered import LATENCY_LIMITS, SIZE_LIMITS, BackendStatistics
from rafs.prefetch.statistics import PrefetchStatistics

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


#: a size that is a limit counts in the group above it
_LARGEST = [limit - 1 for limit in SIZE_LIMITS]


class BackendFigures(Protocol):
    """rafs.metered.BackendStatistics, or what came of it from another process."""

    @property
    def reads(self) -> int: ...
    @property
    def errors_by_kind(self) -> Mapping[str, int]: ...
    @property
    def read_bytes(self) -> int: ...
    @property
    def seconds(self) -> float: ...
    @property
    def reads_by_latency_and_size(self) -> Sequence[Sequence[int]]: ...


class BackendSample(NamedTuple):
    """A back-end: its type, and its place (rafs/backend/place.py)."""

    type: str
    place: str
    figures: BackendFigures


class StoreSample(NamedTuple):
    """A cache directory: what was fetched for it, and what became of it (both by name)."""

    directory: str
    fetch: Mapping[str, int]
    cache: Mapping[str, int]


class MountSample(NamedTuple):
    """A mounted image, as its guest used it."""

    mountpoint: str
    reads: int
    missed_reads: int
    read_bytes: int
    ready_chunks: int
    chunks: int
    prefetch: PrefetchStatistics | None = None


class Row(NamedTuple):
    """How a figure is called here. `is_gauge`: it goes down too."""

    name: str
    help: str
    is_gauge: bool = False


#: of BlobStore.statistics
FETCH: dict[str, Row] = {
    "requests": Row("fetch_requests", "Ranges that were asked for of the back-end."),
    "fetched_bytes": Row("fetch_bytes", "Bytes that came from the back-end, as they are stored."),
    "fetched_chunks": Row("fetch_chunks", "Chunks that were fetched and kept."),
    "verified_chunks": Row("fetch_verified_chunks", "Fetched chunks that fit their digest."),
    "unverified_chunks": Row("fetch_unverified_chunks", "Fetched chunks for which the image has no digest."),
    "reused_chunks": Row("fetch_reused_chunks", "Missed chunks that were there when their turn came."),
    "salvaged_chunks": Row("fetch_salvaged_chunks", "Chunks that were found whole after an unclean stop."),
    "reread_chunks": Row("fetch_reread_chunks", "Chunks that did not fit and were asked for again."),
    "failed_chunks": Row("fetch_failed_chunks", "Chunks that could not be had."),
    "requests_in_flight": Row("fetch_requests_in_flight", "Ranges that are asked for now.", True),
    "requests_waiting": Row("fetch_requests_waiting", "Ranges that wait for their turn now.", True),
    "bytes_in_flight": Row("fetch_in_flight_bytes", "Memory of what is being fetched now.", True),
    "link_bytes_per_second": Row("fetch_link_bytes_per_second", "What the link to the back-end gives.", True),
    "link_latency_us": Row("fetch_link_latency_microseconds", "What it takes to answer.", True),
    "link_window_bytes": Row("fetch_link_window_bytes", "What prefetching has under way at most.", True),
    "open_blobs": Row("open_blobs", "Blobs that are in use.", True),
    "in_doubt_chunks": Row("in_doubt_chunks", "Chunks that unclean stops have put in doubt.", True),
}
#: of Governor.statistics
CACHE: dict[str, Row] = {
    "cached_bytes": Row("cache_bytes", "Bytes that the cache takes on its disk.", True),
    "memory_bytes": Row("cache_memory_bytes", "Bytes of chunks for which the disk has no room.", True),
    "evicted_chunks": Row("cache_evicted_chunks", "Chunks that made room for others."),
    "evicted_bytes": Row("cache_evicted_bytes", "Bytes of these."),
    "removed_blobs": Row("cache_removed_blobs", "Blobs that were removed as a whole."),
    "removed_bytes": Row("cache_removed_bytes", "Bytes of these."),
    "spilled_chunks": Row("cache_spilled_chunks", "Chunks that were kept in memory, as the disk was full."),
    "spilled_bytes": Row("cache_spilled_bytes", "Bytes of these."),
    "scrubbed_bytes": Row("cache_scrubbed_bytes", "Bytes on the disk that were compared with their digests."),
    "corrupt_chunks": Row("cache_corrupt_chunks", "Chunks on the disk that did not fit their digest."),
    "healed_chunks": Row("cache_healed_chunks", "Such chunks that were fetched again."),
    "deduplicated_chunks": Row("cache_deduplicated_chunks", "Chunks that another blob there had already."),
    "deduplicated_bytes": Row("cache_deduplicated_bytes", "Bytes of these."),
    "saved_bytes": Row("cache_saved_bytes", "Bytes that were not fetched, thanks to these."),
    "cloned_bytes": Row("cache_cloned_bytes", "Of their bytes, those that share blocks on the disk."),
}
#: of PrefetchStatistics
PREFETCH: dict[str, Row] = {
    "requests": Row("prefetch_requests", "Ranges that were asked for ahead of need."),
    "read_bytes": Row("prefetch_bytes", "Bytes of these, as they are stored."),
    "chunks": Row("prefetch_chunks", "Chunks that were fetched ahead of need."),
    "failed_requests": Row("prefetch_failed_requests", "Requests for prefetching that failed."),
    "judged": Row("prefetch_judged_chunks", "Chunks fetched by a trace that should have been read by now."),
    "useful": Row("prefetch_useful_chunks", "Of these, chunks that were read."),
    "workers": Row("prefetch_workers", "Requests for prefetching at once; 0: there are no more.", True),
    "was_stopped": Row("prefetch_was_stopped", "1: it gave up, as the log says.", True),
}
#: of HttpPool.counters; failures are by kind, answers by class
HTTP: dict[str, Row] = {
    "requests": Row("http_requests", "Requests to servers of remote back-ends."),
    "retries": Row("http_retries", "Rounds of requests that were made again."),
    "token_requests": Row("http_token_requests", "Requests to token servers."),
}


def exposition(
    backends: Iterable[BackendSample] = (),
    stores: Iterable[StoreSample] = (),
    mounts: Iterable[MountSample] = (),
    http: Mapping[str, int] | None = None,
) -> bytes:
    """All of it as text. Back-ends of one type and place are added up; nothing else may come twice."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    families = [*_of_backends(backends), *_of_stores(stores), *_of_mounts(mounts), *_of_http(http)]
    registry.register(_Families(families))
    return generate_latest(registry)


class _Families:
    """What a registry asks."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _of_backends(samples: Iterable[BackendSample]) -> list[Metric]:
    labels = ["type", "place"]
    reads = CounterMetricFamily("vhostfs_backend_reads", "Reads of the back-end.", labels=labels)
    read_bytes = CounterMetricFamily("vhostfs_backend_read_bytes", "Bytes that they gave.", labels=labels)
    errors = CounterMetricFamily(
        "vhostfs_backend_errors",
        "Reads that failed, when all was tried, by whose fault it is.",
        labels=[*labels, "kind"],
    )
    seconds = HistogramMetricFamily(
        "vhostfs_backend_read_seconds", "How long reads took that did not fail.", labels=labels
    )
    sizes = HistogramMetricFamily(
        "vhostfs_backend_read_size_bytes", "How much reads gave that did not fail.", labels=labels
    )
    for (kind_of, place), figures in _added_up(samples).items():
        values = [kind_of, place]
        table = figures.reads_by_latency_and_size
        reads.add_metric(values, figures.reads)
        read_bytes.add_metric(values, figures.read_bytes)
        for kind, count in sorted(figures.errors_by_kind.items()):
            errors.add_metric([*values, kind], count)
        seconds.add_metric(values, _buckets(LATENCY_LIMITS, [sum(row) for row in table]), figures.seconds)
        by_size = [sum(column) for column in zip(*table, strict=True)]
        sizes.add_metric(values, _buckets(_LARGEST, by_size), figures.read_bytes)
    return [reads, read_bytes, errors, seconds, sizes]


def _added_up(samples: Iterable[BackendSample]) -> dict[tuple[str, str], BackendStatistics]:
    """Back-ends that differ in what is not shown, as in credentials."""
    sums: dict[tuple[str, str], BackendStatistics] = {}
    for kind, place, figures in samples:
        total = sums.setdefault((kind, place), BackendStatistics())
        total.reads += figures.reads
        total.errors_by_kind.update(figures.errors_by_kind)
        total.read_bytes += figures.read_bytes
        total.seconds += figures.seconds
        for row, more in zip(total.reads_by_latency_and_size, figures.reads_by_latency_and_size, strict=True):
            row[:] = map(add, row, more)
    return sums


def _buckets(limits: Sequence[float], counts: Sequence[int]) -> list[tuple[str, float]]:
    """Cumulated, as Prometheus wants them; the last group has no limit."""
    found, total = [], 0
    for limit, count in zip([*map(str, map(float, limits)), "+Inf"], counts, strict=True):
        total += count
        found.append((limit, float(total)))
    return found


def _of_stores(samples: Iterable[StoreSample]) -> list[Metric]:
    samples = list(samples)
    families = [
        _family(row, ["cache"], [([sample.directory], sample.fetch.get(name)) for sample in samples])
        for name, row in FETCH.items()
    ]
    return families + [
        _family(row, ["cache"], [([sample.directory], sample.cache.get(name)) for sample in samples])
        for name, row in CACHE.items()
    ]


def _of_mounts(samples: Iterable[MountSample]) -> list[Metric]:
    samples = list(samples)
    rows = {
        "reads": Row("mount_reads", "Reads of files by the guest."),
        "missed_reads": Row("mount_missed_reads", "Reads that waited for a chunk."),
        "read_bytes": Row("mount_read_bytes", "Bytes that reads returned."),
        "ready_chunks": Row("mount_ready_chunks", "Chunks of the image that are in the cache.", True),
        "chunks": Row("mount_chunks", "Chunks of the image.", True),
    }
    families = [
        _family(row, ["mountpoint"], [([sample.mountpoint], getattr(sample, name)) for sample in samples])
        for name, row in rows.items()
    ]
    ahead = [sample for sample in samples if sample.prefetch is not None and sample.prefetch.began_at]
    return families + [
        _family(
            row, ["mountpoint"], [([sample.mountpoint], getattr(sample.prefetch, name)) for sample in ahead]
        )
        for name, row in PREFETCH.items()
    ]


def _of_http(counters: Mapping[str, int] | None) -> list[Metric]:
    if counters is None:
        return []
    families = [_family(row, [], [([], counters.get(name, 0))]) for name, row in HTTP.items()]
    failures = Row("http_failures", "Requests that gave no use, by whose fault it is.")
    answers = Row("http_answers", "Answers by the class of their status.")
    failed = [([name[7:]], count) for name, count in sorted(counters.items()) if name.startswith("failed_")]
    classes = [([name], count) for name, count in sorted(counters.items()) if name.endswith("xx")]
    return [*families, _family(failures, ["kind"], failed), _family(answers, ["status"], classes)]


def _family(row: Row, labels: list[str], samples: Iterable[tuple[list[str], int | None]]) -> Metric:
    kind = GaugeMetricFamily if row.is_gauge else CounterMetricFamily
    family = kind(f"vhostfs_{row.name}", row.help, labels=labels)
    for values, value in samples:
        if value is not None:
            family.add_metric(values, value)
    return family
