"""The error tree of the learning half; it knows no HTTP status and no database.

::

    AnoleError                      everything this project raises on purpose (the service's tree hangs below it too)
    ├── InvalidTask                 support or query that cannot make a few-shot task
    ├── InvalidConfig               a field of a recipe outside its range, a pattern that matches nothing
    ├── AdaptationDiverged          the loss or the weights of an inner loop stopped being finite
    ├── CheckpointInvalid           a checkpoint that is damaged, of another format, or not what its name says
    ├── DataSetUnavailable          a data set that is neither on this machine nor to be fetched
    └── ImageRejected               bytes that are not an image this project accepts
        ├── ImageEmpty
        ├── ImageFormatUnsupported
        ├── ImageCorrupt
        ├── ImageUndecodable
        ├── ImageTooLarge
        └── ImageTooSmall
"""

from __future__ import annotations


class AnoleError(Exception):
    """Root of every error raised on purpose; its text says what came, what is allowed and what to do."""


class InvalidTask(AnoleError, ValueError):
    """Support or query images and labels that cannot make a few-shot task."""


class InvalidConfig(AnoleError, ValueError):
    """A setting outside its range, or a name pattern that matches none of the net's weights."""


class AdaptationDiverged(AnoleError):
    """An inner loop whose loss or weights became NaN or infinite.

    Attributes:
        step: the inner step (from 1) after which it was seen.
        tasks: indices, within the batch, of the tasks that diverged.
    """

    def __init__(self, step: int, tasks: tuple[int, ...]) -> None:
        self.step = step
        self.tasks = tasks
        super().__init__(
            f"the adaptation diverged: the loss or the weights were no longer finite after inner step {step}; "
            "use a lower learning rate or fewer steps"
        )


class CheckpointInvalid(AnoleError):
    """A checkpoint that is damaged, of an unknown format, or whose digest does not match."""


class DataSetUnavailable(AnoleError):
    """A data set that is neither under the data root nor reachable."""


class ImageRejected(AnoleError, ValueError):
    """Bytes that cannot be used as an image; the subclasses say why."""


class ImageEmpty(ImageRejected):
    """No bytes at all."""


class ImageFormatUnsupported(ImageRejected):
    """Not one of the accepted formats, whatever the file is called."""


class ImageCorrupt(ImageRejected):
    """An accepted format whose content is truncated or damaged."""


class ImageUndecodable(ImageRejected):
    """Content that the decoder did not survive: it hung or died."""


class ImageTooLarge(ImageRejected):
    """More bytes, pixels or a longer side than the limits allow, found from the header; or too little memory for it."""


class ImageTooSmall(ImageRejected):
    """A side shorter than the limits allow."""
