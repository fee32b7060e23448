"""One lawful body for every request, and hypothesis strategies for any body: shared by the tests here."""

from hypothesis import strategies as st

from virtqueue.messages import (
    Body,
    ConfigAccess,
    RegionBody,
    Request,
    VringAddr,
    VringFd,
    VringState,
)

U8, U16, U32, U64 = (st.integers(0, (1 << bits) - 1) for bits in (8, 16, 32, 64))

REGION = RegionBody(gpa=0x10_0000, size=0x20_0000, user_addr=0x7F00_0010_0000, mmap_offset=0)
OTHER_REGION = RegionBody(gpa=0x1_0000_0000, size=0x1000, user_addr=0x7F10_0000_0000, mmap_offset=0x20_0000)

EXAMPLES: dict[Request, tuple[Body, int]] = {
    # request: (body, file descriptors)
    Request.GET_FEATURES: (None, 0),
    Request.SET_FEATURES: (1 << 32 | 1 << 30, 0),
    Request.SET_OWNER: (None, 0),
    Request.RESET_OWNER: (None, 0),
    Request.SET_MEM_TABLE: ((REGION, OTHER_REGION), 2),
    Request.SET_LOG_BASE: (bytes(16), 1),
    Request.SET_LOG_FD: (b"", 1),
    Request.SET_VRING_NUM: (VringState(1, 128), 0),
    Request.SET_VRING_ADDR: (
        VringAddr(1, 0, 0x7F00_0010_0000, 0x7F00_0010_2000, 0x7F00_0010_1000, 0),
        0,
    ),
    Request.SET_VRING_BASE: (VringState(1, 65535), 0),
    Request.GET_VRING_BASE: (VringState(1, 0), 0),
    Request.SET_VRING_KICK: (VringFd(1, True), 1),
    Request.SET_VRING_CALL: (VringFd(1, False), 0),
    Request.SET_VRING_ERR: (VringFd(1, True), 1),
    Request.GET_PROTOCOL_FEATURES: (None, 0),
    Request.SET_PROTOCOL_FEATURES: (0x1A009, 0),
    Request.GET_QUEUE_NUM: (None, 0),
    Request.SET_VRING_ENABLE: (VringState(1, 1), 0),
    Request.SET_BACKEND_REQ_FD: (b"", 1),
    Request.GET_CONFIG: (ConfigAccess(0, 40, 0, bytes(40)), 0),
    Request.SET_CONFIG: (ConfigAccess(0, 4, 0, b"abcd"), 0),
    Request.GET_INFLIGHT_FD: (bytes(20), 0),
    Request.SET_INFLIGHT_FD: (bytes(20), 1),
    Request.RESET_DEVICE: (None, 0),
    Request.VRING_KICK: (bytes(8), 0),
    Request.GET_MAX_MEM_SLOTS: (None, 0),
    Request.ADD_MEM_REG: (REGION, 1),
    Request.REM_MEM_REG: (REGION, 1),
    Request.SET_STATUS: (1, 0),
    Request.GET_STATUS: (None, 0),
}

# Small numbers collide (vring 1, the same region again), large ones go out of bounds: both are wanted.
_index = st.integers(0, 4) | U32
_sixteen = st.sampled_from([0, 1, 2, 128, 256, 32768, 65535, 65536]) | U32
_region = st.builds(
    RegionBody,
    gpa=st.sampled_from([0, 0x1000, 0x10_0000, (1 << 64) - 0x1000]) | U64,
    size=st.sampled_from([0, 0x1000, 0x2000]) | U64,
    user_addr=st.sampled_from([0, 0x1000, 0x7F00_0000_0000]) | U64,
    mmap_offset=st.sampled_from([0, 0x1000]) | U64,
) | st.sampled_from([REGION, OTHER_REGION])
_state = st.builds(VringState, _index, _sixteen)
_empty = st.none()
_vring_fd = st.builds(VringFd, st.integers(0, 4) | U8, st.booleans())
_raw = st.binary(max_size=64)
_features = st.sampled_from([0, 1 << 32, 1 << 30 | 1 << 32, 0x1_7000_0000, 1 << 26]) | U64


@st.composite
def _config(draw: st.DrawFn) -> ConfigAccess:
    data = draw(st.binary(max_size=64))
    return ConfigAccess(draw(st.integers(0, 64) | U32), len(data), draw(st.integers(0, 1)), data)


BODIES: dict[Request, st.SearchStrategy[Body]] = {
    request: _empty if body is None else _raw for request, (body, _) in EXAMPLES.items()
}
BODIES |= {
    Request.SET_FEATURES: _features,
    Request.SET_PROTOCOL_FEATURES: st.sampled_from([0, 8, 0x1A009, 0x1A209]) | U64,
    Request.SET_MEM_TABLE: st.lists(_region, max_size=4).map(tuple),
    Request.SET_VRING_NUM: _state,
    Request.SET_VRING_ADDR: st.builds(
        VringAddr, _index, st.integers(0, 2), *[st.integers(0, 64).map(lambda n: n * 4) | U64] * 4
    ),
    Request.SET_VRING_BASE: _state,
    Request.GET_VRING_BASE: _state,
    Request.SET_VRING_KICK: _vring_fd,
    Request.SET_VRING_CALL: _vring_fd,
    Request.SET_VRING_ERR: _vring_fd,
    Request.SET_VRING_ENABLE: _state,
    Request.GET_CONFIG: _config(),
    Request.SET_CONFIG: _config(),
    Request.ADD_MEM_REG: _region,
    Request.REM_MEM_REG: _region,
    Request.SET_STATUS: st.integers(0, 300) | U64,
}


def fd_count(request: int, body: Body) -> int:
    """How many descriptors must come with a lawful message."""
    if isinstance(body, VringFd):
        return int(body.has_fd)
    if isinstance(body, tuple):
        return len(body)
    return EXAMPLES[Request(request)][1] if request in EXAMPLES else 0
