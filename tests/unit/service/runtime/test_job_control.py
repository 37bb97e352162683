"""A ticket: how far an adaptation is, and that it can be stopped until its version is recorded."""

from __future__ import annotations

import pytest

from service.errors import DeadlinePassed
from service.runtime.job_control import JobControl, Progress


class Clock:
    """Seconds that a test turns on."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_it_says_how_far_the_work_is_and_tells_who_follows() -> None:
    ticket, told = JobControl(), list[Progress]()
    assert (ticket.progress, ticket.followed) == (Progress(), False)
    ticket.follow(lambda: told.append(ticket.progress))
    ticket.at("adapt")
    ticket.planned(3)
    ticket.step(0.5)
    ticket.step()
    assert told == [
        Progress("adapt"),
        Progress("adapt", 0, 3),
        Progress("adapt", 1, 3, 0.5),
        Progress("adapt", 2, 3, 0.5),
    ]
    ticket.planned(7)
    assert ticket.progress == Progress("adapt", 0, 7)


def test_what_is_stopped_ends_at_its_next_step_with_the_first_reason() -> None:
    ticket = JobControl()
    ticket.step()
    assert ticket.stop(KeyError("first"))
    assert ticket.stop(ValueError("second"))
    for go_on in (ticket.step, ticket.check, ticket.begin, lambda: ticket.at("store")):
        with pytest.raises(KeyError, match="first"):
            go_on()
    with pytest.raises(KeyError), ticket.recording():
        pytest.fail("it was recorded")


def test_what_is_being_recorded_can_no_longer_be_stopped_and_later_it_can() -> None:
    ticket = JobControl()
    with ticket.recording():
        assert not ticket.stop(KeyError())
    ticket.check()
    assert ticket.stop(KeyError())
    with pytest.raises(KeyError):
        ticket.check()


@pytest.mark.parametrize("waits", [True, False])
def test_time_runs_from_acceptance_or_from_the_beginning_of_work(waits: bool) -> None:
    clock = Clock()
    ticket = JobControl(30, waits=waits, clock=clock)
    clock.now += 29
    ticket.begin()
    clock.now += 2
    if waits:
        with pytest.raises(DeadlinePassed, match="after 30 s, and no version was made"):
            ticket.step()
    else:
        ticket.step()
        clock.now += 29
        with pytest.raises(DeadlinePassed), ticket.recording():
            pytest.fail("it was recorded")
