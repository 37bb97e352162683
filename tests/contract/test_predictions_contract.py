"""Contract of every `Catalog` for the prediction log, and for which answers are logged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from service.domain.client import ClientSettings
from service.domain.drift import Period
from service.domain.prediction_log import Comparison, Judgement, LoggedPrediction, PredictionQuery, Retention
from service.domain.version import CANDIDATE, LIVE
from service.errors import AliasConflict, UnknownAlias, UnknownClient, UnknownVersion
from service.store.catalog.catalog import Catalog
from service.store.ports import Database
from service.usecases.judged import Judged
from tests.contract.values import CLIENT, a_draft, digest_of

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
KEPT = Retention(days=90, rows=1000)
EVERYTHING = PredictionQuery()
near: Any = pytest.approx


@pytest.fixture
def catalog(database: Database) -> Catalog:
    """A catalog at noon of one day."""
    return Catalog(database, clock=lambda: NOON)


def said(version: int = 1, label: str = "scratch", verdict: Any = "known") -> Judgement:
    return Judgement(version, label, 0.1 + 0.2, 0.25, verdict)


def entry(catalog: Catalog, minute: int = 0, client: str = CLIENT, **changes: Any) -> LoggedPrediction:
    made = LoggedPrediction(
        client, catalog.client(client).created_at, NOON + minute * MINUTE, digest_of("file"), None, None, None, said()
    )
    return replace(made, **changes)


def unnumbered(entries: Sequence[LoggedPrediction]) -> list[LoggedPrediction]:
    return [replace(each, id=0) for each in entries]


def test_entries_are_read_back_newest_first(catalog: Catalog) -> None:
    catalog.publish(a_draft(), [LIVE])
    whole = entry(catalog, 2, part="0417", station="camera-3", request_id="r1", candidate=said(2, "dent", "unknown"))
    bare = entry(catalog, 1, judgement=replace(said(), unknown_score=None))
    assert catalog.add_predictions([bare, whole], KEPT) == 2
    assert unnumbered(catalog.predictions(CLIENT, EVERYTHING)) == [whole, bare]
    with pytest.raises(UnknownClient):
        catalog.predictions("missing", EVERYTHING)


def test_pages_follow_each_other_whatever_is_added_meanwhile(catalog: Catalog) -> None:
    catalog.publish(a_draft(), [LIVE])
    catalog.add_predictions([entry(catalog, minute, part=str(minute)) for minute in (0, 0, 1, 0)], KEPT)
    first = catalog.predictions(CLIENT, PredictionQuery(limit=2))
    catalog.add_predictions([entry(catalog, 5)], KEPT)
    second = catalog.predictions(CLIENT, PredictionQuery(limit=2, after=first[-1].id))
    assert [each.id for each in first + second] == [3, 4, 2, 1]
    assert catalog.predictions(CLIENT, PredictionQuery(after=second[-1].id)) == ()
    assert catalog.predictions(CLIENT, PredictionQuery(after=999)) == ()


def test_entries_are_selected_by_what_they_have(catalog: Catalog) -> None:
    catalog.publish(a_draft(), [LIVE])
    catalog.publish(a_draft("line-2"), [LIVE])
    other = entry(catalog, 0, "line-2", part="0417")
    one = entry(catalog, 1, part="0417", station="camera-3", candidate=said(4))
    two = entry(catalog, 2, image_digest=digest_of("two"), judgement=said(2, "dent", "unknown"))
    catalog.add_predictions([other, one, two], KEPT)
    expected: list[tuple[dict[str, Any], LoggedPrediction]] = [
        ({"part": "0417"}, one),
        ({"station": "camera-3"}, one),
        ({"candidate": 4}, one),
        ({"image": digest_of("two")}, two),
        ({"label": "dent"}, two),
        ({"verdict": "unknown"}, two),
        ({"version": 2}, two),
        ({"since": NOON + 2 * MINUTE}, two),
        ({"until": NOON + 2 * MINUTE}, one),
    ]
    for query, found in expected:
        assert unnumbered(catalog.predictions(CLIENT, PredictionQuery(**query))) == [found], query
    assert catalog.predictions(CLIENT, PredictionQuery(part="0417", label="dent")) == ()


def test_the_log_of_a_deleted_client_is_erased_and_does_not_pass_to_its_successor(catalog: Catalog) -> None:
    catalog.publish(a_draft(), [LIVE])
    late = replace(entry(catalog), client_created_at=NOON - MINUTE)
    catalog.add_predictions([entry(catalog)], KEPT)
    catalog.delete_client(CLIENT)
    catalog.publish(a_draft(), [LIVE])
    assert catalog.add_predictions([late], KEPT) == 0
    assert catalog.predictions(CLIENT, EVERYTHING) == ()


def test_entries_beyond_the_number_that_is_kept_are_deleted_oldest_first(catalog: Catalog) -> None:
    catalog.publish(a_draft(), [LIVE])
    few = Retention(days=90, rows=3)
    for minute in range(6):
        catalog.add_predictions([entry(catalog, minute)], few)
    catalog.add_predictions([], few)
    assert [each.at for each in catalog.predictions(CLIENT, EVERYTHING)] == [NOON + n * MINUTE for n in (5, 4, 3)]


def test_entries_that_are_too_old_are_deleted(catalog: Catalog) -> None:
    catalog.publish(a_draft(), [LIVE])
    catalog.add_predictions([entry(catalog, -24 * 60 - 1), entry(catalog, -24 * 60)], KEPT)
    catalog.add_predictions([], Retention(days=1, rows=1000))
    assert [each.at for each in catalog.predictions(CLIENT, EVERYTHING)] == [NOON - timedelta(days=1)]


def test_an_entry_of_a_machine_whose_clock_was_wrong_takes_no_other_entry_with_it(catalog: Catalog) -> None:
    catalog.publish(a_draft(), [LIVE])
    long_ago = replace(entry(catalog), at=NOON - timedelta(days=10_000))
    catalog.add_predictions([entry(catalog, 1), long_ago, entry(catalog, 2)], KEPT)
    catalog.add_predictions([], KEPT)
    assert [each.at for each in catalog.predictions(CLIENT, EVERYTHING)] == [NOON + 2 * MINUTE, NOON + MINUTE]


def test_a_copy_of_the_catalog_has_the_log(catalog: Catalog, tmp_path: Path) -> None:
    catalog.publish(a_draft(), [LIVE])
    catalog.add_predictions([entry(catalog)], KEPT)
    catalog.export(tmp_path / "copy.sqlite3")
    with catalog.copy_in(tmp_path / "copy.sqlite3") as copy:
        assert copy.predictions(CLIENT, EVERYTHING) == catalog.predictions(CLIENT, EVERYTHING)
        assert copy.problems() == ()


def test_the_setting_says_whether_predictions_are_logged(catalog: Catalog) -> None:
    catalog.publish(a_draft(), [LIVE])
    assert not catalog.served(CLIENT, LIVE).logged
    catalog.update_settings(CLIENT, ClientSettings(log_predictions=True))
    assert catalog.served(CLIENT, LIVE).logged
    assert catalog.served(CLIENT, 1).logged
    catalog.change_settings(CLIENT, {"log_predictions": False})
    assert not catalog.served(CLIENT, LIVE).logged
    assert catalog.served(CLIENT, LIVE).client_created_at == NOON


def test_a_candidate_judges_what_the_live_version_answers_until_it_is_live_itself(catalog: Catalog) -> None:
    for _ in range(3):
        catalog.publish(a_draft(), [])
    catalog.move_alias(CLIENT, LIVE, 1, expected_revision=None)
    assert catalog.served(CLIENT, LIVE).candidate is None
    catalog.move_alias(CLIENT, CANDIDATE, 2, expected_revision=None)
    assert catalog.served(CLIENT, LIVE).candidate == 2
    assert catalog.served(CLIENT, 1).candidate is None
    assert catalog.served(CLIENT, CANDIDATE).candidate is None
    catalog.move_alias(CLIENT, LIVE, 2, expected_revision=None)
    assert catalog.served(CLIENT, LIVE).candidate is None
    catalog.move_alias(CLIENT, LIVE, 3, expected_revision=None)
    assert catalog.served(CLIENT, LIVE).candidate is None


def test_an_earlier_live_version_can_be_a_candidate_and_the_live_one_ends_it(catalog: Catalog) -> None:
    for _ in range(3):
        catalog.publish(a_draft(), [LIVE])
    catalog.move_alias(CLIENT, CANDIDATE, 1, expected_revision=None)
    assert catalog.served(CLIENT, LIVE).candidate == 1
    catalog.move_alias(CLIENT, CANDIDATE, 3, expected_revision=None)
    assert catalog.served(CLIENT, LIVE).candidate is None
    catalog.move_alias(CLIENT, LIVE, 2, expected_revision=None)
    assert catalog.served(CLIENT, LIVE).candidate is None
    catalog.move_alias(CLIENT, CANDIDATE, 3, expected_revision=None)
    assert catalog.served(CLIENT, LIVE).candidate == 3


def test_answers_that_a_candidate_would_change_are_counted_and_listed(catalog: Catalog) -> None:
    for _ in range(3):
        catalog.publish(a_draft(), [LIVE])
    pairs = [
        (said(1), said(2)),
        (said(1), said(2, "dent")),
        (said(1, "scratch", "unknown"), said(2, "dent", "unknown")),
        (said(1), said(2, "scratch", "unknown")),
        (said(1), said(3, "dent")),
        (said(1), None),
    ]
    entries = [entry(catalog, at, judgement=one, candidate=two) for at, (one, two) in enumerate(pairs)]
    catalog.add_predictions(entries, KEPT)
    assert catalog.compare_judgements(CLIENT, 1, 2) == Comparison(4, 2, 1, 2)
    assert catalog.compare_judgements(CLIENT, 2, 3) == Comparison(0, 0, 0, 0)
    changed = PredictionQuery(version=1, candidate=2, changed=True)
    assert unnumbered(catalog.predictions(CLIENT, changed)) == [entries[3], entries[1]]
    assert unnumbered(catalog.predictions(CLIENT, replace(changed, changed=False))) == [entries[2], entries[0]]
    with pytest.raises(UnknownVersion):
        catalog.compare_judgements(CLIENT, 1, 9)


def test_the_candidate_is_promoted_if_the_live_version_is_the_expected_one(catalog: Catalog) -> None:
    for _ in range(2):
        catalog.publish(a_draft(), [])
    live = catalog.move_alias(CLIENT, LIVE, 1, expected_revision=None)
    with pytest.raises(UnknownAlias):
        catalog.promote(CLIENT)
    catalog.move_alias(CLIENT, CANDIDATE, 2, expected_revision=None)
    with pytest.raises(AliasConflict):
        catalog.promote(CLIENT, expected_revision=7)
    moved = catalog.promote(CLIENT, expected_revision=live.tag)
    assert (moved.alias, moved.version, moved.previous, moved.reason) == (LIVE, 2, 1, "promote")
    assert catalog.served(CLIENT, LIVE).number == 2
    assert catalog.promote(CLIENT) == moved
    assert len(catalog.history(CLIENT)) == 3
    with pytest.raises(AliasConflict):
        catalog.promote(CLIENT, expected_revision=live.tag)
    assert catalog.roll_back(CLIENT, LIVE).version == 1
    assert catalog.promote(CLIENT).revision == 4


def test_answers_of_live_versions_are_counted_by_the_hour_among_the_newest_of_all_clients(catalog: Catalog) -> None:
    for client in (CLIENT, CLIENT, "other"):
        catalog.publish(a_draft(client), [LIVE])
    unknown, earlier = said(2, "scratch", "unknown"), said(1)
    pairs = [(0, said(2)), (10, unknown), (59, said(2)), (60, unknown), (61, earlier)]
    catalog.add_predictions([entry(catalog, at, judgement=one) for at, one in pairs], KEPT)
    catalog.add_predictions([entry(catalog, 5, "other")], KEPT)
    hours = [Period(NOON, 2, 1, near(2 * 0.7)), Period(NOON + 60 * MINUTE, 1, 1, near(0.7))]
    since = NOON + MINUTE
    found = catalog.live_hours([CLIENT, "other"], since, 100)
    assert (found[CLIENT], found["other"]) == (hours, [Period(NOON, 1, 0, near(0.7))])
    assert catalog.live_hours([CLIENT], since, 100).keys() == {CLIENT}
    assert catalog.live_hours([CLIENT], since, 3) == {CLIENT: hours[1:]}
    assert catalog.live_hours([], since, 100) == {}


def test_the_drift_of_many_clients_is_that_of_each(catalog: Catalog) -> None:
    judged = Judged(cast(Any, SimpleNamespace(catalog=catalog)), lambda: NOON + 60 * MINUTE)
    sure = replace(said(), confidence=1.0)
    for client, judgement in (("doubtful", said()), ("sure", sure), ("quiet", None)):
        catalog.publish(replace(a_draft(client), report={"interval": [0.9, 1.0]}), [LIVE])
        if judgement is not None:
            catalog.add_predictions([entry(catalog, at, client, judgement=judgement) for at in range(40)], KEPT)
    assert judged.drift_of(["doubtful", "quiet", "sure"]) == {"doubtful": True, "sure": False}
    assert [judged.drift(client).drifting for client in ("doubtful", "quiet", "sure")] == [True, False, False]


def test_recent_answers_of_a_version_are_read_newest_first(catalog: Catalog) -> None:
    catalog.publish(a_draft(), [LIVE])
    unknown = said(1, "scratch", "unknown")
    entries = [entry(catalog, at, judgement=one) for at, one in enumerate((said(1), unknown, said(2), said(1)))]
    catalog.add_predictions(entries, KEPT)
    newest, before = catalog.recent_judgements(CLIENT, 1, NOON + MINUTE, 10)
    assert (newest, before) == ((NOON + 3 * MINUTE, False, 0.1 + 0.2), (NOON + MINUTE, True, 0.1 + 0.2))
    assert catalog.recent_judgements(CLIENT, 1, NOON, 1) == [newest]
