"""``RULES``: the vhost-user state machine, one row for each request that we answer. Pure.

A row says what must hold before the request (``Needs``), which protocol feature gates it, whether it has a
reply of its own, and which function decides. Rule 1: a deciding function looks at the offer, the state and
the message and returns a ``Decision``, or raises ``RequestRefused``; it changes nothing, touches no device.
Rule 2: this file does not know how a refusal or a reply reaches the front-end; ``session.py`` does.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Flag, auto
from typing import NoReturn

from virtqueue import events, layout
from virtqueue.errors import RequestRefused
from virtqueue.features import ProtocolFeature, VirtioFeature
from virtqueue.memory import MAX_MEM_SLOTS, MemoryTable
from virtqueue.messages import (
    VRING_ADDR_LOG,
    Body,
    ConfigAccess,
    Message,
    RegionBody,
    Request,
    VringAddr,
    VringFd,
    VringState,
)
from virtqueue.offer import Offer


@dataclass(frozen=True, slots=True)
class Vring:
    """What the front-end has said of one vring. ``num`` 0: not yet."""

    num: int = 0
    has_addr: bool = False
    started: bool = False
    enabled: bool = False

    @property
    def is_active(self) -> bool:
        return self.started and self.enabled


@dataclass(frozen=True, slots=True)
class State:
    """Everything that a session remembers. ``virtio_features`` None: SET_FEATURES has not come."""

    vrings: tuple[Vring, ...]
    virtio_features: int | None = None
    protocol_features: int = 0
    memory: MemoryTable = field(default_factory=MemoryTable)
    status: int = 0

    def with_vring(self, index: int, vring: Vring) -> "State":
        return replace(self, vrings=(*self.vrings[:index], vring, *self.vrings[index + 1 :]))


@dataclass(frozen=True, slots=True)
class Decision:
    """What a request leads to: the next state, an event for the device, the body of a reply of its own.

    ``state_if_refused``: the next state when the device refuses the event; None: the present one stays.
    """

    message: Message
    state: State
    event: events.Event | None = None
    reply: Body = None
    state_if_refused: State | None = None


class Needs(Flag):
    """Conditions of a request, checked before its function sees it."""

    NOTHING = 0
    VRING = auto()  # its vring exists
    IDLE = auto()  # its vring is stopped, or at least disabled
    CONFIGURED = auto()  # its vring has a size and addresses; there are features and memory


Decide = Callable[[Offer, State, Message], Decision]


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of the table."""

    decide: Decide
    needs: Needs = Needs.NOTHING
    gate: ProtocolFeature | None = None
    replies: bool = False  # has a reply of its own


def check_needs(needs: Needs, state: State, message: Message) -> None:
    """RequestRefused unless the conditions hold."""
    if not needs & Needs.VRING:
        return
    body = message.body
    assert isinstance(body, VringState | VringAddr | VringFd)
    where = f"{message.name} for vring {body.index}"
    if body.index >= len(state.vrings):
        raise RequestRefused(
            f"{where}: this device has {len(state.vrings)} vrings (one more than its request queues)"
        )
    vring = state.vrings[body.index]
    if needs & Needs.IDLE and vring.is_active:
        raise RequestRefused(f"{where} while it runs; stop it with GET_VRING_BASE first")
    if needs & Needs.CONFIGURED:
        missing = [
            name
            for name, there in (
                ("SET_FEATURES", state.virtio_features is not None),
                ("SET_MEM_TABLE or ADD_MEM_REG", bool(state.memory.regions)),
                ("SET_VRING_NUM", bool(vring.num)),
                ("SET_VRING_ADDR", vring.has_addr),
            )
            if not there
        ]
        if missing:
            raise RequestRefused(f"{where} before {', '.join(missing)}")


# The deciding functions, in the order of the table.


def _get_features(offer: Offer, state: State, message: Message) -> Decision:
    return Decision(message, state, reply=int(offer.virtio_features))


def _set_features(offer: Offer, state: State, message: Message) -> Decision:
    features = _number(message)
    unknown = features & ~offer.virtio_features
    if unknown:
        raise RequestRefused(f"SET_FEATURES takes features that were not offered: {unknown:#x}")
    if state.virtio_features not in (None, features) and any(vring.is_active for vring in state.vrings):
        raise RequestRefused("SET_FEATURES changes the features while vrings run")
    enables = not features & VirtioFeature.PROTOCOL_FEATURES
    state = replace(state, virtio_features=features)
    if enables:
        state = replace(state, vrings=tuple(replace(vring, enabled=True) for vring in state.vrings))
    return Decision(message, state, events.VirtioFeaturesSet(features, enables))


def _nothing(offer: Offer, state: State, message: Message) -> Decision:
    return Decision(message, state)


