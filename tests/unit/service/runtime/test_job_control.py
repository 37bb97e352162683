"""Progress of an adaptation, and stopping it until its version is stored."""

from __future__ import annotations

import pytest

from service.errors import DeadlinePassed
from service.runtime.job_control import JobControl, Progress


class Clock:
    """A clock that the test advances."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_progress_is_reported_to_the_callback() -> None:
    control, changes = JobControl(), list[Progress]()
    assert (control.progress, control.observed) == (Progress(), False)
    control.on_change(lambda: changes.append(control.progress))
    control.enter("adapt")
    control.plan(3)
    control.step(0.5)
    control.step()
    assert changes == [
        Progress("adapt"),
        Progress("adapt", 0, 3),
        Progress("adapt", 1, 3, 0.5),
        Progress("adapt", 2, 3, 0.5),
    ]
    control.plan(7)
    assert control.progress == Progress("adapt", 0, 7)


def test_a_stopped_adaptation_ends_at_its_next_step_with_the_first_error() -> None:
    control = JobControl()
    control.step()
    assert control.stop(KeyError("first"))
    assert control.stop(ValueError("second"))
    for proceed in (control.step, control.check, control.start, lambda: control.enter("store")):
        with pytest.raises(KeyError, match="first"):
            proceed()
    with pytest.raises(KeyError), control.committing():
        pytest.fail("it was stored")


def test_an_adaptation_cannot_be_stopped_while_its_version_is_stored() -> None:
    control = JobControl()
    with control.committing():
        assert not control.stop(KeyError())
    control.check()
    assert control.stop(KeyError())
    with pytest.raises(KeyError):
        control.check()


@pytest.mark.parametrize("include_waiting", [True, False])
def test_the_time_limit_counts_from_acceptance_or_from_the_start(include_waiting: bool) -> None:
    clock = Clock()
    control = JobControl(30, include_waiting=include_waiting, clock=clock)
    clock.now += 29
    control.start()
    clock.now += 2
    if include_waiting:
        with pytest.raises(DeadlinePassed, match="after 30 s, and no version was made"):
            control.step()
    else:
        control.step()
        clock.now += 29
        with pytest.raises(DeadlinePassed), control.committing():
            pytest.fail("it was stored")
