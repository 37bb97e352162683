"""Two keys, every route and every ID of the other key's client: no response reveals anything about that client."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from models.images.preprocessing import decode
from service import bootstrap
from service.domain.key import Grant
from service.http.app import create_app
from service.settings import Settings, load_settings
from service.store.version_store import encode_sample
from service.usecases.keys import KeyCache, create
from tests.generated import striped, tiny_checkpoint_in
from tests.in_process import Web, started
from tests.unit.service.http.middleware.test_auth import GUARDED

PICTURES = striped(2, 4) + striped(2, 13)
SAMPLES = [("samples", (f"{index}.png", content)) for index, content in enumerate(PICTURES)]
LABELS = ["fine", "fine", "coarse", "coarse"]
MINE, THEIRS, MISSING = "line-mine", "line-othr", "line-none"  # of the same length, so that Content-Length is equal
IDS = {
    "client": (MINE, THEIRS, MISSING),
    "version": ("1", "2", "99"),
    "before": ("1", "2"),
    "candidate": ("1", "2"),
    "after": ("1", "2"),
    "alias": ("live", "absent"),
    "digest": (encode_sample(decode(PICTURES[0])).digest, "0" * 64),
    "name": ("tiny",),
    "job": ("0" * 32,),
}
ROUTES = GUARDED
OF_A_CLIENT = [route for route in ROUTES if "{client}" in route[1]]
NAMED_IN_THE_FORM = {("POST", "/adapt"), ("POST", "/predict")}
OF_NO_CLIENT = {
    *(("GET", "/clients"), ("GET", "/metrics"), ("GET", "/models"), ("GET", "/models/{name}")),
    ("GET", "/audit"),
}
OF_A_JOB = {("GET", "/jobs/{job}"), ("DELETE", "/jobs/{job}"), ("GET", "/jobs/{job}/events")}
VARYING = re.compile(rb'"(seconds|request_id|moved_at|created_at)":("[^"]*"|[\d.e-]+)')


class TwoKeys:
    """A service with two keys. Each has all scopes for one client and no access to the other client."""

    def __init__(self, web: Web, keys: tuple[str, str]) -> None:
        self.web = web
        self.mine, self.theirs = ({"X-API-Key": key} for key in keys)
        for client, headers in ((MINE, self.mine), (THEIRS, self.theirs)):
            for _ in range(2):
                assert self.adapt(client, headers).status_code == 201

    def adapt(self, client: str, headers: dict[str, str]) -> Any:
        fields = {"client": client, "labels": LABELS, "publish": "always", "mode": "replace", "steps": "1"}
        return self.web("POST", "/adapt", data=fields, files=SAMPLES, headers=headers)

    def state_of_theirs(self) -> list[bytes]:
        paths = (
            f"/clients/{THEIRS}{rest}" for rest in ("", "/versions", "/history", "/settings", "/versions/1/weights")
        )
        return [self.web("GET", path, headers=self.theirs).content for path in paths]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoKeys]:
    """Shared by all tests of the module, because none of them may change the client of the second key."""
    folder = tmp_path_factory.mktemp("isolation")
    settings: Settings = load_settings(
        data=folder / "data", model=str(tiny_checkpoint_in(folder)), device="cpu", demo=False, key_rate_per_s=1e6
    )
    with bootstrap.open_keys(settings) as store:
        grants = (Grant(client, ("predict", "adapt", "admin"), (client,)) for client in (MINE, THEIRS))
        keys = [create(store, grant)[0] for grant in grants]
        create(store, Grant("neither", ("predict",), ("line-none",)))
    services = bootstrap.build(settings)
    assert isinstance(services.keys, KeyCache)
    with started(create_app(settings, lambda _: services), services) as web:
        yield TwoKeys(web, (keys[0], keys[1]))


def paths(template: str, client: str) -> list[str]:
    """Return the paths with all combinations of IDs, for one client."""
    filled = [template.replace("{client}", client)]
    for name in re.findall(r"{(\w+)}", filled[0]):
        filled = [path.replace(f"{{{name}}}", value) for path in filled for value in IDS[name]]
    return filled


def bodies(method: str, path: str) -> list[dict[str, Any]]:
    """Return what to send: valid bodies, and invalid JSON where JSON is expected."""
    if path.endswith("/corrections"):
        return [{"json": {"remove": [digest]}} for digest in IDS["digest"]] + [{"json": {}}, {"json": [1]}]
    if method == "POST" and path.endswith("/versions"):
        return [{"content": b"not an export", "headers": {"Content-Type": "application/octet-stream"}}]
    if method not in {"PUT", "PATCH"}:
        return [{}]
    sound = {"version": 1} if "/aliases/" in path else {"keep_last": 3}
    return [{"json": sound}, {"json": {}}, {"json": [1]}, {"json": sound, "headers": {"If-Match": '"1"'}}]


def comparable(two: TwoKeys, method: str, path: str, options: dict[str, Any], client: str) -> tuple[int, bytes, Any]:
    """Return everything in a response that could distinguish clients, without the client's name."""
    headers = {**two.mine, **options.get("headers", {})}
    response = two.web(method, path, **{**options, "headers": headers})
    body = VARYING.sub(b"", response.content.replace(client.encode(), b"CLIENT"))
    headers_but_id = {name: value for name, value in response.headers.items() if name != "x-request-id"}
    return response.status_code, body, headers_but_id