def _set_mem_table(offer: Offer, state: State, message: Message) -> Decision:
    assert isinstance(message.body, tuple)
    return Decision(
        message,
        replace(state, memory=state.memory.replaced(message.body)),
        events.MemTableSet(message.body, message.fds),
        state_if_refused=replace(state, memory=MemoryTable()),  # it unmapped the old regions to try the new
    )


def _set_vring_num(offer: Offer, state: State, message: Message) -> Decision:
    assert isinstance(message.body, VringState)
    index, num = message.body.index, message.body.num
    if not 1 <= num <= layout.MAX_QUEUE_SIZE or num & (num - 1):
        raise RequestRefused(
            f"SET_VRING_NUM for vring {index}: {num} is no power of two from 1 to {layout.MAX_QUEUE_SIZE}"
        )
    return Decision(
        message,
        state.with_vring(index, replace(state.vrings[index], num=num, started=False)),
        events.VringNumSet(index, num),
    )


def _set_vring_addr(offer: Offer, state: State, message: Message) -> Decision:
    body = message.body
    assert isinstance(body, VringAddr)
    if body.flags & ~VRING_ADDR_LOG:
        raise RequestRefused(f"SET_VRING_ADDR for vring {body.index}: unknown flags {body.flags:#x}")
    areas = (
        ("descriptor table", body.desc, layout.DESC_ALIGN),
        ("available ring", body.avail, layout.AVAIL_ALIGN),
        ("used ring", body.used, layout.USED_ALIGN),
    )
    for name, user_addr, align in areas:
        if user_addr % align:
            raise RequestRefused(
                f"SET_VRING_ADDR for vring {body.index}: {name} at {user_addr:#x} is not {align}-byte aligned"
            )
    log = body.log if body.flags & VRING_ADDR_LOG else None
    return Decision(
        message,
        state.with_vring(body.index, replace(state.vrings[body.index], has_addr=True)),
        events.VringAddrSet(body.index, desc=body.desc, used=body.used, avail=body.avail, log=log),
    )


def _set_vring_base(offer: Offer, state: State, message: Message) -> Decision:
    assert isinstance(message.body, VringState)
    index, base = message.body.index, message.body.num
    if base > 0xFFFF:
        raise RequestRefused(f"SET_VRING_BASE for vring {index}: {base} does not fit 16 bits")
    return Decision(
        message,
        state.with_vring(index, replace(state.vrings[index], started=False)),
        events.VringBaseSet(index, base),
    )


def _get_vring_base(offer: Offer, state: State, message: Message) -> Decision:
    assert isinstance(message.body, VringState)
    index = message.body.index
    return Decision(
        message,
        state.with_vring(index, replace(state.vrings[index], started=False)),
        events.VringStopRequested(index),
    )


def _set_vring_kick(offer: Offer, state: State, message: Message) -> Decision:
    assert isinstance(message.body, VringFd)
    index = message.body.index
    return Decision(
        message,
        state.with_vring(index, replace(state.vrings[index], started=True)),
        events.VringKickSet(index, message.fds[0] if message.fds else None),
    )


def _set_vring_call(offer: Offer, state: State, message: Message) -> Decision:
    assert isinstance(message.body, VringFd)
    fd = message.fds[0] if message.fds else None
    return Decision(message, state, events.VringCallSet(message.body.index, fd))


def _set_vring_err(offer: Offer, state: State, message: Message) -> Decision:
    assert isinstance(message.body, VringFd)
    fd = message.fds[0] if message.fds else None
    return Decision(message, state, events.VringErrSet(message.body.index, fd))


def _get_protocol_features(offer: Offer, state: State, message: Message) -> Decision:
    return Decision(message, state, reply=int(offer.protocol_features))


def _set_protocol_features(offer: Offer, state: State, message: Message) -> Decision:
    features = _number(message)
    unknown = features & ~offer.protocol_features
    if unknown:
        raise RequestRefused(f"SET_PROTOCOL_FEATURES takes features that were not offered: {unknown:#x}")
    return Decision(message, replace(state, protocol_features=features))


def _get_queue_num(offer: Offer, state: State, message: Message) -> Decision:
    return Decision(message, state, reply=len(state.vrings))


def _set_vring_enable(offer: Offer, state: State, message: Message) -> Decision:
    assert isinstance(message.body, VringState)
    index, num = message.body.index, message.body.num
    if num > 1:
        raise RequestRefused(f"SET_VRING_ENABLE for vring {index}: {num} is neither 0 nor 1")
    return Decision(
        message,
        state.with_vring(index, replace(state.vrings[index], enabled=bool(num))),
        events.VringEnableSet(index, bool(num)),
    )


