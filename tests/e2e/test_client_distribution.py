"""The client installed alone, without torch and the server, and the example that uses it, against a running service."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder
from packaging.requirements import Requirement

from service.client import read_samples
from tests.e2e.conftest import ROOT, SAMPLES, Process, serving
from tests.generated import tiny_checkpoint_in

CLIENT = ROOT / "deploy" / "client"
EXAMPLE = ROOT / "docs" / "examples" / "adapt_and_plot.py"
PROJECT = tomllib.loads((CLIENT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LIMIT_S = 120

Python = Callable[..., subprocess.CompletedProcess[str]]


def with_dependencies(requirements: list[str]) -> dict[str, importlib.metadata.Distribution]:
    """Return the installed distributions that the requirements need, by name."""
    found: dict[str, importlib.metadata.Distribution] = {}
    waiting = [Requirement(line) for line in requirements]
    while waiting:
        requirement = waiting.pop()
        if requirement.name in found or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        found[requirement.name] = importlib.metadata.distribution(requirement.name)
        waiting += [Requirement(line) for line in found[requirement.name].requires or ()]
    return found


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of packages with the client's wheel and what it declares to need, and nothing else."""
    folder = tmp_path_factory.mktemp("light")
    (wheel,) = WheelBuilder(str(CLIENT)).build(directory=str(folder / "wheel"), versions=["standard"])
    packages = folder / "packages"
    zipfile.ZipFile(wheel).extractall(packages)
    for distribution in with_dependencies(PROJECT["dependencies"]).values():
        link(distribution, packages)
    return packages


def link(distribution: importlib.metadata.Distribution, packages: Path) -> None:
    """Link the files of an installed distribution into a folder of packages."""
    for name in {file.parts[0] for file in distribution.files or () if file.parts[0] not in {"..", "__pycache__"}}:
        if not (packages / name).exists():
            (packages / name).symlink_to(Path(str(distribution.locate_file(name))))


@pytest.fixture(scope="module")
def python(installed: Path) -> Python:
    """Return a function that runs Python with the packages of the client alone."""

    def run(*arguments: str, cwd: Path = installed) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(installed), "HTTP_PROXY": "http://127.0.0.1:9"}
        return subprocess.run(
            [sys.executable, "-S", *arguments],
            cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=LIMIT_S,
        )  # fmt: skip

    return run


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    folder = tmp_path_factory.mktemp("service")
    with serving(folder / "data", tiny_checkpoint_in(folder), ANOLE_DEMO="false") as process:
        yield process


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for index, sample in enumerate(read_samples(SAMPLES)):
        path = folder / sample.label / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(sample.content)
    return folder


def test_there_is_no_torch_and_no_server(python: Python) -> None:
    for name in ("torch", "numpy", "fastapi", "service", "models"):
        failed = python("-c", f"import {name}")
        assert f"No module named '{name}'" in failed.stderr


def test_it_adapts_and_predicts(python: Python, service: Process, pictures: Path, tmp_path: Path) -> None:
    program = """
import pathlib, sys
import anole
url, folder = sys.argv[1:]
images = [str(path) for path in pathlib.Path(folder).rglob("*.png")]
with anole.Client(url) as client:
    adapted = client.adapt("light", folder)
    print(adapted.version, len(client.predict("light", images, version=1).predictions) == len(images))
"""
    done = python("-c", program, service.url, str(pictures), cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("1 True\n", "")


def test_the_command_line_works_but_for_commands_of_the_server(
    python: Python, service: Process, pictures: Path
) -> None:
    command = ("-c", "from anole.service.cli.entry_point import main; main()")
    assert python(*command, "--version").stdout == f"anole {importlib.metadata.version('anole')}\n"
    adapted = python(*command, "adapt", "command", str(pictures), "--url", service.url, "--json", "--publish", "always")
    assert json.loads(adapted.stdout)["version"] == 1
    image = next(pictures.rglob("*.png"))
    predicted = python(*command, "predict", "command", str(image), "--url", service.url, "--json")
    assert len(json.loads(predicted.stdout)["predictions"]) == 1
    explain = ["predict", "command", str(image), "--url", service.url, "--explain", "maps"]
    for server_command in (["serve"], ["store", "check"], ["keys", "list"], ["train", "--help"], explain):
        failed = python(*command, *server_command)
        assert failed.returncode == 1
        assert "needs the full installation: pip install . in a checkout of Anole" in failed.stderr
        assert "Traceback" not in failed.stderr


def test_its_dependencies_are_those_of_the_whole_project() -> None:
    whole = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(PROJECT["dependencies"]) < set(whole["dependencies"])
    of_devices = set(PROJECT["optional-dependencies"]["edge"])
    assert of_devices < set(whole["dependencies"]) | set(whole["optional-dependencies"]["fleet"])
    assert "version" in PROJECT["dynamic"]


def test_a_device_imports_its_agent_without_torch_and_without_the_server(tmp_path: Path, installed: Path) -> None:
    packages = tmp_path / "packages"
    shutil.copytree(installed, packages, symlinks=True)
    for distribution in with_dependencies(PROJECT["optional-dependencies"]["edge"]).values():
        link(distribution, packages)
    program = """
import pkgutil, sys
import anole.service.edge
for module in pkgutil.iter_modules(anole.service.edge.__path__, "anole.service.edge."):
    __import__(module.name)
assert not {"torch", "fastapi", "sqlalchemy", "anole.service.store"} & set(sys.modules)
from anole.service.cli.entry_point import main
sys.argv = ["anole", "edge", "--repository", "http://127.0.0.1:9", "--data", "device"]
main()
"""
    done = subprocess.run(
        [sys.executable, "-S", "-c", program],
        cwd=tmp_path, env={"PATH": os.environ["PATH"], "PYTHONPATH": str(packages)},
        capture_output=True, text=True, check=False, timeout=LIMIT_S,
    )  # fmt: skip
    assert "does not know which keys to trust" in done.stderr
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)


def test_without_the_packages_of_devices_the_agent_names_them(python: Python) -> None:
    program = "from anole.service.cli.entry_point import main; main()"
    done = python("-c", program, "edge", "--repository", "http://127.0.0.1:9", "--data", "device")
    assert "anole edge needs onnxruntime, starlette, uvicorn, tuf, cryptography" in done.stderr


def test_the_example_adapts_and_plots(python: Python, service: Process, pictures: Path, tmp_path: Path) -> None:
    arguments = (str(EXAMPLE), service.url, "example", str(pictures), str(tmp_path / "report.png"))
    done = python(*arguments)
    assert "version 1 of example" in done.stdout
    assert (done.returncode, "pip install matplotlib" in done.stderr) == (1, True)
    if find_spec("matplotlib") is None:
        pytest.skip("matplotlib is not installed, so nothing was plotted: pip install -e '.[plot]'")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(CLIENT)])}
    subprocess.run([sys.executable, *arguments], env=environment, check=True, timeout=LIMIT_S, capture_output=True)
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
