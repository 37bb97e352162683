"""The configuration: errors name the key and its line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from service.bridge.config import load_config, read_secret
from service.client import InvalidInput

GOOD = """[anole]
client = "line"

[rules]
pass = ["good"]

[[source]]
type = "http"

[[sink]]
type = "csv"
path = "verdicts.csv"

[[sink]]
type = "modbus"
port = 5020
"""

TWO_MQTT = """type = "mqtt"
host = "b"

[[sink]]
type = "mqtt"
name = "plant"
host = "b"
sparkplug = { group = "plant", node = "line-4" }"""
"""With one client_id by default, they would end each other's connections."""


def load(tmp_path: Path, text: str) -> str:
    """Return the error of a configuration."""
    path = tmp_path / "bridge.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InvalidInput) as caught:
        load_config(path)
    return str(caught.value).replace(f"{path}", "FILE")


def test_a_small_configuration_has_defaults(tmp_path: Path) -> None:
    path = tmp_path / "bridge.toml"
    path.write_text(GOOD, encoding="utf-8")
    config = load_config(path)
    assert [(each.type, each.name) for each in config.sink] == [("csv", "csv"), ("modbus", "modbus")]
    assert config.rules.unknown == "unknown"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("port = 5020", "port = 99999", "FILE, line 16: sink[2].port: input should be less than or equal to 65535"),
        ("port = 5020", "prot = 5020", "FILE, line 16: sink[2].prot: extra inputs are not permitted"),
        ('path = "verdicts.csv"\n', "", "FILE, line 10: sink[1].path: field required"),
        ('client = "line"\n', "", "FILE, line 1: anole.client: field required"),
        (
            'client = "line"',
            'client = "Line 4"',
            "FILE, line 2: anole.client: 'Line 4' is not allowed; allowed: 1 to 64",
        ),
        ('"modbus"', '"profinet"', "FILE, line 14: sink[2]: "),
        ('pass = ["good"]', "pass = []", "FILE, line 5: rules.pass: "),
        ('type = "http"', 'type = "http"\nhost = "0.0.0.0"', "FILE, line 7: source[1]: a host that other machines"),
        ('type = "modbus"', 'type = "modbus"\nname = "csv"', "2 tables [[sink]] have the name 'csv'"),
        ('"modbus"\nport = 5020', '"opcua"\nactivate = true', "activate = true needs username and password_file"),
        (
            '"modbus"\nport = 5020',
            '"mqtt"\nhost = "x"\ntopic = "a/#"',
            "'a/#' is not allowed; allowed: a topic without + and #",
        ),
        (
            '"modbus"\nport = 5020',
            '"mqtt"\nhost = "x"\nsparkplug = {group = "a/b", node = "c"}',
            "group: 'a/b' is not allowed; allowed: a name without +, # and /",
        ),
        (
            'type = "modbus"\nport = 5020',
            TWO_MQTT,
            "connect to b:1883 as 'anole-bridge-verdicts'; give each a client_id",
        ),
        ("[rules]", "[rules", "FILE is not TOML: "),
    ],
)
def test_an_error_names_the_key_and_its_line(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert said in load(tmp_path, GOOD.replace(old, new))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"cannot read .*none\.toml"):
        load_config(tmp_path / "none.toml")


def test_secrets_are_the_first_line_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("hunter2\n", encoding="utf-8")
    assert (read_secret(path), read_secret(None)) == ("hunter2", None)
    path.write_text("\n", encoding="utf-8")
    with pytest.raises(InvalidInput, match=re.escape(f"{path} is empty")):
        read_secret(path)
