"""Kills processes whose store is in PostgreSQL and S3, and stops PostgreSQL: a short form of `make crash`."""

from __future__ import annotations

import pytest

from tests.crash.campaign import kill_at_random
from tests.crash.faults import FAULTS
from tests.crash.shared import kill_shared_at_every_call, stop_database_at_random
from tests.crash.stores import Servers
from tests.real_parts import ObjectServer, PostgresServer


@pytest.fixture
def servers(postgres: PostgresServer, objects: ObjectServer, catalog_template: str) -> Servers:
    return Servers(postgres, objects, catalog_template)


@pytest.mark.slow
def test_killed_at_random_moments_a_shared_store_keeps_what_it_acknowledged_and_no_partial_version(
    servers: Servers,
) -> None:
    found = kill_at_random(3, seed=3, new_store=servers.new_store)
    assert found.problems == ()
    assert found.acknowledged > 0


@pytest.mark.slow
def test_a_shared_store_keeps_what_it_acknowledged_when_postgresql_stops_without_warning(servers: Servers) -> None:
    found = stop_database_at_random(servers, 2, seed=1)
    assert found.problems == ()
    assert found.acknowledged > 0


@pytest.mark.parametrize("name", [name for name, fault in FAULTS.items() if fault.found_by == "shared"])
def test_a_seeded_fault_of_a_shared_store_is_found_by_killing_at_every_write(name: str, servers: Servers) -> None:
    kinds = FAULTS[name].kinds
    found = kill_shared_at_every_call(servers, kinds, safe_steps=len(kinds) - 1, fault=name)
    assert found.problems
