"""Feature bits: of virtio (the driver and the device agree on them) and of the vhost-user protocol. Pure."""

from enum import IntFlag


class VirtioFeature(IntFlag):
    """Bits of GET_FEATURES / SET_FEATURES that matter to a virtio-fs back-end."""

    LOG_ALL = 1 << 26
    RING_INDIRECT_DESC = 1 << 28
    RING_EVENT_IDX = 1 << 29
    PROTOCOL_FEATURES = 1 << 30  # not of virtio: front-end and back-end talk of protocol features
    VERSION_1 = 1 << 32


class ProtocolFeature(IntFlag):
    """Bits of GET_PROTOCOL_FEATURES / SET_PROTOCOL_FEATURES that we know."""

    MQ = 1 << 0
    LOG_SHMFD = 1 << 1
    REPLY_ACK = 1 << 3
    BACKEND_REQ = 1 << 5
    CONFIG = 1 << 9
    INFLIGHT_SHMFD = 1 << 12
    RESET_DEVICE = 1 << 13
    INBAND_NOTIFICATIONS = 1 << 14
    CONFIGURE_MEM_SLOTS = 1 << 15
    STATUS = 1 << 16
