"""`anole doctor`: checks an installation and its store, and writes a report that can be passed on."""

from __future__ import annotations

import json
import platform
import resource
import shutil
import socket
import sqlite3
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated, Final, Literal

import httpx
import typer

from models.errors import AnoleError
from service.cli.console import FAILED, AsJson, notices, output, plain, print_json, table
from service.cli.installation import require_full_installation
from service.cli.keys import Data
from service.client import InvalidInput
from service.settings import Settings, load_settings

Status = Literal["ok", "warning", "failure"]

LEAST_FREE_BYTES: Final = 100 * 2**20
"""Free space on the disk of the store below which the check fails."""

LOW_FREE_BYTES: Final = 2 * 2**30
"""Free space below which it warns."""

_PACKAGES: Final = ("torch", "onnxruntime", "numpy", "pillow", "fastapi", "uvicorn", "sqlalchemy", "psycopg", "obstore")
_CLOCK_TOLERANCE_S: Final = 60.0
_ANSWER_S: Final = 3.0
_COLOURS: Final = {"ok": "green", "warning": "yellow", "failure": "red"}


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of a check: what was looked at, whether it is well, and what was found or what to do."""

    check: str
    status: Status
    text: str


def doctor(
    data: Data = None,
    bundle: Annotated[
        Path | None, typer.Option(metavar="FILE.zip", help="Write the report to a new zip file, to pass it on.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check versions, settings, disk, clock, port, checkpoints and store. A failed check: exit code 1.

    The report has no keys, passwords, pictures or names of clients. Nothing is changed.
    """
    require_full_installation("anole doctor")
    settings = load_settings(data=data)
    with notices().status("checking …"):
        findings = list(examine(settings))
    if bundle is not None:
        _write_bundle(bundle, findings, settings)
    if as_json:
        print_json({"findings": [asdict(finding) for finding in findings], "settings": shown_settings(settings)})
    else:
        listed = table("check", "status", "found")
        for finding in findings:
            colour = _COLOURS[finding.status]
            listed.add_row(finding.check, f"[{colour}]{finding.status}[/{colour}]", plain(finding.text))
        output().print(listed)
    if any(finding.status == "failure" for finding in findings):
        raise typer.Exit(FAILED)


def examine(settings: Settings) -> Iterator[Finding]:
    """Run all checks. A check that raises an error of this project is a failure with its message."""
    for name, check in _CHECKS.items():
        try:
            status, text = check(settings)
        except AnoleError as error:
            status, text = "failure", str(error)
        yield Finding(name, status, text)


def shown_settings(settings: Settings) -> dict[str, object]:
    """Return the settings that are not their defaults; secrets are hidden."""
    return settings.model_dump(mode="json", exclude_defaults=True)


def _versions(_: Settings) -> tuple[Status, str]:
    found = [f"anole {metadata.version('anole')}", f"Python {platform.python_version()}", platform.platform()]
    for name in _PACKAGES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            found.append(f"no {name}")
    return "ok", ", ".join([*found, f"SQLite {sqlite3.sqlite_version}"])


def _changed_settings(settings: Settings) -> tuple[Status, str]:
    changed = shown_settings(settings)
    return "ok", ", ".join(f"{name}={value}" for name, value in changed.items()) or "all have their defaults"


def _device(settings: Settings) -> tuple[Status, str]:
    from service.cli.serve import worker_count
    from service.runtime.device import device_type, service_device_type, usable_cores

    cores = usable_cores()
    workers = worker_count(settings)
    used = service_device_type(settings.model, settings.device)
    beside = ""
    if settings.device == "auto" and device_type("auto") == "cuda":
        beside = " (the GPU is for other models)" if used == "cpu" else " (cpu for the default model's net)"
    text = f"{used}{beside}, {cores} usable cores, {workers} workers"
    return ("warning", f"{text}; more workers than cores slow each other down") if workers > cores else (
        "ok", text
    )  # fmt: skip