def test_every_route_is_tested() -> None:
    assert len(OF_A_CLIENT) >= 12
    assert set(ROUTES) - set(OF_A_CLIENT) == NAMED_IN_THE_FORM | OF_NO_CLIENT | OF_A_JOB
    assert all(set(re.findall(r"{(\w+)}", path)) <= IDS.keys() for _, path in ROUTES)


@pytest.mark.parametrize(("method", "template"), OF_A_CLIENT)
def test_no_route_distinguishes_another_key_s_client_from_a_missing_one(
    two: TwoKeys, method: str, template: str
) -> None:
    before = two.state_of_theirs()
    for theirs, missing in zip(paths(template, THEIRS), paths(template, MISSING), strict=True):
        for options in bodies(method, theirs):
            response = comparable(two, method, theirs, options, THEIRS)
            assert response == comparable(two, method, missing, options, MISSING)
            assert response[0] in {404, 405, 422}
            assert two.web(method, theirs, **options).status_code == 401
    assert two.state_of_theirs() == before


@pytest.mark.parametrize("reference", [{}, {"version": "1"}, {"version": "99"}, {"alias": "live"}, {"alias": "absent"}])
def test_no_prediction_distinguishes_another_key_s_client_from_a_missing_one(
    two: TwoKeys, reference: dict[str, str]
) -> None:
    responses = []
    for client in (THEIRS, MISSING):
        images = {"files": [("images", ("a.png", PICTURES[0]))], "data": {"client": client, **reference}}
        responses.append(comparable(two, "POST", "/predict", images, client))
    assert responses[0] == responses[1]
    assert responses[0][0] == 404


def test_no_adaptation_distinguishes_or_changes_another_key_s_client(two: TwoKeys) -> None:
    before = two.state_of_theirs()
    responses = []
    for client in (THEIRS, MISSING):
        response = two.adapt(client, two.mine)
        responses.append((response.status_code, response.content.replace(client.encode(), b"CLIENT")))
    assert responses[0] == responses[1]
    assert responses[0][0] in {403, 404}
    assert two.state_of_theirs() == before


def test_a_job_of_another_key_is_answered_like_a_missing_one(two: TwoKeys) -> None:
    headers = {**two.theirs, "Prefer": "respond-async"}
    fields = {"client": THEIRS, "labels": LABELS, "publish": "never", "mode": "replace", "steps": "1"}
    accepted = two.web("POST", "/adapt", data=fields, files=SAMPLES, headers=headers)
    number = accepted.json()["job"]
    for method, template in sorted(OF_A_JOB):
        theirs, missing = (two.web(method, template.format(job=job), headers=two.mine) for job in (number, "f" * 32))
        assert theirs.status_code == missing.status_code == 404
        assert theirs.text.replace(number, "NUMBER") == missing.text.replace("f" * 32, "NUMBER")
    assert two.web("GET", f"/jobs/{number}/events", headers=two.theirs).text.endswith("}\n\n")
    assert two.web("GET", f"/jobs/{number}", headers=two.theirs).json()["state"] == "done"


def test_lists_and_metrics_name_no_other_client(two: TwoKeys) -> None:
    for method, path in sorted(OF_NO_CLIENT):
        response = two.web(method, path.format(name="tiny"), headers=two.mine)
        assert response.status_code == 200
        assert THEIRS not in response.text
    assert [one["client"] for one in two.web("GET", "/clients", headers=two.mine).json()["clients"]] == [MINE]


def test_a_key_can_read_its_own_client(two: TwoKeys) -> None:
    for method, template in OF_A_CLIENT:
        if method == "GET" and "diff" not in template:
            response = two.web(method, paths(template, MINE)[0], headers=two.mine)
            assert response.status_code == 200, (template, response.text)
