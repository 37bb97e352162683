"""Errors of the ``models`` package.

::

    AnoleError                      base class, also of the service's errors
    ├── InvalidTask                 invalid support or query
    ├── InvalidConfig               a setting out of range, or a pattern that matches no weight
    ├── AdaptationDiverged          the loss or the weights of an inner loop are no longer finite
    ├── CohortTooSmall              too few clients replied in a federated round
    ├── CheckpointInvalid           a missing or damaged checkpoint, or one of another format
    ├── ExportUnsupported           a version that cannot be exported in this format, or not here
    ├── ExportInvalid               a file that is not an exported version, or is damaged
    ├── ParityTooLow                an exported version that differs too much from the service
    ├── DatasetUnavailable          a dataset that cannot be found, downloaded or read
    └── ImageRejected               an image file that is not accepted
        ├── ImageEmpty
        ├── ImageFormatUnsupported
        ├── ImageCorrupt
        ├── ImageDepthMismatch
        ├── ImageUndecodable
        ├── ImageTooLarge
        └── ImageTooSmall
"""

from __future__ import annotations

from typing import Any


class AnoleError(Exception):
    """Base class of all errors; the text says what is wrong, what is allowed and what to do.

    An error can be sent to another process: its text and attributes arrive as they are.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self.args), self.__dict__


def _restore(kind: type[AnoleError], args: tuple[Any, ...]) -> AnoleError:
    """Make an error again without its `__init__`, which may take other arguments than the text."""
    error = kind.__new__(kind)
    error.args = args
    return error


class InvalidTask(AnoleError, ValueError):
    """Support or query images and labels are not a valid few-shot task."""


class InvalidConfig(AnoleError, ValueError):
    """A setting is out of range, or a name pattern matches none of the net's weights."""


class AdaptationDiverged(AnoleError):
    """The loss or the weights of an inner loop became NaN or infinite.

    Attributes:
        step: the inner step, from 1, after which it was detected.
        tasks: indices in the batch of the tasks that diverged.
    """

    def __init__(self, step: int, tasks: tuple[int, ...]) -> None:
        self.step = step
        self.tasks = tasks
        super().__init__(
            f"the adaptation diverged: the loss or the weights are no longer finite after inner step {step}; "
            "use a lower learning rate or fewer steps"
        )


class CohortTooSmall(AnoleError):
    """Fewer clients replied in a federated round than the server may average.

    Attributes:
        clients: how many replied.
        cohort: how many are needed.
    """

    def __init__(self, clients: int, cohort: int) -> None:
        self.clients, self.cohort = clients, cohort
        super().__init__(
            f"{clients} clients replied in this round; at least {cohort} are needed, so that no difference can be told "
            "from the mean. Wait for more clients, or repeat the round"
        )


class CheckpointInvalid(AnoleError):
    """The checkpoint is missing, damaged or of an unknown format, or does not match its digest."""


class ExplanationUnsupported(AnoleError, ValueError):
    """The predictions of this net cannot be traced to places in the image."""


class ExportUnsupported(AnoleError, ValueError):
    """A version cannot be exported in this format, or not here."""


class ExportInvalid(AnoleError, ValueError):
    """The file is not an exported version, or it is damaged."""


class ParityTooLow(AnoleError):
    """The exported version differs too much from the service."""


class DatasetUnavailable(AnoleError):
    """The dataset cannot be found, downloaded or read."""


class ImageRejected(AnoleError, ValueError):
    """The image file is not accepted; the subclasses give the reason."""


class ImageEmpty(ImageRejected):
    """The file is empty."""


class ImageFormatUnsupported(ImageRejected):
    """The content is in none of the accepted formats."""


class ImageCorrupt(ImageRejected):
    """The content is truncated or damaged."""


class ImageDepthMismatch(ImageRejected):
    """The image uses more bits per sample than the other images of the client."""


class ImageUndecodable(ImageRejected):
    """The decoder process hung or crashed on the content."""


class ImageTooLarge(ImageRejected):
    """The image exceeds a limit on bytes, pixels or side length, or needs more memory than allowed."""


class ImageTooSmall(ImageRejected):
    """A side is shorter than the limit."""
