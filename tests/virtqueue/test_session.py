"""The session: what front-ends really say is understood, and every rule of the table holds."""

import re
from dataclasses import replace

import pytest

from tests.virtqueue.bodies import OTHER_REGION, REGION
from tests.virtqueue.talk import ALL_PROTOCOL, Talk
from virtqueue import events
from virtqueue.errors import ProtocolError, RequestRefused
from virtqueue.features import ProtocolFeature, VirtioFeature
from virtqueue.memory import MAX_MEM_SLOTS
from virtqueue.messages import Body, ConfigAccess, RegionBody, Request, VringAddr, VringFd, VringState
from virtqueue.offer import virtio_fs_config, virtio_fs_offer
from virtqueue.rules import RULES

PROTOCOL = int(VirtioFeature.PROTOCOL_FEATURES)
VERSION_1 = int(VirtioFeature.VERSION_1)
ADDR = VringAddr(1, 0, 0x7F00_0010_0000, 0x7F00_0010_2000, 0x7F00_0010_1000, 0)


@pytest.fixture
def talk() -> Talk:
    """With everything acknowledged, memory shared, and vring 1 ready to start."""
    talk = Talk(virtio_fs_offer(2, "share"))
    talk.say(Request.SET_PROTOCOL_FEATURES, ALL_PROTOCOL | ProtocolFeature.CONFIG)
    talk.say(Request.SET_FEATURES, VERSION_1 | PROTOCOL)
    talk.say(Request.ADD_MEM_REG, REGION)
    talk.say(Request.SET_VRING_NUM, VringState(1, 128))
    talk.say(Request.SET_VRING_ADDR, ADDR)
    talk.events.clear()
    return talk


def test_every_rule_is_of_a_known_request() -> None:
    assert set(RULES) <= set(Request)


def test_what_qemu_says() -> None:
    """QEMU 7.2.22 with one request queue, as it was seen: connect, start of the driver, its end."""
    talk = Talk(virtio_fs_offer(1))
    features = talk.number(Request.GET_FEATURES)
    assert features == 1 << 32 | 1 << 30 | 1 << 29 | 1 << 28
    assert talk.number(Request.GET_PROTOCOL_FEATURES) == 0x1A009
    talk.tell(Request.SET_PROTOCOL_FEATURES, 0x1A009)
    assert talk.number(Request.GET_QUEUE_NUM) == 2
    assert talk.number(Request.GET_MAX_MEM_SLOTS) == 509
    talk.tell(Request.SET_OWNER)
    assert talk.number(Request.GET_FEATURES) == features
    for index in (0, 1):
        talk.tell(Request.SET_VRING_CALL, VringFd(index, True))
        talk.tell(Request.SET_VRING_ERR, VringFd(index, True))
    talk.events.clear()

    talk.tell(Request.SET_VRING_CALL, VringFd(0, True))
    talk.tell(Request.SET_FEATURES, features)
    assert talk.number(Request.GET_STATUS) == 0
    talk.tell(Request.SET_STATUS, 8)
    assert talk.say(Request.ADD_MEM_REG, REGION) == 0
    for index in (0, 1):
        talk.tell(Request.SET_VRING_NUM, VringState(index, 128))
        talk.tell(Request.SET_VRING_BASE, VringState(index, 0))
        talk.tell(Request.SET_VRING_ADDR, replace(ADDR, index=index, log=0x3000))
        talk.tell(Request.SET_VRING_KICK, VringFd(index, True))
    for index in (0, 1):
        talk.tell(Request.SET_VRING_ENABLE, VringState(index, 1))
    talk.tell(Request.SET_VRING_CALL, VringFd(1, True))
    assert [type(event).__name__ for event in talk.events] == [
        "VringCallSet",
        "VirtioFeaturesSet",
        "MemRegionAdded",
        *["VringNumSet", "VringBaseSet", "VringAddrSet", "VringKickSet"] * 2,
        *["VringEnableSet"] * 2,
        "VringCallSet",
    ]
    assert talk.events[1] == events.VirtioFeaturesSet(features, enables_vrings=False)
    assert all(vring.is_active for vring in talk.session.state.vrings)

    talk.vring_base = 42
    for index in (0, 1):
        talk.tell(Request.SET_VRING_ENABLE, VringState(index, 0))
    for index in (0, 1):
        assert talk.state_reply(Request.GET_VRING_BASE, VringState(index, 0)) == VringState(index, 42)
    assert not any(vring.started or vring.enabled for vring in talk.session.state.vrings)


