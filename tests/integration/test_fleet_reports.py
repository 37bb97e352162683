"""Reports of devices: how they are sent and read, and what in them halts a rollout."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from service.edge.agent import Counts
from service.edge.bundle import Release
from service.edge.errors import EdgeError
from service.edge.reports import MAX_REPORT_BYTES, DeviceReport, ReleaseCounts, report_of, send
from service.errors import InvalidRequest
from service.fleet import rollout
from service.fleet.rollout import HaltRule, read_reports
from tests.fleet_repository import CLIENT, Device, Publisher


def test_reports_of_a_deleted_client_do_not_count_for_its_successor(publisher: Publisher, device: Device) -> None:
    device.agent.record(device.agent.release(CLIENT), Counts(images=200, unknown=150))
    report = report_of(device.agent)
    made = publisher.files.releases[2]
    successor = Release(made.info.model_copy(update={"version": 1}), made.weights, made.smoke)
    publisher.fleet.publish("stable", successor, publisher.files.start)
    (status,) = publisher.fleet.status([report])
    assert (status.rollout.version, status.counts.devices, status.counts.other_images) == (1, 0, 200)


def test_reports_are_read_from_a_url_that_lists_its_files(device: Device) -> None:
    report = report_of(device.agent)
    files = {
        "/r/": b'[{"name": "a.json", "type": "file"}, {"name": "notes.txt"}]',
        "/r/a.json": report.model_dump_json().encode(),
    }
    answers = httpx.MockTransport(lambda request: httpx.Response(200, content=files[request.url.path]))
    assert read_reports("http://reports.test/r", httpx.Client(transport=answers)) == [report]


@pytest.mark.parametrize("listing", [b"<html>", b"{}", b'["a.json"]', b'[{"name": "a.json"}]', b'[{"name": 1}, {}]'])
def test_a_page_that_is_no_list_of_reports_is_named(listing: bytes) -> None:
    answers = httpx.MockTransport(lambda _: httpx.Response(200, content=listing))
    with pytest.raises(InvalidRequest, match=r"cannot be read|is not a device's report"):
        read_reports("http://reports.test/r", httpx.Client(transport=answers))


def test_reports_of_refusals_and_unknown_images_breach_the_rule(publisher: Publisher, device: Device) -> None:
    loaded = device.agent.release(CLIENT)
    device.agent.record(loaded, Counts(images=200, unknown=150))
    (status,) = publisher.fleet.status([report_of(device.agent)], HaltRule(least_images=100))
    assert status.breach == "75.0% of the images are unknown; at most 50.0% may be"
    publisher.release(
        2, tolerance=1e-6, smoke=tuple(one.model_copy(update={"familiarity": 0.0}) for one in loaded.info.smoke)
    )
    device.agent.poll()
    (status,) = publisher.fleet.status([report_of(device.agent)])
    assert status.breach == "1 of 1 devices refused the release; at most 5.0% may"


def test_a_report_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").mkdir()
    with pytest.raises(InvalidRequest, match=r"a\.json cannot be read"):
        read_reports(str(tmp_path))


def test_reports_that_no_device_sends_are_not_read(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = report_of(device.agent).model_dump_json()
    (tmp_path / "a.json").write_text(report.replace('"images":0', '"images":1' + "0" * 400))
    with pytest.raises(InvalidRequest, match="is not a device's report"):
        read_reports(str(tmp_path))
    (tmp_path / "a.json").write_text(report + " " * MAX_REPORT_BYTES)
    with pytest.raises(InvalidRequest, match=r"a\.json has more than 1048576 bytes"):
        read_reports(str(tmp_path))
    endless = httpx.MockTransport(lambda _: httpx.Response(200, content=b" " * 3000))
    monkeypatch.setattr(rollout, "MAX_LISTING_BYTES", 2000)
    with pytest.raises(InvalidRequest, match=r"http://reports\.test/ has more than 2000 bytes"):
        read_reports("http://reports.test", httpx.Client(transport=endless))
    for name in "abc":
        (tmp_path / f"{name}.json").write_text(report)
    monkeypatch.setattr(rollout, "MAX_REPORTS", 2)
    with pytest.raises(InvalidRequest, match="more than 2 reports"):
        read_reports(str(tmp_path))


def test_a_report_that_cannot_be_sent_is_an_error_of_the_agent(device: Device) -> None:
    with pytest.raises(EdgeError, match="could not be sent to http://reports:port"):
        send(report_of(device.agent), "http://reports:port")


def test_a_device_may_report_on_many_clients(tmp_path: Path) -> None:
    counts = [
        ReleaseCounts(client=f"line-{number}", version=1, images=0, unknown=0, failed=0, seconds=0)
        for number in range(1000)
    ]
    report = DeviceReport(device="0" * 64, channel="stable", releases=tuple(counts))
    send(report, str(tmp_path))
    assert read_reports(str(tmp_path)) == [report]


def test_the_address_of_reports_is_named_if_it_is_no_url() -> None:
    with pytest.raises(InvalidRequest, match="the reports at http://reports:port/ cannot be read"):
        read_reports("http://reports:port")
