"""What a request of the front-end means to the device: a past fact each, with the descriptors it brings.

The device gets an event before the front-end gets its answer. A descriptor in an event still belongs to the
message it came with: the device ``take()``s it to keep it, or uses its number only until ``apply`` returns.
"""

from dataclasses import dataclass

from virtqueue.fd import Fd
from virtqueue.messages import RegionBody


@dataclass(frozen=True, slots=True)
class VirtioFeaturesSet:
    """SET_FEATURES. ``enables_vrings``: PROTOCOL_FEATURES was not taken, so every vring counts as enabled."""

    features: int
    enables_vrings: bool


@dataclass(frozen=True, slots=True)
class MemTableSet:
    """SET_MEM_TABLE: exactly these regions; ``fds`` has one for each, only lent."""

    regions: tuple[RegionBody, ...]
    fds: tuple[Fd, ...]


@dataclass(frozen=True, slots=True)
class MemRegionAdded:
    """ADD_MEM_REG; ``fd`` is only lent."""

    region: RegionBody
    fd: Fd


@dataclass(frozen=True, slots=True)
class MemRegionRemoved:
    """REM_MEM_REG."""

    region: RegionBody


@dataclass(frozen=True, slots=True)
class VringNumSet:
    """SET_VRING_NUM: entries, a power of two from 1 to 32768. A vring that runs, disabled, stops first."""

    index: int
    num: int


@dataclass(frozen=True, slots=True)
class VringAddrSet:
    """SET_VRING_ADDR: front-end user addresses, aligned as the areas must be; ``log`` is a guest address."""

    index: int
    desc: int
    used: int
    avail: int
    log: int | None


@dataclass(frozen=True, slots=True)
class VringBaseSet:
    """SET_VRING_BASE: the 16-bit available index to begin at. A vring that runs, disabled, stops first."""

    index: int
    base: int


@dataclass(frozen=True, slots=True)
class VringKickSet:
    """SET_VRING_KICK: the vring starts. ``fd`` is to be taken; None means polling."""

    index: int
    fd: Fd | None


@dataclass(frozen=True, slots=True)
class VringCallSet:
    """SET_VRING_CALL: ``fd`` is to be taken; None means that the driver polls."""

    index: int
    fd: Fd | None


@dataclass(frozen=True, slots=True)
class VringErrSet:
    """SET_VRING_ERR: ``fd`` is to be taken; None means that nobody listens."""

    index: int
    fd: Fd | None


@dataclass(frozen=True, slots=True)
class VringEnableSet:
    """SET_VRING_ENABLE. A vring that is not enabled takes nothing from the driver; its kicks are not lost."""

    index: int
    enabled: bool


@dataclass(frozen=True, slots=True)
class VringStopRequested:
    """GET_VRING_BASE: stop and answer what is in flight; the device returns its next available index."""

    index: int


@dataclass(frozen=True, slots=True)
class DeviceReset:
    """RESET_DEVICE or status 0: vrings stop and forget everything; guest memory stays (see session.py)."""


Event = (
    VirtioFeaturesSet
    | MemTableSet
    | MemRegionAdded
    | MemRegionRemoved
    | VringNumSet
    | VringAddrSet
    | VringBaseSet
    | VringKickSet
    | VringCallSet
    | VringErrSet
    | VringEnableSet
    | VringStopRequested
    | DeviceReset
)
