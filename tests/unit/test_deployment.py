"""The manifests for Kubernetes, and docker-compose.yml: restrictions, secrets, probes, and settings that exist."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.settings import ENVIRONMENT_PREFIX, Settings

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
OLDEST_KUBERNETES = "1.31"
CREDENTIAL = re.compile(r"KEY|SECRET|PASSWORD|_URL$")


def manifests(kustomization: str) -> dict[str, Any]:
    """The manifests that Kustomize makes of a folder, by kind. Of `base`, they are also its files."""
    kubectl = shutil.which("kubectl")
    if kubectl is not None:
        text = subprocess.run(
            [kubectl, "kustomize", KUBERNETES / kustomization], capture_output=True, text=True, check=True, timeout=60
        ).stdout
        found = list(yaml.safe_load_all(text))
    elif kustomization == "base":
        names = yaml.safe_load((KUBERNETES / "base" / "kustomization.yaml").read_text(encoding="utf-8"))["resources"]
        found = [yaml.safe_load((KUBERNETES / "base" / name).read_text(encoding="utf-8")) for name in names]
    else:
        pytest.skip("this machine has no kubectl, which applies the patches of deploy/kubernetes/shared")
    return {manifest["kind"]: manifest for manifest in found}


@pytest.fixture(scope="module", params=["base", "shared"])
def made(request: pytest.FixtureRequest) -> dict[str, Any]:
    return manifests(request.param)


def container_of(made: dict[str, Any]) -> dict[str, Any]:
    (container,) = made["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert isinstance(container, dict)
    return container


def test_the_manifests_fit_the_schemas_of_kubernetes(made: dict[str, Any]) -> None:
    validator = pytest.importorskip("kubernetes_validate", reason="`make check` installs the schemas of Kubernetes")
    for manifest in made.values():
        validator.validate(manifest, OLDEST_KUBERNETES, strict=True)


def test_the_pod_runs_without_root_capabilities_token_or_writable_root(made: dict[str, Any]) -> None:
    pod = made["Deployment"]["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container_of(made)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_the_user_is_that_of_the_image(made: dict[str, Any]) -> None:
    context = made["Deployment"]["spec"]["template"]["spec"]["securityContext"]
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert f"USER {context['runAsUser']}:{context['runAsGroup']}\n" in dockerfile


def test_the_pod_has_probes_memory_and_time_to_stop(made: dict[str, Any]) -> None:
    container = container_of(made)
    probes = {name: container[name]["httpGet"]["path"] for name in container if name.endswith("Probe")}
    assert probes == {"startupProbe": "/livez", "livenessProbe": "/livez", "readinessProbe": "/readyz"}
    assert container["resources"]["limits"]["memory"]
    drain_s = float(next(each["value"] for each in container["env"] if each["name"] == "ANOLE_DRAIN_S"))
    stop_s = Settings.model_fields["stop_s"].default
    assert made["Deployment"]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > drain_s + stop_s


def test_services_and_budgets_select_the_pods_of_the_deployment(made: dict[str, Any]) -> None:
    labels = made["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert made["Service"]["spec"]["selector"].items() <= labels.items()
    assert made["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert made["Service"]["spec"]["selector"]


def test_credentials_come_from_the_secret_and_settings_exist(made: dict[str, Any]) -> None:
    settings = {ENVIRONMENT_PREFIX + name.upper() for name in Settings.model_fields}
    for variable in container_of(made)["env"]:
        if CREDENTIAL.search(variable["name"]):
            assert variable["valueFrom"]["secretKeyRef"]["name"] == "anole", variable["name"]
        assert variable["name"] in settings or not variable["name"].startswith(ENVIRONMENT_PREFIX)


def test_the_number_of_workers_is_set_because_the_default_counts_the_cores_of_the_host(made: dict[str, Any]) -> None:
    assert {"name": "ANOLE_WORKERS", "value": "1"} in container_of(made)["env"]
    services = [
        each
        for each in COMPOSE["services"].values()
        if "ANOLE_DEVICE" in each.get("environment", {}) and "--engine" not in each.get("command", [])
    ]  # on Ray, it has no effect
    assert len(services) == 3
    assert all("ANOLE_WORKERS" in service["environment"] for service in services)


def test_only_the_shared_store_runs_more_than_one_replica(made: dict[str, Any]) -> None:
    deployment = made["Deployment"]["spec"]
    embedded = "PersistentVolumeClaim" in made
    assert (deployment["replicas"] == 1) is embedded
    assert (deployment["strategy"]["type"] == "Recreate") is embedded


def test_compose_has_no_default_password_and_pins_every_image() -> None:
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    assert re.findall(r"\$\{(\w*(?:PASSWORD|KEY)):-(?!\})", text) == []
    for name, service in COMPOSE["services"].items():
        assert re.search(r":(?!latest)\S+$", service["image"]), name


def test_every_service_of_compose_is_confined() -> None:
    for name, service in COMPOSE["services"].items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["mem_limit"], name
