"""Every setting of the service, with its unit and its limits; the one module that reads the environment.

It knows no use case and opens nothing: a data folder that cannot be written is the store's to report.
"""

from __future__ import annotations

import os
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.errors import InvalidSettings

ENVIRONMENT_PREFIX: Final = "ANOLE_"
_NEEDED_TO_START: Final = ("PATH", "LD_LIBRARY_PATH", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE", "LANG", "LC_ALL")
_SECRETS: Final = ("bootstrap_key", "api_key")
_KIB: Final = 1024
_MIB: Final = 1024 * 1024

Bytes = Annotated[int, Field(ge=1 * _KIB, le=4096 * _MIB)]
Count = Annotated[int, Field(ge=1, le=10_000)]


class Settings(BaseSettings):
    """Frozen settings: what is passed in, else the environment (``ANOLE_PORT=8080``), else the default.

    Use `load_settings`, which turns what is wrong into one readable error.
    """

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX, frozen=True, extra="forbid", env_ignore_empty=True, validate_default=True
    )

    # Where it listens and how many processes answer
    host: str = Field("127.0.0.1", min_length=1, description="address to listen on")
    port: int = Field(8000, ge=0, le=65_535, description="TCP port; 0 takes any free one")
    workers: int = Field(1, ge=1, le=64, description="processes; each holds the net on its own")
    url: str = Field("http://127.0.0.1:8000", description="where the command line finds the service")

    # Who may call
    bootstrap_key: SecretStr | None = Field(None, description="a key that is admitted at start, with every scope")
    api_key: SecretStr | None = Field(None, description="what the command line presents to the service")

    key_rate_per_s: float = Field(200, gt=0, le=1e6, description="requests a second with one key, per worker")
    key_in_flight: Count = Field(24, description="requests with one key at the same time, per worker")
    key_adapting: Count = Field(4, description="adaptations with one key at the same time, waiting ones too")
    address_rate_per_s: float = Field(
        2000, gt=0, le=1e6, description="requests a second from one address while the service is open, per worker"
    )
    address_in_flight: Count = Field(
        256, description="requests from one address at the same time while the service is open, per worker"
    )

    # How long it waits for the other side
    head_s: float = Field(10.0, gt=0, le=600, description="seconds for a request's line and headers")
    body_s: float = Field(30.0, gt=0, le=3600, description="seconds for a request's body")
    reader_s: float = Field(30.0, gt=0, le=3600, description="seconds for the other side to read what is written")
    keep_alive_s: int = Field(5, ge=1, le=600, description="seconds that an idle connection is kept")
    max_connections: Count = Field(4096, description="connections, per worker; one more is closed at once")

    # What it serves from
    data: Path = Field(Path("data"), description="folder of the embedded store")
    catalog_url: SecretStr | None = Field(None, description="postgresql://… or sqlite:///…; default: in `data`")
    blobs_url: str | None = Field(None, description="s3://BUCKET/PREFIX or file:///…; default: in `data`")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where adaptation and prediction run")
    meta_model: str = Field("surfaces", min_length=1, description="name of a shipped checkpoint, or a path to one")
    data_root: Path | None = Field(None, description="folder of the data sets for training and evaluation")
    torch_threads: int = Field(
        1, ge=1, le=256, description="threads inside one operation; no more than a worker's share of the cores"
    )
    adapt_threads: int = Field(
        0, ge=0, le=256, description="inner loops side by side on a CPU; 0: this machine's cores / workers"
    )
    demo: bool = Field(True, description="seed the client `demo` when the store is empty")

    # What a request may bring
    adapt_body_bytes: Bytes = Field(32 * _MIB, description="whole body of POST /adapt")
    predict_body_bytes: Bytes = Field(12 * _MIB, description="whole body of POST /predict")
    other_body_bytes: Bytes = Field(64 * _KIB, description="whole body of every other request")
    file_bytes: Bytes = Field(10 * _MIB, description="one uploaded image")
    archive_bytes: Bytes = Field(64 * _MIB, description="an uploaded zip archive, unpacked")
    field_bytes: Bytes = Field(4 * _KIB, description="one text field of a form")
    max_files: Count = Field(64, description="files in one request, entries in one archive")
    max_classes: int = Field(64, ge=2, le=1024, description="classes of one version")
    max_samples: Count = Field(2000, description="samples of one version, kept ones included")
    max_steps: int = Field(100, ge=1, le=10_000, description="inner steps that a request may ask for")

    max_pixels: int = Field(25_000_000, ge=256, le=1_000_000_000, description="width x height of one image")
    min_side: int = Field(16, ge=1, le=256, description="pixels of an image's shorter side")
    max_side: int = Field(12_000, ge=256, le=65_535, description="pixels of an image's longer side")

    # Where images are decoded
    decoder_processes: int = Field(
        2,
        ge=0,
        le=64,
        description="processes that decode, per worker; 0: in the worker itself, which a bad image may end",
    )
    decode_s: float = Field(5.0, gt=0, le=600, description="seconds for decoding one image, then its process is killed")
    decoder_bytes: Bytes = Field(1024 * _MIB, description="address space of one decoder process")

    # How much work may wait
    adapt_running: Count = Field(
        2, description="adaptations in work at the same time, per worker, each of another client"
    )
    adapt_waiting: int = Field(
        8, ge=0, le=10_000, description="adaptations that may wait; one more is refused with 503"
    )
    adapt_s: float = Field(
        30.0, gt=0, le=3600, description="seconds for an adaptation, waiting included, then 503 and no version"
    )
    predict_running: Count = Field(2, description="batches of predictions at the same time, per worker")
    predict_batch: Count = Field(16, description="images that one batch of predictions gathers")
    predict_waiting: int = Field(
        32, ge=0, le=10_000, description="images that may wait; a request with one more is refused with 503"
    )
    predict_s: float = Field(5.0, gt=0, le=600, description="seconds for a prediction, waiting included, then 503")

    # What is kept in memory
    cache_bytes: Bytes = Field(256 * _MIB, description="weights of versions kept ready for prediction, per worker")

    # How it stops and what it tells
    drain_s: float = Field(1.0, ge=0, le=60, description="seconds from SIGTERM, /readyz 503, to no new connections")
    stop_s: int = Field(20, ge=1, le=600, description="seconds that requests in flight get to end")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least level written")
    log_format: Literal["auto", "json", "console"] = Field("auto", description="auto: console on a terminal, else JSON")

    @property
    def loopback(self) -> bool:
        """Whether nobody but this machine can reach the address it listens on, as far as that is sure."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def load_settings(**given: Any) -> Settings:
    """Return the settings; what is given and not None wins over the environment.

    Raises:
        InvalidSettings: names every setting that is wrong, where it came from and what is allowed.
    """
    chosen = {name: value for name, value in given.items() if value is not None}
    _refuse_unknown_variables()
    try:
        return Settings(**chosen)
    except ValidationError as error:
        raise InvalidSettings("; ".join(_complaint(item, chosen) for item in error.errors())) from error


def hand_to_workers(settings: Settings) -> None:
    """Put the settings into the environment, from which worker processes started afterwards read them again.

    Secrets are taken out of it, except the catalog's URL: no worker needs the others.
    """
    for name in _SECRETS:
        os.environ.pop(ENVIRONMENT_PREFIX + name.upper(), None)
    for name, value in settings.model_dump(mode="json", exclude_none=True, exclude=set(_SECRETS)).items():
        os.environ[ENVIRONMENT_PREFIX + name.upper()] = str(value)
    if settings.catalog_url is not None:
        os.environ[ENVIRONMENT_PREFIX + "CATALOG_URL"] = settings.catalog_url.get_secret_value()


def child_environment() -> dict[str, str]:
    """What a helper process needs of the environment to start, and no more: no setting, no key, no credential."""
    return {name: os.environ[name] for name in _NEEDED_TO_START if name in os.environ}


def _refuse_unknown_variables() -> None:
    known = {ENVIRONMENT_PREFIX + name.upper() for name in Settings.model_fields}
    unknown = sorted(name for name in os.environ if name.startswith(ENVIRONMENT_PREFIX) and name not in known)
    if unknown:
        raise InvalidSettings(
            f"unknown environment variable {', '.join(unknown)}; the settings are {', '.join(sorted(known))}"
        )


def _complaint(item: Any, given: dict[str, Any]) -> str:
    name = str(item["loc"][0])
    source = f"setting {name}" if name in given else f"environment variable {ENVIRONMENT_PREFIX}{name.upper()}"
    return f"{source} is {item['input']!r}: {item['msg'][0].lower()}{item['msg'][1:]}"
