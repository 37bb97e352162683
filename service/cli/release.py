"""The commands that publish signed releases for devices. They open the store's folder and need no service."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import typer
from typer.core import TyperGroup

from service.cli.console import EXIT_CODES, AsJson, notices, output, plain, print_json
from service.cli.installation import ServerCommand
from service.cli.keys import Data
from service.errors import InvalidSettings
from service.settings import disable_onnxruntime_telemetry, load_settings

Repository = Annotated[Path, typer.Option(help="Folder of the repository, which a web server delivers.")]
Keys = Annotated[Path | None, typer.Option(help="Folder of the private keys.", show_default="REPOSITORY-keys")]
ChannelName = Annotated[Literal["canary", "stable"], typer.Option(help="Channel that devices follow.")]

ROOT_WARNING: Final = timedelta(days=60)
"""How long before its expiry `renew` asks to sign root again. Devices install nothing with an expired one."""

_PUBLISH = "publish"


class ReleaseGroup(TyperGroup):
    """`anole release CLIENT` stands for `anole release publish CLIENT`, unless CLIENT is the name of a command."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Take a name that is no command for that of a client."""
        known = self.get_command(ctx, args[0]) is not None or args[0].startswith("-")
        return super().resolve_command(ctx, args if known else [_PUBLISH, *args])


release = typer.Typer(
    cls=ReleaseGroup,
    no_args_is_help=True,
    help="Publish a version for devices (`anole release CLIENT`), and sign the repository. "
    "For a client called keys, publish or renew, say `anole release publish CLIENT`.",
)
release_keys = typer.Typer(no_args_is_help=True, help="Create and rotate the keys that sign a repository.")
release.add_typer(release_keys, name="keys")


def require_fleet() -> None:
    """Raises InvalidSettings if the extra `fleet` is not installed."""
    try:
        import cryptography  # noqa: F401
        import tuf  # noqa: F401
    except ImportError as error:
        raise InvalidSettings(
            f"signed releases need the extra fleet ({error}); install it with `pip install '.[fleet]'` in a "
            "checkout of Anole"
        ) from error


def signed_repository(folder: Path, keys: Path | None) -> Any:
    """Open a repository with its keys, which by default are beside it."""
    require_fleet()
    from service.fleet.repository import SignedRepository
    from service.fleet.signing import KeyFolder

    beside = folder.absolute().parent if folder.name not in ("", "..") else folder.resolve().parent
    passphrase = load_settings().signing_passphrase
    opened = KeyFolder(
        keys or beside / f"{folder.resolve().name}-keys", None if passphrase is None else passphrase.get_secret_value()
    )
    return SignedRepository(folder, opened, notify=lambda text: notices().print(plain(text)))


@release.command(_PUBLISH, cls=ServerCommand, epilog=EXIT_CODES)
def publish(
    client: Annotated[str, typer.Argument(metavar="CLIENT")],
    repository: Repository,
    channel: ChannelName = "stable",
    version: Annotated[int | None, typer.Option(min=1, help="Version.", show_default="the live one")] = None,
    keys: Keys = None,
    percent: Annotated[int, typer.Option(min=0, max=100, help="Percentage of the channel's devices.")] = 1,
    tolerance: Annotated[
        float, typer.Option(min=1e-6, max=0.2, help="Largest difference of a device's scores in the smoke set.")
    ] = 0.02,
    max_unknown: Annotated[
        float, typer.Option(min=0, max=1, help="A device goes back if more of its images are unknown.")
    ] = 0.5,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Publish a version for the first devices of a channel. `anole rollout advance` gives it to more.

    `publish` may be left out, unless the client has the name of a command.
    """
    from service.edge.bundle import HealthRule
    from service.fleet.publishing import ReleaseRules, publish_version

    opened = signed_repository(repository, keys)
    disable_onnxruntime_telemetry()
    rules = ReleaseRules(tolerance, HealthRule(max_unknown=max_unknown))
    with notices().status("publishing …"):
        done = publish_version(load_settings(data=data), opened, (client, version), channel, percent, rules)
    if as_json:
        print_json(done)
        return
    output().print(
        plain(
            f"released version {done['version']} of {client} to {percent} % of {channel}: {done['release_bytes']} "
            f"bytes for each device, and {done['start_bytes']} once for its start"
        )
    )


@release.command(cls=ServerCommand, epilog=EXIT_CODES)
def renew(repository: Repository, keys: Keys = None, as_json: AsJson = False) -> None:
    """Sign the repository again before its signatures expire. Run it every day."""
    opened = signed_repository(repository, keys)
    until = opened.renew()
    expiries = opened.expiries()
    if as_json:
        print_json({"valid_until": until, "expiries": expiries})
        return
    output().print(f"devices accept the repository until {until:%Y-%m-%d %H:%M} UTC")
    for role, expires in expiries.items():
        output().print(f"{role}: signed until {expires:%Y-%m-%d}")
    if expiries["root"] - datetime.now(UTC) < ROOT_WARNING:
        notices().print("root expires soon: sign it again with its keys, by `anole release keys rotate timestamp`")


@release_keys.command(cls=ServerCommand, epilog=EXIT_CODES)
def create(
    repository: Repository,
    keys: Keys = None,
    threshold: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ROLE=SIGNATURES/KEYS",
            help="How many of a role's keys must sign. Repeat it for several roles.",
            show_default="one key for each role",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Create the keys and an empty repository. Devices need its first root, from you and not from the web server."""
    opened = signed_repository(repository, keys)
    from service.fleet.signing import Threshold

    root = opened.create(dict(Threshold.parse(text) for text in threshold or []))
    if as_json:
        print_json({"root": root})
    else:
        output().print(plain(f"created {repository}; copy {root} to each device, as `anole edge --root FILE`"))
        notices().print("keep the keys of root in a safe place, away from this machine; they are needed to rotate keys")


@release_keys.command(cls=ServerCommand, epilog=EXIT_CODES)
def rotate(
    role: Annotated[Literal["root", "targets", "snapshot", "timestamp"], typer.Argument(metavar="ROLE")],
    repository: Repository,
    keys: Keys = None,
    as_json: AsJson = False,
) -> None:
    """Replace the oldest key of a role. Devices follow at their next poll."""
    removed, added = signed_repository(repository, keys).rotate(role)
    if as_json:
        print_json({"role": role, "removed": removed, "added": added})
    else:
        output().print(f"{role}: key {added[:16]} replaces {removed[:16]}")
