"""The benchmark of jobs."""

from __future__ import annotations

from pathlib import Path

from benchmarks.job_cost import table, transactions


def test_every_transaction_of_a_job_is_timed_and_nothing_is_left(tmp_path: Path) -> None:
    seconds = transactions(tmp_path, count=2)
    assert {name: len(each) for name, each in seconds.items()} == {"add": 2, "renew": 2, "read": 2, "end": 2}
    assert table("transaction", {"add": [0.004, 0.002]}).splitlines()[-1] == "| add | 2.00 | 2.00 | 4.00 |"
    assert list(tmp_path.iterdir()) == []
