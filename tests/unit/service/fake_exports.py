"""Fake use cases for versions as files."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

from service.domain.version import Version
from service.errors import ServiceError
from service.runtime.adapt_queue import JobControl
from service.usecases.adapt_command import AdaptCommand, AdaptOutcome
from service.usecases.export import ExportCommand, Exported, Exports
from service.usecases.import_version import ImportCommand, Imports


class FakeExports(Exports):
    """Exports every version that exists as the same bytes."""

    def __init__(self, find: Callable[[str, int], Version]) -> None:
        self.find = find
        self.commands: list[ExportCommand] = []

    def submit(self, command: ExportCommand, control: JobControl) -> Future[Exported]:
        self.commands.append(command)
        future: Future[Exported] = Future()
        try:
            self.find(command.client, command.version)
            future.set_result(Exported(b"onnx", {}))
        except ServiceError as error:
            future.set_exception(error)
        return future


class FakeImports(Imports):
    """Imports every file as a version without classes."""

    def __init__(self, adapt: Callable[[AdaptCommand, JobControl], Future[AdaptOutcome]]) -> None:
        self.adapt = adapt
        self.commands: list[ImportCommand] = []

    def submit(self, command: ImportCommand, control: JobControl) -> Future[AdaptOutcome]:
        self.commands.append(command)
        return self.adapt(AdaptCommand(command.client, (), (), publish=command.publish), control)
