"""A service that dies of a request: twice and no more, and whoever was there at the same time is served."""

from __future__ import annotations

import signal
from pathlib import Path

import httpx
import pytest

from tests.integration.dying_service import DEADLY_SEED
from tests.integration.scripted_service import END_LIMIT_S, serving
from tests.integration.test_api_service import samples
from tests.integration.test_disk_faults import shown

pytestmark = pytest.mark.slow


def taught(http: httpx.Client, seed: int) -> httpx.Response:
    named, labels = samples({"fine": 6, "coarse": 20}, seed=3)
    form = {"client": "line", "labels": labels, "seed": str(seed)}
    return http.post("/adapt", data=form, files=[("samples", item) for item in named])


def test_a_request_that_two_processes_died_of_is_refused_and_every_other_served(
    tmp_path: Path, tiny_checkpoint: Path
) -> None:
    for _ in range(2):
        with serving("dying_service.py", tmp_path, tiny_checkpoint) as (http, process):
            assert taught(http, 0).status_code == 201
            with pytest.raises(httpx.TransportError):
                taught(http, DEADLY_SEED)
            assert process.wait(END_LIMIT_S) == -signal.SIGKILL
    with serving("dying_service.py", tmp_path, tiny_checkpoint) as (http, _):
        refused = taught(http, DEADLY_SEED)
        assert (refused.status_code, refused.json()["code"]) == (422, "request_quarantined")
        assert "died 2 times" in refused.json()["detail"]
        assert taught(http, 0).status_code == 201
        assert shown(http).status_code == 200
        assert "anole_requests_quarantined 1.0" in http.get("/metrics").text
