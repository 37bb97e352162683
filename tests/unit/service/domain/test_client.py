"""Settings of a client, and how they are stored."""

from __future__ import annotations

import pytest

from service.domain.client import MAX_KEEP_LAST, ClientSettings
from service.errors import InvalidRequest, StoreIncompatible


def test_settings_are_read_back_as_they_were_stored() -> None:
    settings = ClientSettings(retain_samples=False, keep_last=3)
    assert ClientSettings.from_json(settings.to_json()) == settings


def test_a_missing_setting_gets_its_default() -> None:
    assert ClientSettings.from_json({}) == ClientSettings()
    assert ClientSettings.from_json({"keep_last": 2}) == ClientSettings(keep_last=2)


def test_a_setting_of_a_newer_release_is_an_error() -> None:
    with pytest.raises(StoreIncompatible, match="keep_forever"):
        ClientSettings.from_json({"keep_forever": True})


@pytest.mark.parametrize("keep_last", [0, -1, MAX_KEEP_LAST + 1])
def test_a_keep_last_outside_its_range_is_rejected(keep_last: int) -> None:
    with pytest.raises(InvalidRequest, match="use 1 to"):
        ClientSettings(keep_last=keep_last)
