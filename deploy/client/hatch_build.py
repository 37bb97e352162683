"""Puts the modules that the client and the command line import into the package `anole`.

In this repository they are `service.client`, `service.cli` and so on. Programs that use a client have modules called
`service` or `models` themselves, so the wheel has `anole.service` and `anole.models` instead.
"""

from __future__ import annotations

import ast
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).parents[2]
START = [
    *(ROOT / "service" / "cli" / name for name in ("entry_point.py", "main.py")),
    *sorted((ROOT / "service" / "edge").glob("*.py")),  # which `anole edge` imports when it is called
]
PACKAGE = Path(__file__).parent / "anole"
IMPORT = re.compile(r"^(\s*(?:from|import)) (service|models)\b", re.MULTILINE)


class CustomBuildHook(BuildHookInterface[Any]):
    """Adds the modules to the wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Write the modules with their new names to a temporary folder, and include them."""
        self._folder = tempfile.TemporaryDirectory(prefix="anole-client-")
        folder = Path(self._folder.name)
        sources = {path: path.relative_to(ROOT) for path in modules()}
        sources[PACKAGE / "__init__.py"] = Path("__init__.py")
        for source, target in sources.items():
            written = folder / target
            written.parent.mkdir(parents=True, exist_ok=True)
            written.write_text(IMPORT.sub(r"\1 anole.\2", source.read_text(encoding="utf-8")), encoding="utf-8")
            build_data["force_include"][str(written)] = f"anole/{target.as_posix()}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the temporary folder."""
        self._folder.cleanup()


def modules() -> set[Path]:
    """Return the modules that the command line imports when it starts, and their packages."""
    found: set[Path] = set()
    waiting = [*START]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += imported(path)
            waiting += [parent / "__init__.py" for parent in path.parents if ROOT in parent.parents]
    return found


def imported(path: Path) -> Iterator[Path]:
    """Yield the modules of this project that a module imports at its top."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            if name.split(".")[0] in {"service", "models"}:
                module = ROOT.joinpath(*name.split("."))
                yield from (each for each in (module.with_suffix(".py"), module / "__init__.py") if each.is_file())