def test_what_cloud_hypervisor_says() -> None:
    """The order of its source: NEED_REPLY on everything, and a reset that only disables the vrings."""
    talk = Talk(virtio_fs_offer(1))
    assert talk.say(Request.SET_OWNER, need_reply=False) is None
    features = talk.number(Request.GET_FEATURES)
    talk.number(Request.GET_PROTOCOL_FEATURES)
    talk.tell(Request.SET_PROTOCOL_FEATURES, 0x8009)
    assert talk.say(Request.GET_QUEUE_NUM) == 2
    for acked in (features, features & ~(1 << 29)):  # the second driver takes other features
        assert talk.say(Request.SET_FEATURES, acked) == 0
        assert talk.say(Request.SET_MEM_TABLE, (REGION,)) == 0
        for index in (0, 1):
            assert talk.say(Request.SET_VRING_NUM, VringState(index, 1024)) == 0
        for index in (0, 1):
            assert talk.say(Request.SET_VRING_ADDR, replace(ADDR, index=index)) == 0
            assert talk.say(Request.SET_VRING_BASE, VringState(index, 0)) == 0
            assert talk.say(Request.SET_VRING_CALL, VringFd(index, True)) == 0
            assert talk.say(Request.SET_VRING_KICK, VringFd(index, True)) == 0
        for index in (0, 1):
            assert talk.say(Request.SET_VRING_ENABLE, VringState(index, 1)) == 0
        assert talk.say(Request.ADD_MEM_REG, OTHER_REGION) == 0  # hot-plugged
        assert all(vring.is_active for vring in talk.session.state.vrings)
        for index in (0, 1):
            assert talk.say(Request.SET_VRING_ENABLE, VringState(index, 0)) == 0


def test_without_protocol_features_vrings_are_enabled_at_once(talk: Talk) -> None:
    talk = Talk(virtio_fs_offer(1))
    talk.say(Request.SET_FEATURES, VERSION_1, need_reply=False)
    assert talk.events == [events.VirtioFeaturesSet(VERSION_1, enables_vrings=True)]
    assert all(vring.enabled for vring in talk.session.state.vrings)


def test_set_features_never_disables(talk: Talk) -> None:
    talk.say(Request.SET_VRING_ENABLE, VringState(1, 1))
    talk.say(Request.SET_FEATURES, VERSION_1 | PROTOCOL)
    assert talk.session.state.vrings[1].enabled


def test_enable_may_come_before_the_start(talk: Talk) -> None:
    talk.say(Request.SET_VRING_ENABLE, VringState(1, 1))
    assert talk.say(Request.SET_VRING_KICK, VringFd(1, True)) == 0
    vring = talk.session.state.vrings[1]
    assert (vring.started, vring.enabled) == (True, True)


@pytest.mark.parametrize("has_fd", [True, False])
@pytest.mark.parametrize(
    ("request_", "event"),
    [
        (Request.SET_VRING_KICK, events.VringKickSet),
        (Request.SET_VRING_CALL, events.VringCallSet),
        (Request.SET_VRING_ERR, events.VringErrSet),
    ],
)
def test_fds_go_to_the_device(
    talk: Talk,
    request_: Request,
    event: type[events.VringKickSet | events.VringCallSet | events.VringErrSet],
    has_fd: bool,
) -> None:
    message = talk.message(request_, VringFd(1, has_fd))
    talk.give(message)
    assert talk.events == [event(1, message.fds[0] if has_fd else None)]


