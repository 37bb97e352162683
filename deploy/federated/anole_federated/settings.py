"""Settings of a federated run. They come from Flower's run config and, on a device, from its node config.

What protects a device's data is read on the device. Its node config has precedence, and nothing that the server sends
in a round can change it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from flwr.app import Context

from models.config import InnerLoopConfig
from models.meta.federated import Privacy


@dataclass(frozen=True)
class Settings:
    """Settings; in Flower's configs, hyphens stand for the underscores.

    Attributes:
        checkpoint: name or path of the start, the same everywhere. The server sends the weights that are adapted.
        rounds: number of rounds.
        step_size: of the first round; falls linearly to 0.
        steps: inner steps of a client.
        learning_rate: of the inner steps.
        batch_size: images of an inner step.
        n_way: classes that a client learns from in a round, at most those it has.
        n_shot: images of each class, one of which makes the prototype.
        cohort: smallest number of clients in a round, from 2.
        clip_norm: largest norm of a difference.
        noise_multiplier: see `models.meta.federated.Privacy`.
        delta: at which the privacy loss is reported.
        timeout_s: how long the server waits for clients in each stage of a round.
        out: where the server writes the new start, a checkpoint that `anole serve --model` takes.
        samples: on a device, its folder of samples with one folder per class.
    """

    checkpoint: str = "surfaces"
    rounds: int = 10
    step_size: float = 1.0
    steps: int = 5
    learning_rate: float = 0.3
    batch_size: int = 10
    n_way: int = 5
    n_shot: int = 5
    cohort: int = 3
    clip_norm: float = 1.0
    noise_multiplier: float = 0.0
    delta: float = 1e-5
    timeout_s: float = 600.0
    out: str = "federated.safetensors"
    samples: str = ""

    @classmethod
    def of(cls, context: Context, defaults: Mapping[str, object] | None = None) -> Settings:
        """Read the settings of a run, those of the device last."""
        given = {**(defaults or {}), **context.run_config, **context.node_config}
        named = {key.replace("-", "_"): value for key, value in given.items()}
        return cls(**{field.name: named[field.name] for field in fields(cls) if field.name in named})

    @property
    def recipe(self) -> InnerLoopConfig:
        """The inner loop of a client."""
        return InnerLoopConfig(steps=self.steps, learning_rate=self.learning_rate, batch_size=self.batch_size)

    @property
    def privacy(self) -> Privacy:
        """What a client does before it sends."""
        return Privacy(self.clip_norm, self.noise_multiplier, self.cohort)
