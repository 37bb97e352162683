"""The plain loop and the queue compute the same adaptation."""

from __future__ import annotations

import argparse

import torch

from benchmarks.adapt_throughput import PLAIN, QUEUE, PlainLoop, QueueSide, largest_difference, make_setting, table
from benchmarks.measuring import Times


def test_the_plain_loop_and_the_queue_reach_the_same_weights() -> None:
    threads = torch.get_num_threads()
    setting = make_setting(argparse.Namespace(net="omniglot", device="cpu", clients=2, threads=1))
    queue = QueueSide(setting)
    plain, queued = PlainLoop(setting).adapt_all(), queue.adapt_all()
    assert largest_difference(plain, queued) < 0.1 * largest_difference(plain, queued[::-1])
    queue.close()
    torch.set_num_threads(threads)


def test_the_table_shows_clients_per_second_and_the_ratio_to_the_plain_loop() -> None:
    times = {PLAIN: Times([4.0, 8.0, 4.0], [8.0, 8.0, 8.0]), QUEUE: Times([2.0, 2.0, 9.0], [2.0, 4.0, 4.0])}
    (row,) = [line for line in table(times, clients=32).splitlines() if QUEUE in line]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells == [QUEUE, "2000", "16.0", "2.00", "4000", "2.00"]
