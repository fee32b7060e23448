"""``Talk``: a session with a device that does as it is told, or refuses, without any IO."""

from tests.virtqueue.fake_fd import FakeFd
from virtqueue import events
from virtqueue.errors import RequestRefused
from virtqueue.features import ProtocolFeature
from virtqueue.messages import Body, Message, Request, VringFd, VringState
from virtqueue.offer import PROTOCOL_FEATURES, Offer
from virtqueue.session import Session

ALL_PROTOCOL: int = int(PROTOCOL_FEATURES)
assert ALL_PROTOCOL & ProtocolFeature.REPLY_ACK


class Talk:
    def __init__(self, offer: Offer) -> None:
        self.session = Session(offer)
        self.events: list[events.Event] = []
        self.vring_base = 0
        self.device_error: RequestRefused | None = None
        self.refusal = ""

    def message(self, request: int, body: Body = None, *, need_reply: bool = True) -> Message:
        """A message as the parser makes it, with as many descriptors as belong to it."""
        if isinstance(body, VringFd):
            count = int(body.has_fd)
        elif isinstance(body, tuple):
            count = len(body)
        else:
            count = int(request == Request.ADD_MEM_REG)
        return Message(request, body, tuple(FakeFd() for _ in range(count)), need_reply)

    def give(self, message: Message) -> bytes:
        """The reply's bytes to a message."""
        decision = None
        try:
            decision = self.session.receive(message)
            if decision.event is not None:
                if self.device_error is not None:
                    raise self.device_error
                self.events.append(decision.event)
        except RequestRefused as refusal:
            self.refusal = str(refusal)
            return self.session.refuse(message, refusal, decision)
        stopped = isinstance(decision.event, events.VringStopRequested)
        return self.session.complete(decision, self.vring_base if stopped else None)

    def say(self, request: int, body: Body = None, *, need_reply: bool = True) -> int | None:
        """The number in the reply (an acknowledgement, usually), or None when there is no reply."""
        reply = self.give(self.message(request, body, need_reply=need_reply))
        if not reply:
            return None
        assert reply[:12] == request.to_bytes(4, "little") + b"\5\0\0\0" + b"\x08\0\0\0"
        return int.from_bytes(reply[12:], "little")

    def tell(self, request: int, body: Body = None) -> None:
        """Say it without asking for an answer, and get none."""
        assert self.say(request, body, need_reply=False) is None

    def number(self, request: Request) -> int:
        value = self.say(request, need_reply=False)
        assert value is not None
        return value

    def state_reply(self, request: Request, body: Body) -> VringState:
        value = self.say(request, body, need_reply=False)
        assert value is not None
        return VringState(value & 0xFFFFFFFF, value >> 32)
