"""The server: asks for differences, sees their sum alone, and moves the start."""

from __future__ import annotations

from dataclasses import replace
from logging import INFO, WARNING
from pathlib import Path

import torch
from flwr.app import Context
from flwr.common import FitRes, Parameters, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.common.logger import log
from flwr.server import LegacyContext, ServerConfig
from flwr.server.client_proxy import ClientProxy
from flwr.server.strategy import FedAvg
from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow
from flwr.serverapp import Grid, ServerApp

from anole_federated.settings import Settings
from models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from models.errors import CohortTooSmall, InvalidConfig
from models.meta.federated import ClientUpdate, adapted_names, federated_step
from models.weights import Weights

NOISE_DEVIATIONS = 6.0
"""Numbers are clipped at the clip norm and so many standard deviations of a client's noise before they are masked."""


class FederatedReptile(FedAvg):
    """Moves the start by a share of the mean difference.

    Args:
        start: where the first round starts.
        settings: of the run.

    Attributes:
        start: the current start.
        completed: rounds that moved it.
    """

    def __init__(self, start: Weights, settings: Settings) -> None:
        self.start, self.completed = start, 0
        self._settings, self._names = settings, adapted_names(start, settings.recipe)
        super().__init__(
            fraction_evaluate=0.0,
            min_fit_clients=settings.cohort,
            min_evaluate_clients=0,
            min_available_clients=settings.cohort,
            initial_parameters=self._parameters(),
        )

    def aggregate_fit(
        self,
        server_round: int,
        results: list[tuple[ClientProxy, FitRes]],
        failures: list[tuple[ClientProxy, FitRes] | BaseException],
    ) -> tuple[Parameters | None, dict[str, int]]:
        """Move the start; a round with too few clients leaves it as it is.

        With secure aggregation, every result holds the mean of all.
        """
        updates = [self._update(reply) for _, reply in results]
        step_size = self._settings.step_size * (1 - (server_round - 1) / self._settings.rounds)
        try:
            self.start = federated_step(self.start, updates, step_size, self._settings.cohort)
        except CohortTooSmall as error:
            log(WARNING, "round %s: %s", server_round, error)
            return None, {}
        self.completed += 1
        samples = sum(update.samples for update in updates)
        log(INFO, "round %s: %s clients, %s samples, %s failures", server_round, len(updates), samples, len(failures))
        return self._parameters(), {"clients": len(updates), "samples": samples}

    def _update(self, reply: FitRes) -> ClientUpdate:
        arrays = parameters_to_ndarrays(reply.parameters)
        tensors = {name: torch.from_numpy(array).float() for name, array in zip(self._names, arrays, strict=True)}
        return ClientUpdate(tensors, int(reply.metrics["samples"]))

    def _parameters(self) -> Parameters:
        return ndarrays_to_parameters([self.start[name].numpy() for name in self._names])


def run(grid: Grid, context: Context, settings: Settings) -> Checkpoint:
    """Run all rounds with secure aggregation and write the new start.

    Raises:
        InvalidConfig: the cohort is smaller than two, so that its sum would be one client's difference.
    """
    if settings.cohort < 2:
        raise InvalidConfig(f"cohort is {settings.cohort}; allowed: at least 2, since a sum over one hides nothing")
    checkpoint = load_checkpoint(settings.checkpoint)
    strategy = FederatedReptile(checkpoint.weights, settings)
    secure_sum = SecAggPlusWorkflow(
        num_shares=1.0,
        reconstruction_threshold=settings.cohort,  # fewer clients cannot unmask their sum
        max_weight=1.0,
        clipping_range=settings.clip_norm + NOISE_DEVIATIONS * settings.privacy.client_deviation,
        timeout=settings.timeout_s,
    )
    legacy = LegacyContext(context, config=ServerConfig(num_rounds=settings.rounds), strategy=strategy)
    DefaultWorkflow(fit_workflow=secure_sum)(grid, legacy)
    epsilon = settings.privacy.epsilon(max(1, strategy.completed), settings.delta)
    federated = {"rounds": strategy.completed, "epsilon": str(epsilon), "delta": settings.delta}
    out = Path(settings.out)
    new = replace(
        checkpoint,
        name=out.stem,
        weights=strategy.start,
        training={**checkpoint.training, "federated": federated},
        onnx_graph=None,
    )
    save_checkpoint(new, out)
    log(INFO, "%s of %s rounds moved the start; wrote %s", strategy.completed, settings.rounds, out)
    log(INFO, "privacy loss of a client: epsilon %.3g at delta %g", epsilon, settings.delta)
    return new


app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run all rounds with the settings of the run."""
    run(grid, context, Settings.of(context))
