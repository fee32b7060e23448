"""``Offer``: what this back-end offers to every front-end: features, vrings, config space. Pure."""

import struct
from dataclasses import dataclass

from virtqueue.features import ProtocolFeature, VirtioFeature

MAX_REQUEST_QUEUES = 64
MAX_TAG_BYTES = 36

VIRTIO_FEATURES = (
    VirtioFeature.VERSION_1
    | VirtioFeature.RING_INDIRECT_DESC
    | VirtioFeature.RING_EVENT_IDX
    | VirtioFeature.PROTOCOL_FEATURES
)
PROTOCOL_FEATURES = (
    ProtocolFeature.MQ
    | ProtocolFeature.REPLY_ACK
    | ProtocolFeature.RESET_DEVICE
    | ProtocolFeature.CONFIGURE_MEM_SLOTS
    | ProtocolFeature.STATUS
)


@dataclass(frozen=True, slots=True)
class Offer:
    """The device as a front-end sees it. ``config_space`` is empty when the front-end owns it."""

    vring_count: int
    virtio_features: int
    protocol_features: int
    config_space: bytes


def virtio_fs_offer(num_request_queues: int, tag: str | None = None) -> Offer:
    """A virtio-fs device of ``num_request_queues`` (1 to 64) and a high-priority queue, at vring 0.

    ``tag``: offer the config space (CONFIG), with this tag. Without it tag and queue count are the
    front-end's; QEMU warns of a CONFIG that it has no use for. ValueError on a bad count or tag.
    """
    if not 1 <= num_request_queues <= MAX_REQUEST_QUEUES:
        raise ValueError(f"{num_request_queues} request queues: must be 1 to {MAX_REQUEST_QUEUES}")
    protocol_features, config_space = PROTOCOL_FEATURES, b""
    if tag is not None:
        protocol_features |= ProtocolFeature.CONFIG
        config_space = virtio_fs_config(tag, num_request_queues)
    return Offer(num_request_queues + 1, VIRTIO_FEATURES, protocol_features, config_space)


def virtio_fs_config(tag: str, num_request_queues: int) -> bytes:
    """The virtio-fs config space (VIRTIO 1.2, 5.11.4): tag[36], le32 num_request_queues."""
    encoded = tag.encode()
    if not 1 <= len(encoded) <= MAX_TAG_BYTES or b"\0" in encoded:
        raise ValueError(f"tag {tag!r} must have 1 to {MAX_TAG_BYTES} bytes of UTF-8 and no NUL")
    return struct.pack("<36sI", encoded, num_request_queues)
