"""Names of clients and aliases; settings of a client, and how they are stored."""

from __future__ import annotations

import pytest

from models.images.depth import DEPTHS
from service.domain.client import BIT_DEPTHS, MAX_KEEP_LAST, ClientSettings, validate_alias_name, validate_client_name
from service.errors import InvalidName, InvalidRequest, StoreIncompatible


def test_settings_are_read_back_as_they_were_stored() -> None:
    settings = ClientSettings(
        retain_samples=False,
        keep_last=3,
        floor=0.0,
        tolerance=0.5,
        unknown_rate=0.1,
        bit_depth=12,
        model="paper",
        uncertainty="bayes",
    )
    assert ClientSettings.from_json(settings.to_json()) == settings


def test_settings_that_were_never_set_are_not_stored_so_that_earlier_releases_can_read_the_others() -> None:
    assert ClientSettings(keep_last=3).to_json() == {"retain_samples": True, "keep_last": 3}


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


@pytest.mark.parametrize("unknown_rate", [-0.01, 0.51, float("nan")])
def test_an_unknown_rate_outside_its_range_is_rejected(unknown_rate: float) -> None:
    with pytest.raises(InvalidRequest, match=r"from 0 to 0\.5"):
        ClientSettings(unknown_rate=unknown_rate)


def test_a_bit_depth_is_one_that_the_decoder_knows() -> None:
    assert BIT_DEPTHS == DEPTHS
    for bit_depth in (0, 9, 32):
        with pytest.raises(InvalidRequest, match="use 8, 10, 12, 14 or 16"):
            ClientSettings(bit_depth=bit_depth)


def test_uncertainty_is_point_or_bayes() -> None:
    with pytest.raises(InvalidRequest, match="use point or bayes"):
        ClientSettings.from_json({"uncertainty": "some"})


@pytest.mark.parametrize("name", ["a", "0", "line-1", "cam.front_left", "x" * 64, "1..2"])
def test_valid_client_names_are_accepted(name: str) -> None:
    assert validate_client_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "A", "-a", ".a", "_a", "a b", "a/b", "..", "ä", "a\n", "a\0", "x" * 65, "x" * 10_000, "%2e", "a#"]
)
def test_invalid_client_names_are_rejected(name: str) -> None:
    with pytest.raises(InvalidName, match="1 to 64 of a-z") as caught:
        validate_client_name(name)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("name", ["live", "canary", "v1", "2026-03"])
def test_valid_alias_names_are_accepted(name: str) -> None:
    assert validate_alias_name(name) == name


@pytest.mark.parametrize("name", ["1", "007"])
def test_an_alias_name_cannot_be_a_version_number(name: str) -> None:
    with pytest.raises(InvalidName, match="version number"):
        validate_alias_name(name)
