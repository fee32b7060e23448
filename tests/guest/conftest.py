"""One kernel and one base initramfs for the session; each test boots guests of its own from them."""

from __future__ import annotations

import pytest

from tests.guest.kernel import Kernel
from tests.guest.vm import Guest


@pytest.fixture(scope="session")
def guest() -> Guest:
    """A guest with the kernel of the machine's own Debian release."""
    return Guest()


@pytest.fixture(scope="session")
def multi_queue_guest() -> Guest:
    """A guest that spreads its requests over the request queues: Linux 6.1 uses the first only, 6.12 all."""
    return Guest(kernel=Kernel.of("trixie"), cpus=2)