@pytest.mark.parametrize(
    ("request_", "missing"),
    [
        ("features", "SET_FEATURES"),
        ("memory", "SET_MEM_TABLE or ADD_MEM_REG"),
        ("num", "SET_VRING_NUM"),
        ("addr", "SET_VRING_ADDR"),
    ],
)
def test_a_kick_that_comes_too_early_is_refused(request_: str, missing: str) -> None:
    talk = Talk(virtio_fs_offer(1))
    talk.say(Request.SET_PROTOCOL_FEATURES, ALL_PROTOCOL)
    steps: dict[str, tuple[Request, Body]] = {
        "features": (Request.SET_FEATURES, VERSION_1 | PROTOCOL),
        "memory": (Request.ADD_MEM_REG, REGION),
        "num": (Request.SET_VRING_NUM, VringState(1, 2)),
        "addr": (Request.SET_VRING_ADDR, ADDR),
    }
    for name, (step, body) in steps.items():
        if name != request_:
            talk.say(step, body)
    assert talk.say(Request.SET_VRING_KICK, VringFd(1, True)) == 1
    assert talk.refusal == f"SET_VRING_KICK for vring 1 before {missing}"
    talk.say(*steps[request_])
    assert talk.say(Request.SET_VRING_KICK, VringFd(1, True)) == 0


def test_an_active_vring_keeps_its_size_and_base(talk: Talk) -> None:
    talk.say(Request.SET_VRING_KICK, VringFd(1, True))
    talk.say(Request.SET_VRING_ENABLE, VringState(1, 1))
    assert talk.say(Request.SET_VRING_NUM, VringState(1, 64)) == 1
    assert "while it runs; stop it with GET_VRING_BASE first" in talk.refusal
    assert talk.say(Request.SET_VRING_BASE, VringState(1, 0)) == 1
    assert talk.say(Request.SET_VRING_NUM, VringState(2, 64)) == 0
    # what may change while it runs:
    assert talk.say(Request.SET_VRING_ADDR, ADDR) == 0
    assert talk.say(Request.SET_VRING_CALL, VringFd(1, True)) == 0
    assert talk.say(Request.SET_VRING_KICK, VringFd(1, False)) == 0
    assert talk.say(Request.ADD_MEM_REG, OTHER_REGION) == 0
    talk.say(Request.GET_VRING_BASE, VringState(1, 0))
    assert talk.say(Request.SET_VRING_NUM, VringState(1, 64)) == 0


@pytest.mark.parametrize("request_", [Request.SET_VRING_NUM, Request.SET_VRING_BASE])
def test_a_disabled_vring_that_is_set_up_again_counts_as_stopped(talk: Talk, request_: Request) -> None:
    talk.say(Request.SET_VRING_KICK, VringFd(1, True))
    assert talk.session.state.vrings[1].started
    assert talk.say(request_, VringState(1, 64)) == 0
    assert not talk.session.state.vrings[1].started


def test_an_active_vring_keeps_its_features(talk: Talk) -> None:
    talk.say(Request.SET_VRING_KICK, VringFd(1, True))
    assert talk.say(Request.SET_FEATURES, VERSION_1 | PROTOCOL | 1 << 28) == 0
    talk.say(Request.SET_VRING_ENABLE, VringState(1, 1))
    assert talk.say(Request.SET_FEATURES, VERSION_1 | PROTOCOL | 1 << 28) == 0
    assert talk.say(Request.SET_FEATURES, VERSION_1 | PROTOCOL | 1 << 29) == 1
    assert "while vrings run" in talk.refusal


