"""The image of the daemons' tests."""

from tests.vhostfs.conftest import image

__all__ = ["image"]
