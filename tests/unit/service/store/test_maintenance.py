"""The result of checking a store."""

from __future__ import annotations

from service.store.maintenance import CheckReport, Damage


def test_a_store_is_intact_if_neither_blobs_nor_catalog_are_damaged() -> None:
    damage = Damage("line-1", 1, "0" * 64, "missing")
    assert CheckReport(1, 1, (), ()).whole
    assert not CheckReport(1, 1, (damage,), ()).whole
    assert not CheckReport(1, 1, (), ("row missing from index",)).whole
