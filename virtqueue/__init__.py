"""vhost-user back-end without IO in its core, and the driver-side mock that tests it.

In reading order: ``messages`` and ``parser`` (bytes to values), ``events``, ``rules`` and ``session`` (the
state machine), ``listener``, ``transport`` and ``server`` (the socket). The other side, a mock VMM and guest:
``guest_memory``, ``driver``, ``malformed``, ``frontend`` and ``fuse_client``. Standard library only.
"""