def _get_config(offer: Offer, state: State, message: Message) -> Decision:
    body = message.body
    assert isinstance(body, ConfigAccess)
    data = offer.config_space[body.offset : body.offset + body.size]
    if len(data) != body.size:
        return Decision(message, state, reply=b"")  # the protocol's way to say that it failed
    return Decision(message, state, reply=ConfigAccess(body.offset, body.size, body.flags, data))


def _set_config(offer: Offer, state: State, message: Message) -> NoReturn:
    raise RequestRefused("SET_CONFIG: every field of the virtio-fs config space is read-only")


def _reset_device(offer: Offer, state: State, message: Message) -> Decision:
    fresh = State(
        vrings=(Vring(),) * len(state.vrings),
        protocol_features=state.protocol_features,
        memory=state.memory,
    )
    return Decision(message, fresh, events.DeviceReset())


def _get_max_mem_slots(offer: Offer, state: State, message: Message) -> Decision:
    return Decision(message, state, reply=MAX_MEM_SLOTS)


def _add_mem_reg(offer: Offer, state: State, message: Message) -> Decision:
    assert isinstance(message.body, RegionBody)
    memory = state.memory.added(message.body)
    event = events.MemRegionAdded(message.body, message.fds[0])
    return Decision(message, replace(state, memory=memory), event)


def _rem_mem_reg(offer: Offer, state: State, message: Message) -> Decision:
    assert isinstance(message.body, RegionBody)
    memory = state.memory.removed(message.body)
    return Decision(message, replace(state, memory=memory), events.MemRegionRemoved(message.body))


def _set_status(offer: Offer, state: State, message: Message) -> Decision:
    status = _number(message)
    if status > 0xFF:
        raise RequestRefused(f"SET_STATUS: {status:#x} does not fit a byte")
    if status == 0:
        return _reset_device(offer, state, message)
    return Decision(message, replace(state, status=status))


def _get_status(offer: Offer, state: State, message: Message) -> Decision:
    return Decision(message, state, reply=state.status)


def _number(message: Message) -> int:
    assert isinstance(message.body, int)
    return message.body


_ANY_VRING = Needs.VRING
_IDLE_VRING = Needs.VRING | Needs.IDLE
_CONFIGURED_VRING = Needs.VRING | Needs.CONFIGURED
_SLOTS = ProtocolFeature.CONFIGURE_MEM_SLOTS

RULES: dict[int, Rule] = {
    Request.GET_FEATURES: Rule(_get_features, replies=True),
    Request.SET_FEATURES: Rule(_set_features),
    Request.SET_OWNER: Rule(_nothing),
    Request.RESET_OWNER: Rule(_nothing),
    Request.SET_MEM_TABLE: Rule(_set_mem_table),
    Request.SET_VRING_NUM: Rule(_set_vring_num, _IDLE_VRING),
    Request.SET_VRING_ADDR: Rule(_set_vring_addr, _ANY_VRING),
    Request.SET_VRING_BASE: Rule(_set_vring_base, _IDLE_VRING),
    Request.GET_VRING_BASE: Rule(_get_vring_base, _ANY_VRING, replies=True),
    Request.SET_VRING_KICK: Rule(_set_vring_kick, _CONFIGURED_VRING),
    Request.SET_VRING_CALL: Rule(_set_vring_call, _ANY_VRING),
    Request.SET_VRING_ERR: Rule(_set_vring_err, _ANY_VRING),
    Request.GET_PROTOCOL_FEATURES: Rule(_get_protocol_features, replies=True),
    Request.SET_PROTOCOL_FEATURES: Rule(_set_protocol_features),
    Request.GET_QUEUE_NUM: Rule(_get_queue_num, replies=True),
    Request.SET_VRING_ENABLE: Rule(_set_vring_enable, _ANY_VRING),
    Request.GET_CONFIG: Rule(_get_config, gate=ProtocolFeature.CONFIG, replies=True),
    Request.SET_CONFIG: Rule(_set_config, gate=ProtocolFeature.CONFIG),
    Request.RESET_DEVICE: Rule(_reset_device, gate=ProtocolFeature.RESET_DEVICE),
    Request.GET_MAX_MEM_SLOTS: Rule(_get_max_mem_slots, gate=_SLOTS, replies=True),
    Request.ADD_MEM_REG: Rule(_add_mem_reg, gate=_SLOTS),
    Request.REM_MEM_REG: Rule(_rem_mem_reg, gate=_SLOTS),
    Request.SET_STATUS: Rule(_set_status, gate=ProtocolFeature.STATUS),
    Request.GET_STATUS: Rule(_get_status, gate=ProtocolFeature.STATUS, replies=True),
}
