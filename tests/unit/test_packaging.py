"""pyproject.toml and constraints.txt are consistent with each other, with the code and with the wheel."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CONSTRAINTS = (ROOT / "constraints.txt").read_text(encoding="utf-8")
DISTRIBUTION_OF = {
    "google": "protobuf",
    "grpc": "grpcio",
    "cv2": "opencv-python-headless",
    "PIL": "pillow",
    "multipart": "python-multipart",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
    "opentelemetry": "opentelemetry-sdk",
}
FIRST_PARTY = {"anole", "models", "service", "tests", "benchmarks"}


def declared(*extras: str) -> dict[str, Requirement]:
    lines = [*PROJECT["dependencies"]]
    for extra in extras:
        lines += PROJECT["optional-dependencies"][extra]
    requirements = [Requirement(line) for line in lines]
    return {canonicalize_name(requirement.name): requirement for requirement in requirements}


def pinned() -> dict[str, list[Requirement]]:
    pins: dict[str, list[Requirement]] = {}
    for line in CONSTRAINTS.splitlines():
        if line and not line.startswith("#"):
            pin = Requirement(line)
            pins.setdefault(canonicalize_name(pin.name), []).append(pin)
    return pins


def distributions_imported(*trees: str) -> set[str]:
    names: set[str] = set()
    for path in (path for tree in trees for path in (ROOT / tree).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module.split(".")[0])
    third_party = names - FIRST_PARTY - set(sys.stdlib_module_names)
    return {canonicalize_name(DISTRIBUTION_OF.get(name, name)) for name in third_party}


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("wheel")
    (built,) = WheelBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"])
    return zipfile.ZipFile(built).namelist()


def test_imports_of_the_product_are_declared() -> None:
    extras = ("plot", "shared", "export", "openvino", "search", "fleet", "otel", "bridge", "genicam", "grpc", "ray")
    assert distributions_imported("models", "service") <= declared(*extras).keys()


def test_imports_of_tests_and_benchmarks_are_declared() -> None:
    extras = ("test", "plot", "benchmarks", "ray")  # tests of Ray are skipped without it
    allowed = declared(*extras).keys() | {"packaging"}  # pytest brings packaging
    assert distributions_imported("tests", "benchmarks") <= allowed


def test_every_dependency_is_pinned_within_its_range() -> None:
    pins = pinned()
    for name, requirement in declared(*PROJECT["optional-dependencies"]).items():
        assert name in pins, f"{name} is not pinned: run make lock"
        for pin in pins[name]:
            (specifier,) = pin.specifier
            assert requirement.specifier.contains(specifier.version, prereleases=True), (
                f"{pin} is outside {requirement}"
            )


def test_every_constraint_is_an_exact_version() -> None:
    for pins in pinned().values():
        for pin in pins:
            assert [specifier.operator for specifier in pin.specifier] == ["=="], str(pin)
            assert pin.url is None, str(pin)


def test_torch_is_pinned() -> None:
    assert [str(pin) for pin in pinned()["torch"]] == ["torch==2.13.0"]


def test_constraints_contain_no_url_and_no_option() -> None:
    assert "://" not in CONSTRAINTS
    assert not re.search(r"^\s*-", CONSTRAINTS, re.MULTILINE)


@pytest.mark.parametrize(
    "pattern",
    [
        r"models/pretrained/.+\.safetensors",
        r"models/pretrained/.+\.onnx",
        r"service/store/catalog/migrations/versions/.+\.py",
        r".+/entry_points\.txt",
    ],
)
def test_the_wheel_contains_what_serving_needs(wheel_names: list[str], pattern: str) -> None:
    assert [name for name in wheel_names if re.fullmatch(pattern, name)]


def test_the_wheel_contains_dataset_code_but_no_data(wheel_names: list[str]) -> None:
    assert "models/data/__init__.py" in wheel_names
    assert not [name for name in wheel_names if name.endswith((".zip", ".png", ".npy", ".sqlite"))]


def test_the_wheel_contains_no_tests(wheel_names: list[str]) -> None:
    tops = {name.split("/")[0] for name in wheel_names}
    assert tops == {"anole", "models", "service", f"anole-{PROJECT['version']}.dist-info"}
