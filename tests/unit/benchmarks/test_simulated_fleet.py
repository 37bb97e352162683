"""The event simulation of many devices."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.simulated_fleet import Assumptions, DeviceCost, simulate

COST = DeviceCost(update_requests=6, update_bytes=110_000, idle_bytes=125, processor_s=0.05)
FEW = Assumptions(devices=2000, failed_share=0.0)


def test_every_device_gets_the_release_within_an_interval_and_its_download() -> None:
    found = simulate(COST, FEW)
    download_s = COST.update_bytes * 8 / 2e6 + 6 * 0.1 + 10 * 0.05
    assert 0 < found.half_s < found.most_s < found.all_s < 90 + FEW.timestamp_s + 90 + download_s
    assert found.half_s == pytest.approx(33, abs=6)


def test_the_origin_delivers_each_file_once_to_each_node() -> None:
    found = simulate(COST, FEW)
    assert found.origin_requests_s <= 4 * FEW.nodes + FEW.nodes
    assert found.origin_mbit_s < FEW.nodes * COST.update_bytes * 8 / 1e6 + 1


def test_a_small_origin_alone_takes_as_long_as_its_bandwidth_says() -> None:
    slow = replace(FEW, nodes=0, origin_gbit_s=0.001)
    least_s = FEW.devices * COST.update_bytes * 8 / 1e6
    assert simulate(COST, slow).all_s > least_s
    assert simulate(COST, replace(FEW, nodes=0)).all_s < least_s


def test_devices_that_are_off_get_it_when_they_return() -> None:
    found = simulate(COST, replace(FEW, off_share=0.05))
    assert found.all_s > 400
    assert found.half_s < 60


def test_failed_polls_delay_some_devices() -> None:
    assert simulate(COST, replace(FEW, failed_share=0.5)).most_s > simulate(COST, FEW).most_s
