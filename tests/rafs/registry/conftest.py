"""Every test here has short pauses and no credentials of its user."""

from tests.fakes.quick import no_docker_config, short_pauses

__all__ = ["no_docker_config", "short_pauses"]
