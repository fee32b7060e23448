"""What the agent of a cache directory keeps in its sandbox.

It speaks to registries, so it keeps the network, name resolution, certificates and Docker's logins; it
writes its cache, and reads Python's modules, for it imports late. It has no capability, no device, and no
mount of any guest. What back-ends read besides it reads by descriptors that workers opened, so no path of
theirs is in reach; Landlock, which would forbid that too, bounds what may be written.
"""

from __future__ import annotations

from pathlib import Path

from rafs.registry.credentials import docker_config_directories
from vhostfs.sandbox_nydusd import code_directories
from vhostfs.sandbox_options import SandboxOptions
from vhostfs.sandbox_policy import ALWAYS, Place, SandboxPolicy, Use, chosen_places

#: What name resolution and TLS read. Directories, where files are replaced while we run.
NETWORK = [
    Path(path)
    for path in (
        "/etc/resolv.conf",
        "/etc/hosts",
        "/etc/host.conf",
        "/etc/nsswitch.conf",
        "/etc/gai.conf",
        "/etc/services",
        "/run/systemd/resolve",
        "/run/NetworkManager",
        "/run/resolvconf",
        "/etc/ssl",
        "/etc/pki",
        "/etc/ca-certificates",
        "/etc/crypto-policies",
        "/usr/share/ca-certificates",
        "/usr/local/share/ca-certificates",
        "/usr/share/pki",
        "/usr/lib/ssl",
        "/etc/localtime",
        "/usr/share/zoneinfo",
    )
]


def agent_policy(cache_dir: Path, chosen: SandboxOptions) -> SandboxPolicy:
    """What `vhostfs agent` keeps. `cache_dir` is absolute and exists."""
    places = [Place(cache_dir, Use.WRITE)]
    places += [Place(path, Use.READ) for path in (*NETWORK, *docker_config_directories())]
    places += [Place(path, Use.CODE) for path in code_directories()]
    return SandboxPolicy(
        places=(*places, *ALWAYS, *chosen_places(chosen)),
        network=True,
        late_code=True,
        reads_by_descriptor=True,
        off=chosen.off,
    )
