"""The application for Ray: the Serve config of deploy/kubernetes/ray, and a cluster that does not start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from service.errors import InvalidSettings
from service.settings import load_settings

pytest.importorskip("ray.serve", reason="Ray is not installed; `make ray-test` installs it and runs this test")
pytestmark = pytest.mark.slow

MANIFEST = Path(__file__).parents[4] / "deploy" / "kubernetes" / "ray" / "rayservice.yaml"


@pytest.fixture(scope="module")
def config() -> Any:
    spec = yaml.safe_load(MANIFEST.read_text(encoding="utf-8"))["spec"]
    return yaml.safe_load(spec["serveConfigV2"])


def test_ray_accepts_the_serve_config_of_the_manifest(config: Any) -> None:
    from ray.serve.schema import ServeDeploySchema

    (application,) = ServeDeploySchema.model_validate(config).applications
    assert (application.name, application.route_prefix) == ("anole", "/")


def test_its_application_asks_every_request_for_a_key(config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._common.utils import import_attr
    from ray.serve import Application

    from service.cluster import application

    monkeypatch.setenv("ANOLE_CATALOG_URL", "postgresql://anole@catalog/anole")
    monkeypatch.setenv("ANOLE_BLOBS_URL", "s3://anole")
    made: list[Any] = []
    real = application.application

    def keep(settings: Any, node_id: str) -> Any:
        made.append(settings)
        return real(settings, node_id)

    monkeypatch.setattr(application, "application", keep)
    (described,) = config["applications"]
    found = import_attr(described["import_path"])(described["args"])
    assert isinstance(found, Application)
    assert [(settings.loopback, settings.ray_predictors) for settings in made] == [(False, "1-4")]


def test_a_store_in_a_folder_is_refused(config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from service.cluster.application import from_serve_config

    monkeypatch.delenv("ANOLE_CATALOG_URL", raising=False)
    with pytest.raises(InvalidSettings, match="the store is in a folder"):
        from_serve_config({})


def test_a_cluster_that_does_not_start_is_reported_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    from service.cluster import application

    def slow(**_options: object) -> None:
        raise Exception("The current node timed out during startup.")  # noqa: TRY002 - what Ray raises

    monkeypatch.setattr(ray, "init", slow)
    with pytest.raises(InvalidSettings, match=r"Ray did not start on this machine: .*timed out.*--address"):
        application.run(load_settings(data=tmp_path), lambda: pytest.fail("it does not serve"))
