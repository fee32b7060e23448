"""One kernel and one base initramfs for the session; each test boots guests of its own from them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.guest import debian
from tests.guest.backend import Image
from tests.guest.kernel import Kernel
from tests.guest.programs import static_program
from tests.guest.vm import Guest


@pytest.fixture(scope="session")
def guest() -> Guest:
    """A guest with the kernel of the machine's own Debian release."""
    return Guest()


@pytest.fixture(scope="session")
def multi_queue_guest() -> Guest:
    """A guest that spreads its requests over the request queues: Linux 6.1 uses the first only, 6.12 all."""
    return Guest(kernel=Kernel.of("trixie"), cpus=2)


@pytest.fixture(scope="session")
def large_guest() -> Guest:
    """A guest that a compiler fits into."""
    return Guest(kernel=Kernel.of("trixie"), memory_mib=1024)


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes | Path]:
    """Our own programs for the guest: guest path to the compiled file."""
    folder = tmp_path_factory.mktemp("programs")
    here = Path(__file__).parent
    return {f"/bin/{name}": static_program(here / f"{name}.c", folder) for name in ("treelist", "readprobe")}


@pytest.fixture(scope="session")
def python_image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """An image of a Debian root file system with Python in it, the demo's: some 5,000 entries."""
    return Image(debian.python_root(), tmp_path_factory.mktemp("python-image"))


@pytest.fixture(scope="session")
def tools_image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """An image of a Debian root file system with a compiler, fio and stress-ng in it."""
    return Image(debian.tools_root(), tmp_path_factory.mktemp("tools-image"))
