"""The states of a daemon: every event in every state."""

from __future__ import annotations

import pytest

from vhostfs.api.state import TRANSITIONS, Event, State, StateMachine, UnexpectedEvent


def machine(state: State) -> StateMachine:
    machine = StateMachine()
    machine.state = state
    return machine


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("event", Event)
def test_every_event_moves_or_is_refused(state: State, event: Event) -> None:
    tried = machine(state)
    if (state, event) in TRANSITIONS:
        tried.react(event)
        assert tried.state is TRANSITIONS[state, event]
    else:
        with pytest.raises(UnexpectedEvent, match=f"{event}.*{state}"):
            tried.react(event)
        assert tried.state is state


def test_the_lives_that_clients_know() -> None:
    """Contract 4.6: a start, an exit, a take-over with start, and the end of one that was never started."""
    life = StateMachine()
    assert life.state == "INIT"
    life.react(Event.MOUNT, Event.START)
    assert life.state == "RUNNING"
    life.react(Event.STOP, Event.EXIT)
    assert life.state == "STOPPED"
    successor = StateMachine()
    successor.react(Event.TAKEOVER)
    assert successor.state == "READY"
    successor.react(Event.START)
    assert successor.state == "RUNNING"
    idle = StateMachine()
    idle.react(Event.STOP)
    assert idle.state == "STOPPED"


def test_events_count_together_or_not_at_all() -> None:
    tried = machine(State.RUNNING)
    with pytest.raises(UnexpectedEvent):
        tried.react(Event.STOP, Event.TAKEOVER)
    assert tried.state is State.RUNNING


def test_nothing_leads_out_of_the_end() -> None:
    assert not [event for state, event in TRANSITIONS if state is State.STOPPED]