@pytest.mark.parametrize(
    ("request_", "body", "refusal"),
    [
        (Request.SET_FEATURES, VERSION_1 | 1 << 26, "not offered: 0x4000000"),
        (Request.SET_PROTOCOL_FEATURES, 1 << 1, "not offered: 0x2"),
        (Request.SET_VRING_NUM, VringState(3, 2), "this device has 3 vrings"),
        (Request.SET_VRING_NUM, VringState(1, 0), "0 is no power of two"),
        (Request.SET_VRING_NUM, VringState(1, 3), "3 is no power of two"),
        (Request.SET_VRING_NUM, VringState(1, 65536), "65536 is no power of two from 1 to 32768"),
        (Request.SET_VRING_BASE, VringState(1, 65536), "does not fit 16 bits"),
        (Request.SET_VRING_ENABLE, VringState(1, 2), "2 is neither 0 nor 1"),
        (Request.SET_VRING_ADDR, VringAddr(1, 2, 0, 0, 0, 0), "unknown flags 0x2"),
        (Request.SET_VRING_ADDR, VringAddr(1, 0, 8, 0, 0, 0), "descriptor table at 0x8 is not 16-byte"),
        (Request.SET_VRING_ADDR, VringAddr(1, 0, 0, 2, 0, 0), "used ring at 0x2 is not 4-byte aligned"),
        (Request.SET_VRING_ADDR, VringAddr(1, 0, 0, 0, 1, 0), "available ring at 0x1 is not 2-byte"),
        (Request.SET_VRING_KICK, VringFd(255, False), "vring 255: this device has 3 vrings"),
        (Request.SET_CONFIG, ConfigAccess(0, 1, 0, b"x"), "read-only"),
        (Request.SET_STATUS, 256, "does not fit a byte"),
        (Request.ADD_MEM_REG, REGION, "overlaps region 0x100000"),
        (Request.REM_MEM_REG, OTHER_REGION, "was never shared"),
        (Request.SET_LOG_BASE, bytes(16), "SET_LOG_BASE is not supported"),
        (Request.GET_INFLIGHT_FD, bytes(20), "GET_INFLIGHT_FD is not supported"),
        (Request.VRING_KICK, bytes(8), "VRING_KICK is not supported"),
        (999, b"", "request 999 is not supported"),
    ],
    ids=str,
)
def test_refusals(talk: Talk, request_: int, body: Body, refusal: str) -> None:
    before = talk.session.state
    assert talk.say(request_, body) == 1
    assert refusal in talk.refusal
    assert talk.session.state is before
    assert not talk.events
    with pytest.raises(ProtocolError, match=re.escape(refusal)):
        talk.say(request_, body, need_reply=False)


@pytest.mark.parametrize("num", [1, 2, 1024, 32768])
def test_queue_sizes(talk: Talk, num: int) -> None:
    assert talk.say(Request.SET_VRING_NUM, VringState(0, num)) == 0
    assert talk.events == [events.VringNumSet(0, num)]


def test_log_address_counts_only_with_its_flag(talk: Talk) -> None:
    talk.say(Request.SET_VRING_ADDR, VringAddr(1, 0, 0, 4, 2, 0x99))
    talk.say(Request.SET_VRING_ADDR, VringAddr(1, 1, 0, 4, 2, 0x99))
    assert talk.events == [
        events.VringAddrSet(1, desc=0, used=4, avail=2, log=None),
        events.VringAddrSet(1, desc=0, used=4, avail=2, log=0x99),
    ]


@pytest.mark.parametrize(
    ("request_", "body", "feature"),
    [
        (Request.ADD_MEM_REG, REGION, "CONFIGURE_MEM_SLOTS"),
        (Request.REM_MEM_REG, REGION, "CONFIGURE_MEM_SLOTS"),
        (Request.RESET_DEVICE, None, "RESET_DEVICE"),
        (Request.SET_STATUS, 1, "STATUS"),
        (Request.SET_CONFIG, ConfigAccess(0, 1, 0, b"x"), "CONFIG"),
    ],
)
def test_gates(request_: Request, body: Body, feature: str) -> None:
    talk = Talk(virtio_fs_offer(1, "t"))
    talk.say(Request.SET_PROTOCOL_FEATURES, int(ProtocolFeature.REPLY_ACK))
    assert talk.say(request_, body) == 1
    assert talk.refusal == f"{request_.name} without protocol feature {feature}"


@pytest.mark.parametrize("request_", [Request.GET_MAX_MEM_SLOTS, Request.GET_STATUS, Request.GET_CONFIG])
def test_a_gated_question_has_no_way_to_be_refused(request_: Request) -> None:
    talk = Talk(virtio_fs_offer(1))
    talk.say(Request.SET_PROTOCOL_FEATURES, int(ProtocolFeature.REPLY_ACK))
    body = ConfigAccess(0, 1, 0, b"") if request_ is Request.GET_CONFIG else None
    with pytest.raises(ProtocolError, match="without protocol feature"):
        talk.say(request_, body)


def test_answers_are_given_only_once_reply_ack_is_taken() -> None:
    talk = Talk(virtio_fs_offer(1))
    assert talk.say(Request.SET_OWNER) is None
    assert talk.say(Request.SET_PROTOCOL_FEATURES, 8) == 0  # the very request that takes it
    assert talk.say(Request.SET_OWNER) == 0
    assert talk.say(Request.SET_OWNER, need_reply=False) is None
    assert talk.say(Request.SET_PROTOCOL_FEATURES, 0) is None


