"""The configuration of the bridge: a TOML file, checked by pydantic. Errors name the key and its line."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, FilePath, ValidationError, model_validator

from service.client import InvalidInput

_NAME: Final = r"^[A-Za-z0-9_-]{1,64}$"
_CLIENT_NAME: Final = r"^[a-z0-9][a-z0-9._-]{0,63}$"
_TOPIC: Final = r"^[^+#\x00]+$"
_TOPIC_PART: Final = r"^[^+#/\x00]+$"
_HTTP_URL: Final = r"^https?://"
_ALLOWED: Final = {
    _NAME: "1 to 64 of A-Z, a-z, 0-9, _ and -",
    _CLIENT_NAME: "1 to 64 of a-z, 0-9, ., _ and -, beginning with a letter or digit",
    _TOPIC: "a topic without + and #",
    _TOPIC_PART: "a name without +, # and /",
    _HTTP_URL: "a URL that begins with http:// or https://",
}
"""What the patterns of texts allow, in words."""


Port = Annotated[int, Field(ge=0, le=65535)]
Name = Annotated[str, Field(pattern=_NAME)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
Queue = Annotated[int, Field(ge=1, le=1_000_000)]
ClientName = Annotated[str, Field(pattern=_CLIENT_NAME)]
"""What the service allows. It would reject every picture with another one."""

PublishTopic = Annotated[str, Field(pattern=_TOPIC)]
"""A topic without the wildcards + and #, which only subscribers may use."""

PublishName = Annotated[str, Field(pattern=_TOPIC_PART)]
"""A part of such a topic."""

_TABLE: Final = re.compile(r"^\s*\[\[?\s*([A-Za-z0-9_.-]+)\s*\]\]?")
_TYPES: Final = frozenset(
    {"folder", "http", "camera", "genicam", "mqtt", "csv", "sqlite", "modbus", "opcua", "webhook", "failures"}
)
"""Values of `type`, which pydantic puts into the location of an error."""
_KEY: Final = re.compile(r"^\s*([A-Za-z0-9_-]+)\s*=")