def _disk(settings: Settings) -> tuple[Status, str]:
    folder = next(path for path in (settings.data.absolute(), *settings.data.absolute().parents) if path.exists())
    free = shutil.disk_usage(folder).free
    text = f"{free / 2**30:.1f} GiB are free for {settings.data.absolute()}"
    if free < LEAST_FREE_BYTES:
        return "failure", f"{text}; free some space, or writes fail with 507 store_full"
    return ("warning", f"{text}; watch it") if free < LOW_FREE_BYTES else ("ok", text)


def _clock(settings: Settings) -> tuple[Status, str]:
    written_s = max((path.stat().st_mtime for path in settings.data.glob("catalog.sqlite3*")), default=0.0)
    ahead_s = written_s - time.time()
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    if ahead_s > _CLOCK_TOLERANCE_S:
        return "failure", f"{now} is {ahead_s:.0f} s before the last write of the store; set the clock"
    return "ok", now


def _file_limit(_: Settings) -> tuple[Status, str]:
    from service.cli.serve import FILES_WANTED

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    text = f"{soft} open files, up to {'any number' if hard == resource.RLIM_INFINITY else hard}"
    if hard != resource.RLIM_INFINITY and hard < FILES_WANTED:
        return "warning", f"{text}; {FILES_WANTED} allow all connections, raise `ulimit -Hn`"
    return "ok", text


def _port(settings: Settings) -> tuple[Status, str]:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104 - compared, not bound
    address = f"{settings.host}:{settings.port}"
    url = f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"
    try:
        socket.create_connection((host, settings.port), timeout=_ANSWER_S).close()
    except OSError:
        return "ok", f"no program uses {address}"
    try:
        ready = httpx.get(f"{url}/readyz", timeout=_ANSWER_S, trust_env=False)
        service = httpx.get(url, timeout=_ANSWER_S, trust_env=False, headers={"Accept": "application/json"}).json()
        if service["service"] == "anole":
            status: Status = "ok" if ready.is_success else "warning"
            return status, f"Anole {service['version']} serves on {address}, /readyz responds with {ready.status_code}"
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        return "failure", f"another program uses {address} ({error!r:.80}); stop it, or choose another port"
    return "failure", f"another program uses {address}; stop it, or choose another port"


def _checkpoints(settings: Settings) -> tuple[Status, str]:
    from models.checkpoint import load_checkpoint

    loaded = [load_checkpoint(name, settings.allow_factory) for name in settings.model]
    return "ok", ", ".join(f"{each.name} {each.digest[:12]}" for each in loaded)


def _store(settings: Settings) -> tuple[Status, str]:
    from service.store.open_store import StoreLocation, needs_upgrade, open_store

    location = StoreLocation.of(settings)
    if settings.catalog_url is None and not settings.data.exists():
        return "warning", f"there is no store in {settings.data.absolute()} yet; `anole serve` makes one"
    if needs_upgrade(location):
        return "warning", "an earlier release wrote it; the next start of the service upgrades it, so back it up before"
    with open_store(location, missing="reject") as opened:
        opened.ping()
        problems = opened.catalog.problems()
        clients = len(opened.catalog.names())
    if problems:
        return "failure", f"{'; '.join(problems)}; restore a backup"
    return "ok", f"the catalog of {clients} clients is whole; `anole store check` verifies their files too"


_CHECKS: Final[dict[str, Callable[[Settings], tuple[Status, str]]]] = {
    "versions": _versions,
    "settings": _changed_settings,
    "device": _device,
    "disk": _disk,
    "clock": _clock,
    "open files": _file_limit,
    "port": _port,
    "checkpoints": _checkpoints,
    "store": _store,
}


def _write_bundle(path: Path, findings: list[Finding], settings: Settings) -> None:
    """Write the report. Raises InvalidInput if the file exists or cannot be written."""
    try:
        with path.open("xb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as bundle:
            bundle.writestr("findings.json", json.dumps([asdict(finding) for finding in findings], indent=1))
            bundle.writestr("settings.json", json.dumps(shown_settings(settings), indent=1))
            bundle.writestr(
                "packages.txt",
                "\n".join(sorted(f"{each.metadata['Name']}=={each.version}" for each in metadata.distributions())),
            )
    except OSError as error:
        raise InvalidInput(f"cannot write {path}: {error.strerror or error}; name a new file") from error
