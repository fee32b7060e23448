"""Any request in any state, on a device that may refuse: it is answered, or it is a ProtocolError."""

import itertools
from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.virtqueue.bodies import BODIES, EXAMPLES, fd_count
from tests.virtqueue.fake_fd import FakeFd
from virtqueue import events
from virtqueue.errors import ProtocolError, RequestRefused
from virtqueue.features import ProtocolFeature
from virtqueue.memory import MAX_MEM_SLOTS
from virtqueue.messages import (
    FLAG_REPLY,
    HEADER,
    VERSION,
    Body,
    Message,
    Request,
    VringAddr,
    VringFd,
    VringState,
)
from virtqueue.offer import virtio_fs_offer
from virtqueue.rules import RULES, State
from virtqueue.session import Session


class AnyFrontend(RuleBasedStateMachine):
    """A front-end that says anything well formed; after a ProtocolError it connects again."""

    def __init__(self) -> None:
        super().__init__()
        self.offer = virtio_fs_offer(3, "tag")
        self.connect()

    def connect(self) -> None:
        self.session = Session(self.offer)
        self.running: set[int] = set()  # vrings, as the device sees it

    @rule(
        data=st.data(),
        request=st.sampled_from(Request) | st.integers(0, 60),
        need_reply=st.booleans(),
        refuses=st.integers(0, 9).map(lambda n: n == 0),
    )
    def say(self, data: st.DataObject, request: int, need_reply: bool, refuses: bool) -> None:
        strategy = BODIES.get(Request(request)) if request in EXAMPLES else st.binary(max_size=9)
        assert strategy is not None
        body = data.draw(strategy)
        self.give(request, body, need_reply, refuses)

    @rule(protocol=st.sampled_from([8, 0x1A209]), index=st.integers(0, 3))
    def start_a_vring(self, protocol: int, index: int) -> None:
        """The lawful way, so that running vrings are met often enough."""
        for request in (
            Request.SET_PROTOCOL_FEATURES,
            Request.SET_FEATURES,
            Request.SET_MEM_TABLE,
            Request.SET_VRING_NUM,
            Request.SET_VRING_ADDR,
            Request.SET_VRING_KICK,
        ):
            body = EXAMPLES[request][0]
            if request is Request.SET_PROTOCOL_FEATURES:
                body = protocol
            elif isinstance(body, VringState | VringAddr | VringFd):
                body = replace(body, index=index)
            self.give(request, body, True, False)

    def give(self, request: int, body: Body, need_reply: bool, refuses: bool) -> None:
        fds = tuple(FakeFd() for _ in range(fd_count(request, body)))
        message = Message(request, body, fds, need_reply)
        before = self.session.state
        decision, event, refused = None, None, False
        try:
            try:
                decision = self.session.receive(message)
                event = decision.event
                if event is not None and refuses:
                    raise RequestRefused("the device does not want to")
            except RequestRefused as refusal:
                refused = True
                reply = self.session.refuse(message, refusal, decision)
            else:
                stopped = isinstance(event, events.VringStopRequested)
                reply = self.session.complete(decision, 7 if stopped else None)
        except ProtocolError:
            assert refused, "only a refusal that cannot be told ends a session"
            self.connect()
            return
        if refused:
            if not isinstance(event, events.MemTableSet):
                assert self.session.state == before
        else:
            self.follow(event, before)
        self.check_reply(request, need_reply, reply, refused)

    def follow(self, event: events.Event | None, before: State) -> None:
        match event:
            case events.VringKickSet(index):
                self.running.add(index)
            case events.VringStopRequested(index):
                self.running.discard(index)
            case events.DeviceReset():
                self.running.clear()
            case events.VringNumSet(index) | events.VringBaseSet(index):
                assert index not in self.running or not before.vrings[index].enabled
                self.running.discard(index)

    def check_reply(self, request: int, need_reply: bool, reply: bytes, refused: bool) -> None:
        replies = request in RULES and RULES[request].replies
        acks = bool(self.session.state.protocol_features & ProtocolFeature.REPLY_ACK)
        assert bool(reply) == (replies or (need_reply and acks))
        if not reply:
            return
        number, flags, size = HEADER.unpack_from(reply)
        assert (number, flags, size) == (request, VERSION | FLAG_REPLY, len(reply) - HEADER.size)
        if not replies:
            assert int.from_bytes(reply[12:], "little") == int(refused)

    @invariant()
    def features_were_offered(self) -> None:
        state = self.session.state
        assert not (state.virtio_features or 0) & ~self.offer.virtio_features
        assert not state.protocol_features & ~self.offer.protocol_features

    @invariant()
    def memory_is_sound(self) -> None:
        regions = sorted(self.session.state.memory.regions, key=lambda region: region.gpa)
        assert len(regions) <= MAX_MEM_SLOTS
        for region in regions:
            assert 0 < region.size <= (1 << 64) - max(region.gpa, region.user_addr, region.mmap_offset)
        for low, high in itertools.pairwise(regions):
            assert low.gpa + low.size <= high.gpa

    @invariant()
    def started_vrings_are_configured(self) -> None:
        state = self.session.state
        assert {i for i, vring in enumerate(state.vrings) if vring.started} == self.running
        for vring in state.vrings:
            if vring.started:
                assert vring.num
                assert vring.has_addr
                assert state.virtio_features is not None


AnyFrontend.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAnyFrontend = AnyFrontend.TestCase