def test_config_space(talk: Talk) -> None:
    config = virtio_fs_config("share", 2)
    assert config == b"share" + bytes(31) + b"\2\0\0\0"
    for offset, size in ((0, 40), (36, 4), (0, 0), (40, 0)):
        reply = talk.give(talk.message(Request.GET_CONFIG, ConfigAccess(offset, size, 0, bytes(size))))
        assert reply[24:] == config[offset : offset + size]
    for offset, size in ((0, 41), (37, 4), (1 << 31, 1)):
        reply = talk.give(talk.message(Request.GET_CONFIG, ConfigAccess(offset, size, 0, b"")))
        assert reply[8:] == bytes(4)  # no payload: the protocol's way to refuse


@pytest.mark.parametrize("tag", ["", "x" * 37, "a\0b", "é" * 19])
def test_bad_tags(tag: str) -> None:
    with pytest.raises(ValueError, match="tag"):
        virtio_fs_offer(1, tag)


@pytest.mark.parametrize("count", [0, 65])
def test_bad_queue_counts(count: int) -> None:
    with pytest.raises(ValueError, match="must be 1 to 64"):
        virtio_fs_offer(count)


def test_memory_slots_run_out(talk: Talk) -> None:
    slots = [RegionBody((n + 1024) << 20, 1 << 20, (n + 4096) << 32, 0) for n in range(MAX_MEM_SLOTS)]
    for region in slots[:-1]:
        assert talk.say(Request.ADD_MEM_REG, region) == 0
    assert talk.say(Request.ADD_MEM_REG, slots[-1]) == 1
    assert "all 509 memory slots are taken" in talk.refusal
    assert talk.say(Request.REM_MEM_REG, slots[7]) == 0
    assert talk.say(Request.ADD_MEM_REG, slots[-1]) == 0


def test_a_new_table_replaces_the_old(talk: Talk) -> None:
    assert talk.say(Request.SET_MEM_TABLE, (REGION, OTHER_REGION)) == 0
    assert talk.session.state.memory.regions == (REGION, OTHER_REGION)
    assert talk.say(Request.SET_MEM_TABLE, ()) == 0
    assert not talk.session.state.memory.regions


def test_a_table_that_the_device_refuses_leaves_no_memory(talk: Talk) -> None:
    talk.device_error = RequestRefused("cannot be mapped")
    assert talk.say(Request.SET_MEM_TABLE, (OTHER_REGION,)) == 1
    assert not talk.session.state.memory.regions


def test_a_region_that_the_device_refuses_is_not_remembered(talk: Talk) -> None:
    talk.device_error = RequestRefused("cannot be mapped")
    assert talk.say(Request.ADD_MEM_REG, OTHER_REGION) == 1
    assert talk.session.state.memory.regions == (REGION,)


@pytest.mark.parametrize(("request_", "body"), [(Request.RESET_DEVICE, None), (Request.SET_STATUS, 0)])
def test_a_reset_forgets_all_but_memory_and_protocol(talk: Talk, request_: Request, body: int | None) -> None:
    talk.say(Request.SET_VRING_KICK, VringFd(1, True))
    talk.say(Request.SET_VRING_ENABLE, VringState(1, 1))
    talk.say(Request.SET_STATUS, 15)
    assert talk.number(Request.GET_STATUS) == 15
    talk.events.clear()
    assert talk.say(request_, body) == 0
    assert talk.events == [events.DeviceReset()]
    assert talk.number(Request.GET_STATUS) == 0
    state = talk.session.state
    assert state.memory.regions == (REGION,)
    assert state.protocol_features == ALL_PROTOCOL | ProtocolFeature.CONFIG
    assert state.virtio_features is None
    assert not any(vring.started or vring.enabled or vring.num for vring in state.vrings)


def test_reset_owner_changes_nothing(talk: Talk) -> None:
    before = talk.session.state
    assert talk.say(Request.RESET_OWNER) == 0
    assert talk.session.state == before
    assert not talk.events
