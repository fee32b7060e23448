"""The states of a daemon, as its clients wait for them (contract 4.6). A table; no IO.

A session that is served starts by MOUNT and START before anybody can look; INIT is seen only by those who
let a daemon take over from another.
"""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    INIT = "INIT"
    READY = "READY"
    RUNNING = "RUNNING"
    STOPPED = "STOPPED"


class Event(StrEnum):
    MOUNT = "mount"
    TAKEOVER = "takeover"
    START = "start"
    STOP = "stop"
    EXIT = "exit"


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.INIT, Event.MOUNT): State.READY,
    (State.INIT, Event.TAKEOVER): State.READY,
    (State.INIT, Event.STOP): State.STOPPED,
    (State.READY, Event.START): State.RUNNING,
    (State.READY, Event.STOP): State.STOPPED,
    (State.READY, Event.EXIT): State.STOPPED,
    (State.RUNNING, Event.STOP): State.READY,
}


class UnexpectedEvent(Exception):
    """The state has no such transition."""


class StateMachine:
    """Where a daemon is. `react` moves it, or raises UnexpectedEvent and changes nothing."""

    def __init__(self) -> None:
        self.state = State.INIT

    def react(self, *events: Event) -> None:
        """Take events in turn."""
        state = self.state
        for event in events:
            if (state, event) not in TRANSITIONS:
                raise UnexpectedEvent(f"UnexpectedEvent({event}): not in state {state}")
            state = TRANSITIONS[state, event]
        self.state = state
