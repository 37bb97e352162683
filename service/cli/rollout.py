"""The commands that show and change how far releases are rolled out."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.console import EXIT_CODES, FAILED, NO_VALUE, AsJson, notices, output, plain, print_json, table
from service.cli.installation import ServerCommand
from service.cli.release import ChannelName, Keys, Repository, signed_repository

if TYPE_CHECKING:
    from service.edge.rings import Rollout
    from service.fleet.rollout import Fleet, RolloutStatus

Reports = Annotated[str | None, typer.Option(metavar="DIR|URL", help="Where the devices' reports are.")]
ClientName = Annotated[str, typer.Argument(metavar="CLIENT")]

rollout = typer.Typer(no_args_is_help=True, help="Give releases to more devices, ring by ring, or halt them.")


@rollout.command("status", cls=ServerCommand, epilog=EXIT_CODES)
def show(repository: Repository, reports: Reports = None, keys: Keys = None, as_json: AsJson = False) -> None:
    """List the rollouts, and what the reports of devices say. A breached rule is a failure."""
    from service.fleet.rollout import Fleet

    found = _status(Fleet(signed_repository(repository, keys)), reports)
    if as_json:
        print_json([{**asdict(each), "rollout": each.rollout.model_dump()} for each in found])
    else:
        listed = table("channel", "client", "version", "percent", "state", "devices", "images", "unknown", "failed")
        for each in found:
            counts = each.counts
            state = "halted" if each.rollout.halted else "complete" if each.rollout.percent >= 100 else "in progress"
            shares = (f"{counts.unknown}", f"{counts.failed}") if counts.images else (NO_VALUE, NO_VALUE)
            listed.add_row(
                each.channel, each.client, str(each.rollout.version), f"{each.rollout.percent} %", state,
                str(counts.devices), str(counts.images), *shares,
            )  # fmt: skip
        output().print(listed)
        for each in found:
            if each.breach is not None:
                output().print(plain(f"{each.channel}, {each.client}: {each.breach}"))
    if any(each.breach is not None and not each.rollout.halted for each in found):
        raise typer.Exit(FAILED)


@rollout.command(cls=ServerCommand, epilog=EXIT_CODES)
def advance(
    client: ClientName,
    repository: Repository,
    channel: ChannelName = "stable",
    percent: Annotated[
        int | None, typer.Option(min=0, max=100, help="Percentage of the devices.", show_default="the next ring")
    ] = None,
    reports: Reports = None,
    keys: Keys = None,
    as_json: AsJson = False,
) -> None:
    """Give a release to the next ring: 1, 10, then 100 % of the devices. If reports breach the rule, halt it."""
    from service.fleet.rollout import Fleet

    fleet = Fleet(signed_repository(repository, keys))
    for each in _status(fleet, reports):
        if (each.channel, each.client) == (channel, client) and each.breach is not None and not each.rollout.halted:
            _print(channel, client, fleet.halt(channel, client), as_json=as_json)
            notices().print(plain(f"halted instead: {each.breach}"))
            raise typer.Exit(FAILED)
    _print(channel, client, fleet.advance(channel, client, percent), as_json=as_json)


@rollout.command(cls=ServerCommand, epilog=EXIT_CODES)
def halt(
    client: ClientName,
    repository: Repository,
    channel: ChannelName = "stable",
    keys: Keys = None,
    as_json: AsJson = False,
) -> None:
    """Halt a rollout: devices go back to the release before at their next poll."""
    from service.fleet.rollout import Fleet

    _print(channel, client, Fleet(signed_repository(repository, keys)).halt(channel, client), as_json=as_json)


@rollout.command(cls=ServerCommand, epilog=EXIT_CODES)
def resume(
    client: ClientName,
    repository: Repository,
    channel: ChannelName = "stable",
    keys: Keys = None,
    as_json: AsJson = False,
) -> None:
    """Resume a halted rollout at the percentage that it had."""
    from service.fleet.rollout import Fleet

    fleet = Fleet(signed_repository(repository, keys))
    _print(channel, client, fleet.halt(channel, client, halted=False), as_json=as_json)


def _status(fleet: Fleet, reports: str | None) -> list[RolloutStatus]:
    from service.fleet.rollout import read_reports

    return fleet.status(() if reports is None else read_reports(reports))


def _print(channel: str, client: str, now: Rollout, *, as_json: bool) -> None:
    if as_json:
        print_json({"channel": channel, "client": client, **now.model_dump()})
        return
    state = "halted" if now.halted else f"at {now.percent} %"
    output().print(plain(f"version {now.version} of {client} on {channel} is {state}"))
