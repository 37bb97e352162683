"""What processes die of: counted across them, innocents cleared, the guilty refused for a while."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from service.errors import RequestQuarantined
from service.runtime.in_work import DIGEST_BYTES, InWork, Left, left_behind
from service.runtime.quarantine import Quarantine, digest_of
from tests.e2e.conftest import ROOT

KILLED = """
import os, signal, sys
from contextlib import nullcontext
from pathlib import Path
from service.runtime.in_work import InWork
notes, suspects, others = InWork(Path(sys.argv[1])), bytes.fromhex(sys.argv[2]), bytes.fromhex(sys.argv[3])
cut = lambda joined: [joined[at : at + 32] for at in range(0, len(joined), 32)]
with notes.noted([bytes(32)]):
    pass
with notes.noted(cut(suspects), suspected=True), notes.noted(cut(others)):
    with notes.noted(cut(others)[:1]):
        pass
    os.kill(os.getpid(), signal.SIGKILL)
"""
A, B, C = (digest_of(name) for name in "abc")


def killed_while_it_works_on(folder: Path, *digests: bytes, suspect: bytes = b"") -> None:
    words = [str(folder), suspect.hex(), b"".join(digests).hex()]
    assert subprocess.run([sys.executable, "-c", KILLED, *words], cwd=ROOT, check=False).returncode < 0


class Work:
    """Answers every job with its name in capitals, and remembers what came together."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []

    def __call__(self, jobs: Sequence[str]) -> Iterator[tuple[int, str]]:
        self.batches.append(list(jobs))
        for place in reversed(range(len(jobs))):
            yield place, jobs[place].upper()


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def quarantine(folder: Path, opened: ExitStack, clock: Clock | None = None) -> Quarantine:
    made = Quarantine(folder, 60.0, clock or Clock())
    opened.callback(made.close)
    return made


def answers(held: Quarantine, work: Work, *jobs: str) -> list[str | BaseException]:
    return [answer for _, answer in sorted(held.guarding(work, digest_of)(jobs), key=lambda pair: pair[0])]


def test_without_a_death_work_goes_through_as_it_is(tmp_path: Path, opened: ExitStack) -> None:
    work = Work()
    assert answers(quarantine(tmp_path, opened), work, "a", "b", "c") == ["A", "B", "C"]
    assert work.batches == [["a", "b", "c"]]


def test_what_was_in_work_at_a_death_is_tried_again_by_itself_and_cleared_by_its_answer(
    tmp_path: Path, opened: ExitStack
) -> None:
    killed_while_it_works_on(tmp_path, A, C)
    held, work = quarantine(tmp_path, opened), Work()
    assert answers(held, work, "a", "b", "c") == ["A", "B", "C"]
    assert work.batches == [["b"], ["a"], ["c"]]
    assert answers(held, work, "a", "b", "c") == ["A", "B", "C"]
    assert work.batches[3:] == [["a", "b", "c"]]


def died_of(folder: Path, guilty: bytes) -> None:
    killed_while_it_works_on(folder, guilty)
    killed_while_it_works_on(folder, suspect=guilty)


def test_what_is_in_work_whenever_processes_are_killed_from_outside_is_suspected_and_not_refused(
    tmp_path: Path, opened: ExitStack
) -> None:
    for _ in range(3):
        killed_while_it_works_on(tmp_path, A)
    assert answers(quarantine(tmp_path, opened), Work(), "a", "b") == ["A", "B"]


def test_what_two_processes_died_of_is_refused_and_worked_on_no_more(tmp_path: Path, opened: ExitStack) -> None:
    died_of(tmp_path, A)
    held, work = quarantine(tmp_path, opened), Work()
    refused, other = answers(held, work, "a", "b")
    assert isinstance(refused, RequestQuarantined)
    assert "died 2 times" in str(refused)
    assert (other, work.batches) == ("B", [["b"]])
    assert held.readings() == {"requests_quarantined": 1}


