"""The settings of the service and the command line. The only module that reads the environment.

docs/settings.md describes each of them, and the limits that are fixed in the code.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from service.errors import InvalidSettings

ENVIRONMENT_PREFIX: Final = "ANOLE_"
_CHILD_VARIABLES: Final = ("PATH", "LD_LIBRARY_PATH", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE", "LANG", "LC_ALL")
_MAKE_PORT: Final = "PORT"
_WORKER_FOLDER: Final = "PROMETHEUS_MULTIPROC_DIR"
"""prometheus_client reads this variable too."""

_SECRETS: Final = ("bootstrap_key", "api_key", "signing_passphrase")
_TRACE_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_KIB: Final = 1024
_MIB: Final = 1024 * 1024

REMOVED: Final[dict[str, str]] = {
    "meta_model": "it is called ANOLE_MODEL now",
    "key_adapting": "4 adaptations of one key at the same time",
    "address_rate_per_s": "2000, or ANOLE_KEY_RATE_PER_S if that is more",
    "address_in_flight": "256, or ANOLE_KEY_IN_FLIGHT if that is more",
    "head_s": "10 s, or ANOLE_BODY_S if that is less",
    "reader_s": "30 s",
    "keep_alive_s": "5 s",
    "max_connections": "4096",
    "torch_threads": "one thread inside an operation",
    "adapt_threads": "the machine's cores, divided by ANOLE_WORKERS",
    "other_body_bytes": "64 KiB",
    "field_bytes": "4 KiB",
    "max_classes": "64",
    "max_pixels": "25 million",
    "min_side": "16 pixels",
    "max_side": "12,000 pixels",
    "decode_s": "5 s",
    "decoder_bytes": "1 GiB",
    "archive_bytes": "twice ANOLE_ADAPT_BODY_BYTES",
    "max_samples": "2000 samples",
    "predict_running": "2 batches at the same time",
    "predict_batch": "16 images",
    "predict_waiting": "32 images",
    "quarantine_s": "no request is quarantined any more",
    "packed_bytes": "weights are no longer packed; raise ANOLE_CACHE_BYTES instead",
    "pinned_clients": "the weights used last stay in memory; raise ANOLE_CACHE_BYTES instead",
}
"""Settings of earlier releases -> what holds instead."""

Bytes = Annotated[int, Field(ge=1 * _KIB, le=4096 * _MIB)]
Count = Annotated[int, Field(ge=1, le=10_000)]
Origin = Annotated[str, Field(pattern=r"^https?://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?$")]


def split_names(value: str | Iterable[str]) -> tuple[str, ...]:
    """Split names at commas, in one text or in each of several."""
    text = value if isinstance(value, str) else ",".join(value)
    return tuple(filter(None, map(str.strip, text.split(","))))


def replica_range(text: str) -> tuple[int, int]:
    """Return the least and the most replicas of a text such as "2" or "1-4"."""
    least, _, most = text.partition("-")
    return int(least), int(most or least)


def _check_replicas(text: str) -> str:
    least, most = replica_range(text)
    if least > most:
        raise ValueError("the first number must not be larger than the second")
    return text


Replicas = Annotated[str, Field(pattern=r"^[1-9][0-9]?(-[1-9][0-9]?)?$"), AfterValidator(_check_replicas)]


class Settings(BaseSettings):
    """Frozen settings: an argument first, then the environment (``ANOLE_PORT=8080``), then the default.

    Use `load_settings`, which reports everything that is wrong in one readable error.
    """

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX, frozen=True, extra="forbid", env_ignore_empty=True, validate_default=True
    )

    # Address and processes
    host: str = Field("127.0.0.1", min_length=1, description="address to listen on")
    port: int = Field(8000, ge=0, le=65_535, description="TCP port; 0 takes any free one")
    grpc_port: int | None = Field(
        None,
        ge=0,
        le=65_535,
        description="TCP port of the Open Inference Protocol over gRPC; 0 takes any free one; default: no gRPC",
    )
    workers: int | None = Field(
        None,
        ge=1,
        le=64,
        description="worker processes, each with the model in memory; default: one for every two cores, at most 4; "
        "1 on a GPU",
    )

    engine: Literal["uvicorn", "ray"] = Field(
        "uvicorn", description="uvicorn: processes of this machine; ray: replicas on a cluster, by Ray Serve"
    )
    ray_address: str | None = Field(
        None, min_length=1, description="a cluster of Ray, as HOST:PORT; default: start one on this machine"
    )
    ray_ingresses: int = Field(1, ge=1, le=99, description="replicas that take requests, at most one on each node")
    ray_predictors: Replicas = Field("1-4", description="replicas that predict: how many, or the least and the most")
    ray_adapters: Replicas = Field("1-2", description="replicas that adapt: how many, or the least and the most")

    # Access
    bootstrap_key: SecretStr | None = Field(None, description="a key with every scope, added when the service starts")
    key_rate_per_s: float = Field(200, gt=0, le=1e6, description="requests per second from one key")
    key_in_flight: Count = Field(24, description="requests from one key at the same time")
    cors_origins: Annotated[tuple[Origin, ...], NoDecode, BeforeValidator(split_names)] = Field(
        (), description="origins whose pages may call the service from a browser (CORS), separated by commas"
    )

    # Store and model
    data: Path = Field(Path("data"), description="folder of the embedded store")
    catalog_url: SecretStr | None = Field(None, description="postgresql://… or sqlite:///…; default: in `data`")
    blobs_url: str | None = Field(None, description="s3://BUCKET/PREFIX or file:///…; default: in `data`")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="where it adapts and predicts; auto is a GPU, except for the default model"
    )
    model: Annotated[tuple[str, ...], NoDecode, BeforeValidator(split_names)] = Field(
        ("efficientnet-lite0",),
        min_length=1,
        description="names of shipped checkpoints, or paths, separated by commas; the first is the default",
    )
    allow_factory: Annotated[tuple[str, ...], NoDecode, BeforeValidator(split_names)] = Field(
        (),
        description="backbone factories, module:callable, separated by commas, that a checkpoint may import and call",
    )
    demo: bool = Field(True, description="add the client `demo` to an empty store")

    # Prediction log
    predictions_days: int = Field(90, ge=1, le=3650, description="days that an entry of the prediction log is kept")
    predictions_rows: int = Field(
        1_000_000, ge=1000, le=100_000_000, description="entries of the prediction log, of all clients together"
    )

    # Request limits
    adapt_body_bytes: Bytes = Field(32 * _MIB, description="body of POST /adapt")
    predict_body_bytes: Bytes = Field(12 * _MIB, description="body of POST /predict")
    file_bytes: Bytes = Field(10 * _MIB, description="one image file")
    max_files: Count = Field(64, description="files in one request, or in one archive")
    max_steps: int = Field(100, ge=1, le=10_000, description="largest number of inner steps per request")
    body_s: float = Field(
        30.0, gt=0, le=3600, description="time for the body of a request to arrive, beside that for its bytes"
    )
    body_idle_s: float = Field(20.0, gt=0, le=3600, description="longest pause in the body of a request")
    body_bytes_per_s: Bytes = Field(
        32 * _KIB, description="a body gets one more second for each so many bytes that arrive"
    )

    # Concurrency and time limits
    decoder_processes: int = Field(
        2, ge=0, le=64, description="image decoder processes, per worker; 0 decodes in the worker itself"
    )
    adapt_running: Count = Field(2, description="adaptations running at the same time, per worker")
    adapt_waiting: int = Field(8, ge=0, le=10_000, description="adaptations waiting for their turn, per worker")
    adapt_s: float = Field(
        30.0,
        gt=0,
        le=3600,
        description="time for an adaptation, including its time in the queue; for jobs, without it; an export may take "
        "four times as long",
    )
    predict_s: float = Field(5.0, gt=0, le=600, description="time for a prediction, including its time in the queue")
    cache_bytes: Bytes = Field(256 * _MIB, description="version weights kept in memory, per worker")

    # Shutdown and logging
    drain_s: float = Field(1.0, ge=0, le=60, description="from SIGTERM, when /readyz turns 503, to the last connection")
    stop_s: int = Field(20, ge=1, le=600, description="time for running requests to end after that")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="lowest level that is logged")
    log_format: Literal["auto", "json", "console"] = Field("auto", description="auto: console on a terminal, else JSON")

    # Command line
    url: str | None = Field(
        None, description="where the command line finds the service; default: at port `PORT`, or 8000, of 127.0.0.1"
    )
    api_key: SecretStr | None = Field(None, description="the key that the command line sends")
    signing_passphrase: SecretStr | None = Field(
        None, min_length=1, description="encrypts the keys that `anole release` signs with"
    )
    data_root: Path | None = Field(None, description="folder of the data sets for training and evaluation")

    @property
    def service_url(self) -> str:
        """Where the command line finds the service. `make run` takes its port from the variable PORT too."""
        return self.url or f"http://127.0.0.1:{os.environ.get(_MAKE_PORT) or 8000}"

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the address; False for host names other than localhost."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def load_settings(**given: Any) -> Settings:
    """Return the settings; arguments that are not None take precedence over the environment.

    Raises:
        InvalidSettings: names every setting that is wrong, where it came from and what is allowed.
    """
    chosen = {name: value for name, value in given.items() if value is not None}
    _reject_unknown_variables()
    try:
        return Settings(**chosen)
    except ValidationError as error:
        raise InvalidSettings("; ".join(_message(item, chosen) for item in error.errors())) from error


def export_to_workers(settings: Settings, folder: Path) -> None:
    """Put the settings into the environment, where worker processes that start afterwards read them.

    The keys are removed from it, because no worker needs them.

    Args:
        settings: all of them.
        folder: what the workers share; see `service.workers.worker_folder`.
    """
    os.environ[_WORKER_FOLDER] = str(folder)
    for name in _SECRETS:
        os.environ.pop(_variable(name), None)
    for name, value in settings.model_dump(mode="json", exclude_none=True, exclude=set(_SECRETS)).items():
        os.environ[_variable(name)] = ",".join(value) if isinstance(value, list) else str(value)
    if settings.catalog_url is not None:
        os.environ[_variable("catalog_url")] = settings.catalog_url.get_secret_value()


def worker_folder() -> Path | None:
    """Return the folder that this worker shares with the others of its service, or None if it is the only one."""
    path = os.environ.get(_WORKER_FOLDER)
    return Path(path) if path else None


def child_environment() -> dict[str, str]:
    """Return the variables that a helper process needs to start; no setting, key or credential is among them."""
    return {name: os.environ[name] for name in _CHILD_VARIABLES if name in os.environ}


def tracing_requested() -> bool:
    """Return whether OpenTelemetry's standard variables ask for traces. Its SDK reads the other ones itself.

    Raises:
        InvalidSettings: they ask for an exporter that is not supported.
    """
    exporter = os.environ.get("OTEL_TRACES_EXPORTER", "").strip()
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true" or exporter == "none":
        return False
    if exporter not in ("", "otlp"):
        raise InvalidSettings(f"environment variable OTEL_TRACES_EXPORTER is {exporter!r}; otlp and none are supported")
    return bool(exporter) or any(os.environ.get(name) for name in _TRACE_ENDPOINTS)


def disable_onnxruntime_telemetry() -> None:
    """Keep onnxruntime from looking up its maker's telemetry host. Call this before onnxruntime is imported."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def disable_ray_usage_reports() -> None:
    """Keep Ray from reporting its use to its makers. Call this before Ray is started."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"


def _reject_unknown_variables() -> None:
    known = {_variable(name) for name in Settings.model_fields}
    unknown = sorted(name for name in os.environ if name.startswith(ENVIRONMENT_PREFIX) and name not in known)
    removed = {_variable(name): instead for name, instead in REMOVED.items()}
    messages = [f"{name} is no longer a setting ({removed[name]}); unset it" for name in unknown if name in removed]
    unknown = [name for name in unknown if name not in removed]
    if unknown:
        allowed = ", ".join(sorted(known))
        messages.append(f"unknown environment variable {', '.join(unknown)}; the settings are {allowed}")
    if messages:
        raise InvalidSettings("; ".join(messages))


def _variable(name: str) -> str:
    return ENVIRONMENT_PREFIX + name.upper()


def _message(item: Any, given: dict[str, Any]) -> str:
    name = str(item["loc"][0])
    source = f"setting {name}" if name in given else f"environment variable {_variable(name)}"
    return f"{source} is {item['input']!r}: {item['msg'][0].lower()}{item['msg'][1:]}"
