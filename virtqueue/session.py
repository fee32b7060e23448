"""``Session``: one connection's way through ``RULES``. Pure and synchronous.

The next state is committed by ``complete``, after the device has done its part, so a device that refuses
leaves the session as it was. Who calls what, for each message:

    decision = session.receive(message)      may raise ProtocolError, RequestRefused
    base = apply(decision.event)             if there is one; may raise RequestRefused
    reply = session.complete(decision, base)
    ... and on RequestRefused:               reply = session.refuse(message, refusal, decision)

Facts of the protocol that shape the table (QEMU, docs/interop/vhost-user):

- SET_OWNER only marks a start, and front-ends ask for features before it; nothing waits for it. RESET_OWNER
  is deprecated and may be ignored. We do: without PROTOCOL_FEATURES vrings are enabled all at once and for
  good, and a front-end that had them disabled could not get them back.
- A vring has two independent properties. It is started by SET_VRING_KICK and stopped by GET_VRING_BASE. It is
  enabled by SET_VRING_ENABLE, or, all at once, by SET_FEATURES without PROTOCOL_FEATURES; SET_FEATURES never
  disables one. Either may come first.
- Cloud Hypervisor resets a device by disabling its vrings; it never asks for their base, and sets them up
  again later. So SET_VRING_NUM and SET_VRING_BASE stop a vring that is started and disabled; an active one
  refuses them.
- QEMU sends SET_VRING_CALL before SET_FEATURES, and may send SET_VRING_ENABLE to whoever offers
  PROTOCOL_FEATURES, taken or not.
- Front-ends that add and remove single regions keep their own picture of our table across a device reset and
  send only what changes. So a reset leaves guest memory shared.
- NEED_REPLY counts once REPLY_ACK is acknowledged; a request with a reply of its own gets just that one.
- A refused request that cannot be answered ends the connection: its sender would go on in a false belief.
"""

from virtqueue import events
from virtqueue.errors import ProtocolError, RequestRefused
from virtqueue.features import ProtocolFeature
from virtqueue.messages import Message, VringState, pack_reply
from virtqueue.offer import Offer
from virtqueue.rules import RULES, Decision, State, Vring, check_needs

ACK_OK = 0
ACK_FAILED = 1


class Session:
    """The session of one connection with a device that is as ``offer`` says."""

    def __init__(self, offer: Offer) -> None:
        self.offer = offer
        self.state = State(vrings=(Vring(),) * offer.vring_count)

    def receive(self, message: Message) -> Decision:
        """Decide about one request. RequestRefused: give it to ``refuse``."""
        rule = RULES.get(message.request)
        if rule is None:
            raise RequestRefused(f"{message.name} is not supported")
        if rule.gate is not None and not rule.gate & self.state.protocol_features:
            raise RequestRefused(f"{message.name} without protocol feature {rule.gate.name}")
        check_needs(rule.needs, self.state, message)
        return rule.decide(self.offer, self.state, message)

    def complete(self, decision: Decision, vring_base: int | None = None) -> bytes:
        """The device has done its part: commit, and return the reply's bytes (empty when there is none).

        ``vring_base``: what the device returned for ``VringStopRequested``.
        """
        self.state = decision.state
        message = decision.message
        if isinstance(decision.event, events.VringStopRequested):
            if vring_base is None:
                raise TypeError("the device must return where the vring stopped")
            return pack_reply(message.request, VringState(decision.event.index, vring_base))
        if RULES[message.request].replies:
            return pack_reply(message.request, decision.reply)
        return pack_reply(message.request, ACK_OK) if self._wants_ack(message) else b""

    def refuse(self, message: Message, refusal: RequestRefused, decision: Decision | None) -> bytes:
        """The reply that tells the front-end of a refusal; ProtocolError when there is no way to tell it.

        ``decision``: what ``receive`` decided, when it was the device that refused.
        """
        if decision is not None and decision.state_if_refused is not None:
            self.state = decision.state_if_refused
        rule = RULES.get(message.request)
        if not self._wants_ack(message) or (rule is not None and rule.replies):
            raise ProtocolError(str(refusal)) from refusal
        return pack_reply(message.request, ACK_FAILED)

    def _wants_ack(self, message: Message) -> bool:
        # The state after the request: a front-end that asks for an answer to the very SET_PROTOCOL_FEATURES
        # that takes REPLY_ACK counts on it.
        return message.need_reply and bool(self.state.protocol_features & ProtocolFeature.REPLY_ACK)
