"""Writes and reads payloads of Sparkplug B.

Source: Eclipse Sparkplug 3.0.0, https://sparkplug.eclipse.org/specification/version/3.0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from google.protobuf.message import DecodeError

from service.bridge.sparkplug import sparkplug_b_pb2 as pb
from service.bridge.verdict import Verdict

REBIRTH: Final = "Node Control/Rebirth"
BD_SEQ: Final = "bdSeq"
SEQUENCE: Final = 256
"""`seq` and `bdSeq` begin again at 0 after 255."""

Value = str | bool | int | float


@dataclass(frozen=True, slots=True)
class _DataType:
    """A type of the specification: its number, and the field that has the value."""

    number: int
    field: str


_DATA_TYPES: Final[Mapping[type, _DataType]] = {
    int: _DataType(4, "long_value"),  # Int64
    float: _DataType(10, "double_value"),
    bool: _DataType(11, "boolean_value"),
    str: _DataType(12, "string_value"),
}

METRICS: Final[Mapping[str, type]] = {
    "Result": str,
    "State": str,
    "Label": str,
    "Confidence": float,
    "Known": bool,
    "Class Number": int,
    "Version": int,
    "Number": int,
    "Id": str,
    "Name": str,
    "Client": str,
    "Error": str,
    "Count/Pass": int,
    "Count/Fail": int,
    "Count/Unknown": int,
}
"""Name -> type of the metrics of a device."""


def verdict_values(verdict: Verdict, counts: Counter[str]) -> dict[str, Value]:
    """Return the metrics of a device after a verdict.

    Args:
        verdict: the verdict.
        counts: verdicts of this device by result, including this one.
    """
    fields = verdict.fields()
    values: dict[str, Value] = {name: fields[name.lower().replace(" ", "_")] for name in METRICS if "/" not in name}
    return values | {f"Count/{result.title()}": counts[result] for result in ("pass", "fail", "unknown")}


def node_death(bd_seq: int) -> bytes:
    """Return the payload of NDEATH, which the broker sends when the connection is lost. It has no `seq`."""
    return bytes(_payload(datetime.now(UTC), [_metric(BD_SEQ, bd_seq)]).SerializeToString())


def node_birth(bd_seq: int) -> bytes:
    """Return the payload of NBIRTH, which begins a session with `seq` 0."""
    now = datetime.now(UTC)
    metrics = [_metric(BD_SEQ, bd_seq, now), _metric(REBIRTH, False, now)]
    return bytes(_payload(now, metrics, 0).SerializeToString())


def device_birth(seq: int, values: Mapping[str, Value], taken_at: datetime) -> bytes:
    """Return the payload of DBIRTH: the metrics of a device with their types and, if it has any yet, their values."""
    metrics = [_metric(name, values.get(name), taken_at, kind) for name, kind in METRICS.items()]
    return bytes(_payload(datetime.now(UTC), metrics, seq).SerializeToString())


def device_data(seq: int, values: Mapping[str, Value], taken_at: datetime, *, historical: bool) -> bytes:
    """Return the payload of DDATA.

    Args:
        seq: number of the message.
        values: of all metrics.
        taken_at: when they were so.
        historical: whether they were kept while there was no connection, and are no current values.
    """
    metrics = [_metric(name, value, taken_at) for name, value in values.items()]
    for metric in metrics if historical else ():
        metric.is_historical = True
    return bytes(_payload(datetime.now(UTC), metrics, seq).SerializeToString())


def wants_rebirth(payload: object) -> bool:
    """Return whether a command (NCMD) asks for the births again. Raises ValueError if it is no payload."""
    try:
        command = pb.Payload.FromString(payload)
    except (DecodeError, TypeError) as error:
        raise ValueError("the command is not a payload of Sparkplug B") from error
    return any(metric.name == REBIRTH and metric.boolean_value for metric in command.metrics)


def _payload(at: datetime, metrics: Iterable[pb.Payload.Metric], seq: int | None = None) -> pb.Payload:
    return pb.Payload(timestamp=_milliseconds(at), metrics=metrics, seq=seq)


def _metric(name: str, value: Value | None, at: datetime | None = None, kind: type | None = None) -> pb.Payload.Metric:
    """Return a metric. Without a value it is null."""
    data_type = _DATA_TYPES[type(value) if kind is None else kind]
    metric = pb.Payload.Metric(name=name, datatype=data_type.number)
    if at is not None:
        metric.timestamp = _milliseconds(at)
    if value is None:
        metric.is_null = True
    else:
        setattr(metric, data_type.field, value)
    return metric


def _milliseconds(at: datetime) -> int:
    return round(at.timestamp() * 1000)
