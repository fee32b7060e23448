"""GET /metrics of an agent: what it has fetched for all workers, as Prometheus reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rafs.backend.config import decode_backend
from rafs.backend.place import place_of
from rafs.metered import BackendStatistics
from rafs.prefetch.statistics import PrefetchStatistics
from vhostfs.api.routes import Document, Request, Route, Routes

if TYPE_CHECKING:
    from vhostfs.agent.server import Agent


def metrics_routes(agent: Agent) -> Routes:
    """The paths of the HTTP server that `--metrics` asks for."""

    async def metrics(request: Request) -> Document:
        return Document(*scrape(agent))

    return {"/metrics": {"GET": Route(metrics)}}


def scrape(agent: Agent) -> tuple[bytes, str]:
    """The text and its media type."""
    from vhostfs.prometheus import CONTENT_TYPE, BackendSample, StoreSample, exposition  # heavy

    counted = agent.figures(0, BackendStatistics(), PrefetchStatistics())
    backends = [
        BackendSample(config.type, place_of(config), statistics)
        for config, statistics in ((decode_backend(raw), of) for raw, of in agent.sources.figures())
    ]
    stores = [StoreSample(str(agent.cache_dir), counted.fetch, counted.cache)]
    return exposition(backends, stores, http=counted.http), CONTENT_TYPE