def test_only_the_suspect_is_blamed_where_there_was_one(tmp_path: Path) -> None:
    killed_while_it_works_on(tmp_path, A, C, suspect=B)
    assert list(left_behind(tmp_path)) == [Left((B,), suspected=True)]
    assert list(left_behind(tmp_path)) == []


def test_who_lives_is_not_taken_for_dead(tmp_path: Path) -> None:
    notes = InWork(tmp_path)
    with notes.noted([A]):
        assert list(left_behind(tmp_path)) == []
    notes.close()


def test_a_death_is_forgiven_after_its_time(tmp_path: Path, opened: ExitStack) -> None:
    clock, work = Clock(), Work()
    died_of(tmp_path, A)
    held = quarantine(tmp_path, opened, clock)
    assert isinstance(answers(held, work, "a")[0], RequestQuarantined)
    clock.now += 61
    assert answers(held, work, "a") == ["A"]


def test_a_process_learns_of_deaths_that_another_one_has_counted(
    tmp_path: Path, opened: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.runtime.quarantine._LOOK_S", 0.0)
    held, work = quarantine(tmp_path, opened), Work()
    assert answers(held, work, "a") == ["A"]
    died_of(tmp_path, A)
    quarantine(tmp_path, opened)  # whoever replaces them
    assert isinstance(answers(held, work, "a")[0], RequestQuarantined)


def test_a_process_that_ends_in_order_or_had_nothing_in_work_blames_nobody(tmp_path: Path) -> None:
    notes = InWork(tmp_path)
    with notes.noted([A]):
        pass
    notes.close()
    killed_while_it_works_on(tmp_path)
    assert list(left_behind(tmp_path)) == [Left((), suspected=False)]
    assert list(tmp_path.glob("*.notes")) == []


def test_a_count_cut_short_or_damaged_is_read_as_far_as_it_goes(tmp_path: Path, opened: ExitStack) -> None:
    lines = [b"%s 1000.0 %d" % (A.hex().encode(), suspected) for suspected in (0, 1)]
    lines += [b"zz 1000 1", b"00 1000 1", b"\xff\xfe", B.hex().encode()[:20], b"%s 1000.0" % B.hex().encode()]
    (tmp_path / "deaths").write_bytes(b"\n".join(lines))
    held, work = quarantine(tmp_path, opened), Work()
    refused, other = answers(held, work, "a", "b")
    assert isinstance(refused, RequestQuarantined)
    assert other == "B"


def test_an_error_of_one_suspect_is_its_own_and_clears_it(tmp_path: Path, opened: ExitStack) -> None:
    killed_while_it_works_on(tmp_path, A)
    held = quarantine(tmp_path, opened)

    def failing(jobs: Sequence[str]) -> Iterator[tuple[int, str]]:
        yield from ()
        raise KeyError(jobs[0])

    with pytest.raises(KeyError):
        list(held.guarding(failing, digest_of)(["a"]))
    work = Work()
    answers(held, work, "a", "b")
    assert work.batches == [["a", "b"]]


def test_more_than_there_is_room_to_note_is_worked_on_all_the_same(tmp_path: Path) -> None:
    many = [number.to_bytes(DIGEST_BYTES, "big") for number in range(1, 700)]
    killed_while_it_works_on(tmp_path, *many)
    (left,) = left_behind(tmp_path)
    assert len(left.digests) > 100
    assert set(left.digests) <= set(many)


def test_without_a_folder_nothing_is_noted_and_nobody_suspected() -> None:
    work = Work()
    held = Quarantine(None, 60.0)
    assert answers(held, work, "a", "a") == ["A", "A"]
    held.close()


def test_where_a_part_ends_counts_for_a_digest() -> None:
    assert len({digest_of("ab", "c"), digest_of("a", "bc"), digest_of("abc"), digest_of(b"ab", "\ud800")}) == 4
