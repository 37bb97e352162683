"""What a client may choose, and how a choice is kept."""

from __future__ import annotations

import pytest

from service.domain.client import MAX_KEEP_LAST, ClientSettings
from service.errors import InvalidRequest, StoreIncompatible


def test_a_choice_survives_being_kept() -> None:
    chosen = ClientSettings(retain_samples=False, keep_last=3)
    assert ClientSettings.from_json(chosen.to_json()) == chosen


def test_a_setting_that_was_not_there_yet_has_its_default() -> None:
    assert ClientSettings.from_json({}) == ClientSettings()
    assert ClientSettings.from_json({"keep_last": 2}) == ClientSettings(keep_last=2)


def test_a_setting_of_a_newer_release_is_not_ignored() -> None:
    with pytest.raises(StoreIncompatible, match="keep_forever"):
        ClientSettings.from_json({"keep_forever": True})


@pytest.mark.parametrize("keep_last", [0, -1, MAX_KEEP_LAST + 1])
def test_a_number_of_versions_outside_its_range_is_refused(keep_last: int) -> None:
    with pytest.raises(InvalidRequest, match="allowed: 1 to"):
        ClientSettings(keep_last=keep_last)