class Section(BaseModel):
    """Base of all tables. Unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class AnoleConfig(Section):
    """The service that judges. Address and key may come from the command line or the environment instead."""

    client: ClientName
    url: str | None = None
    key_file: FilePath | None = None
    alias: str | None = None


class RulesConfig(Section):
    """Which verdict a picture gets.

    Attributes:
        pass_classes: classes that pass; in the file, the key is `pass`.
        min_confidence: a class with a lower probability counts as unknown.
        unknown: result of a picture that counts as unknown.
        debounce: pictures in a row with one result until the state follows.
        class_numbers: numbers of classes for PLCs; default: 1, 2, 3 … by name, which changes when a class is added.
    """

    pass_classes: frozenset[str] = Field(alias="pass", min_length=1)
    min_confidence: float = Field(0.0, ge=0, le=1)
    unknown: Literal["pass", "fail", "unknown"] = "unknown"
    debounce: int = Field(1, ge=1, le=1000)
    class_numbers: dict[str, Annotated[int, Field(ge=1, le=65534)]] = {}


class BridgeSection(Section):
    """The bridge itself: how many pictures may wait for Anole, and where the counters are written to."""

    queue: Queue = 100
    status_file: Path | None = None


class FolderSource(Section):
    """Images that appear in a folder. `state` remembers which are done, also after a restart."""

    type: Literal["folder"]
    name: Name = "folder"
    path: Path
    state: Path
    every_s: Seconds = 1.0


class HttpSource(Section):
    """Images that are posted to /pictures. The response is the verdict."""

    type: Literal["http"]
    name: Name = "http"
    host: str = "127.0.0.1"
    port: Port = 8010
    token_file: FilePath | None = None
    max_bytes: int = Field(10 * 1024 * 1024, ge=1024, le=1024**3)

    @model_validator(mode="after")
    def _check_token(self) -> Self:
        if self.token_file is None and self.host not in {"127.0.0.1", "::1", "localhost"}:
            raise ValueError(
                "a host that other machines can reach needs token_file, a file with a token of your choice"
            )
        return self


class CameraSource(Section):
    """Frames of an RTSP or USB camera, or of a video file, in an interval or when something moves."""

    type: Literal["camera"]
    name: Name = "camera"
    device: int | str
    trigger: Literal["interval", "motion"] = "interval"
    every_s: Seconds = 1.0
    motion_share: float = Field(0.02, gt=0, le=1)


class GenicamSource(Section):
    """Frames of a GenICam camera, through the GenTL producer (.cti) of its maker."""

    type: Literal["genicam"]
    name: Name = "genicam"
    producer: FilePath
    serial: str | None = None
    every_s: Seconds = 1.0


class MqttBroker(Section):
    """What all connections to an MQTT broker have in common."""

    host: str
    port: Port = 1883
    username: str | None = None
    password_file: FilePath | None = None
    tls: bool = False
    client_id: Name


class MqttSource(MqttBroker):
    """MQTT messages whose payload is an encoded image."""

    type: Literal["mqtt"]
    name: Name = "mqtt"
    topic: str
    client_id: Name = "anole-bridge-pictures"


class CsvSink(Section):
    """A CSV file that verdicts are appended to."""

    type: Literal["csv"]
    name: Name = "csv"
    path: Path
    queue: Queue = 1000


class SqliteSink(Section):
    """A table `verdicts` in an SQLite file. A verdict that comes twice is stored once."""

    type: Literal["sqlite"]
    name: Name = "sqlite"
    path: Path
    queue: Queue = 1000


class SparkplugNode(Section):
    """The names of a Sparkplug group and of the bridge as an edge node in it."""

    group: PublishName
    node: PublishName


class MqttSink(MqttBroker):
    """A JSON message for each verdict. `{source}` and `{client}` in the topic are replaced.

    With `sparkplug`, verdicts are metrics of Sparkplug B instead, which has topics of its own.
    """

    type: Literal["mqtt"]
    name: Name = "mqtt"
    topic: PublishTopic = "anole/{client}/{source}/verdict"
    status_topic: PublishTopic = "anole/bridge/status"
    client_id: Name = "anole-bridge-verdicts"
    sparkplug: SparkplugNode | None = None
    queue: Queue = 1000

    @model_validator(mode="after")
    def _check_topics(self) -> Self:
        if self.sparkplug is not None and self.model_fields_set & {"topic", "status_topic"}:
            raise ValueError("topic and status_topic are not possible with sparkplug, which has topics of its own")
        return self


class ModbusSink(Section):
    """Registers of Modbus TCP: a server that the PLC reads, or a client that writes into the PLC."""

    type: Literal["modbus"]
    name: Name = "modbus"
    mode: Literal["server", "client"] = "server"
    host: str = "127.0.0.1"
    port: Port = 502
    unit: int = Field(1, ge=0, le=247)
    address: int = Field(0, ge=0, le=65_000)
    queue: Queue = 1000


class OpcUaSink(Section):
    """An OPC UA server with the latest result and, if allowed, a method that activates a version."""

    type: Literal["opcua"]
    name: Name = "opcua"
    host: str = "127.0.0.1"
    port: Port = 4840
    username: str | None = None
    password_file: FilePath | None = None
    certificate: FilePath | None = None
    private_key: FilePath | None = None
    activate: bool = False
    queue: Queue = 1000

    @model_validator(mode="after")
    def _check_access(self) -> Self:
        if (self.username is None) != (self.password_file is None):
            raise ValueError("username and password_file need each other")
        if (self.certificate is None) != (self.private_key is None):
            raise ValueError("certificate and private_key need each other")
        if self.activate and self.username is None:
            raise ValueError("activate = true needs username and password_file, because it changes what is served")
        return self


class WebhookSink(Section):
    """A POST for each verdict, signed as Standard Webhooks describes."""

    type: Literal["webhook"]
    name: Name = "webhook"
    url: str = Field(pattern=_HTTP_URL)
    secret_file: FilePath | None = None
    results: frozenset[Literal["pass", "fail", "unknown"]] = frozenset({"pass", "fail", "unknown"})
    timeout_s: Seconds = 10.0
    queue: Queue = 1000


class FailuresSink(Section):
    """Pictures that did not pass, in a folder with bounds. The oldest are deleted first."""

    type: Literal["failures"]
    name: Name = "failures"
    path: Path
    results: frozenset[Literal["pass", "fail", "unknown"]] = frozenset({"fail", "unknown"})
    max_files: int = Field(1000, ge=1, le=1_000_000)
    max_bytes: int = Field(1024**3, ge=1024)
    queue: Queue = 100


SourceConfig = Annotated[
    FolderSource | HttpSource | CameraSource | GenicamSource | MqttSource, Field(discriminator="type")
]
SinkConfig = Annotated[
    CsvSink | SqliteSink | MqttSink | ModbusSink | OpcUaSink | WebhookSink | FailuresSink,
    Field(discriminator="type"),
]


class BridgeConfig(Section):
    """The whole file."""

    anole: AnoleConfig
    rules: RulesConfig
    bridge: BridgeSection = BridgeSection()
    source: list[SourceConfig] = Field(min_length=1)
    sink: list[SinkConfig] = Field(min_length=1)

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        for kind, entries in (("source", self.source), ("sink", self.sink)):
            name, count = Counter(each.name for each in entries).most_common(1)[0]
            if count > 1:
                raise ValueError(f"{count} tables [[{kind}]] have the name {name!r}; give each a name of its own")
        return self

    @model_validator(mode="after")
    def _check_client_ids(self) -> Self:
        """Check those of one broker, which ends the older connection of two with the same one, for ever in turn."""
        connected = [each for each in (*self.source, *self.sink) if isinstance(each, MqttBroker)]
        for (host, port, client_id), count in Counter(
            (each.host, each.port, each.client_id) for each in connected
        ).items():
            if count > 1:
                raise ValueError(
                    f"{count} tables of the type mqtt connect to {host}:{port} as {client_id!r}; give each a "
                    "client_id of its own"
                )
        return self


def load_config(path: Path) -> BridgeConfig:
    """Read a configuration.

    Raises:
        InvalidInput: the file cannot be read, is not TOML, or has a wrong key or value; names the key and its line.
    """
    try:
        text = path.read_text(encoding="utf-8")
        return BridgeConfig.model_validate(tomllib.loads(text))
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"cannot read {path}: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise InvalidInput(f"{path} is not TOML: {error}") from error
    except ValidationError as error:
        raise InvalidInput("\n".join(_message(path, text, item) for item in error.errors())) from error


def read_secret(path: Path | None) -> str | None:
    """Return the first line of a file with a secret, or None without a file. Raises InvalidInput."""
    if path is None:
        return None
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"cannot read the secret in {path}: {error}") from error
    if not lines or not lines[0].strip():
        raise InvalidInput(f"{path} is empty; put the secret into its first line")
    return lines[0].strip()


def _message(path: Path, text: str, item: Any) -> str:
    steps = [step for step in item["loc"] if step not in _TYPES]
    key = "".join(f"[{step + 1}]" if isinstance(step, int) else f".{step}" for step in steps).lstrip(".")
    line = _line(text, steps)
    where = f"{path}, line {line}" if line else f"{path}"
    reason = item["msg"].removeprefix("Value error, ")
    if item["type"] == "string_pattern_mismatch":
        reason = f"{item['input']!r} is not allowed; allowed: {_ALLOWED[item['ctx']['pattern']]}"
    return f"{where}: {key or 'the file'}: {reason[0].lower()}{reason[1:]}"


def _line(text: str, steps: list[int | str]) -> int | None:
    """Return the line of a key or, if it is missing, of its table; None if there is neither."""
    index = next((step for step in steps if isinstance(step, int)), 0)
    names = [step for step in steps if isinstance(step, str)]
    if not names:
        return None
    counts: Counter[str] = Counter()
    inside, found = False, None
    for number, line in enumerate(text.splitlines(), 1):
        if header := _TABLE.match(line):
            inside = header[1] == names[0] and counts[header[1]] == index
            counts[header[1]] += 1
            found = number if inside else found
        elif inside and (key := _KEY.match(line)) and names[1:2] == [key[1]]:
            return number
    return found
