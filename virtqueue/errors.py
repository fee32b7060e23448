"""What can go wrong between a front-end and this back-end, by whose fault it is.

``ProtocolError``: the peer broke the protocol. The connection is lost, the server goes on.
``RequestRefused``: the request is well formed, but this device cannot do it now. The peer hears of it when it
asked for an answer (REPLY_ACK); otherwise it would go on in a false belief, so the connection is lost too.

Errors of our own (bugs) keep their types and never become one of these.
"""


class ProtocolError(Exception):
    """The front-end sent what the vhost-user protocol does not allow."""


class RequestRefused(Exception):
    """A legal request that the device, in its present state, cannot carry out."""
