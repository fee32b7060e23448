"""Every test here has short pauses and no credentials of its user."""

from collections.abc import Iterator

import pytest

from tests.fakes.blob_readers import BLOB_ID, CONTENT
from tests.fakes.quick import no_docker_config, short_pauses
from tests.fakes.s3_server import S3Server, s3_server

__all__ = ["no_docker_config", "short_pauses"]


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """An object store with CONTENT in its bucket; it takes seconds to start."""
    with s3_server({"bucket": {BLOB_ID: CONTENT, f"images/{BLOB_ID}": b"prefixed"}}) as server:
        yield server
