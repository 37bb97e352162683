"""Weights from a generative model of earlier tasks' weights, after MERLIN, against a memory of tasks and the start.

    python benchmarks/merlin.py --data-root FOLDER [--checkpoint omniglot] [--tasks 32] [--episodes 20] [--json]

MERLIN (Joseph & Balasubramanian 2020, arXiv:2010.00352) trains several nets on each task, and on chunks of their
weights a variational autoencoder whose prior depends on the task. For a task, it draws weights from that prior, trains
each of these nets further on stored samples, and averages what they predict. Here:

* a domain of `benchmarks.task_memory` takes the place of a task, and the adapted weights of its training tasks that of
  the nets trained on it. A domain without training tasks gets the mean of the priors, as in MERLIN where the task is
  not known;
* chunks have 300 numbers, the encoder and the decoder a layer of 50, and the latent two numbers, as in the published
  code for Split MNIST. Chunks are of the change from the start, in units of its root mean square, so that a decoder
  whose output is 0 gives the start; weights themselves, squeezed through two numbers, would be no net that works;
* nets drawn for an episode take the inner steps on its support, and the mean of their probabilities decides;
* all domains are there from the beginning, so nothing is replayed against forgetting.

The head is left out, because it belongs to the classes of one task.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.figures import Parser, differences, machine, machine_line, markdown, percent, points, script
from benchmarks.fixtures import folded
from benchmarks.task_memory import CPU, DOMAINS, TASKS, WAYS, open_domain
from models.adaptation.adapt import Adapted, InnerLoopInput, adapt_inputs
from models.checkpoint import Checkpoint, load_checkpoint
from models.data.class_dataset import ClassDataset
from models.data.episodes import EpisodeSampler, EpisodeShape
from models.inference.predict import logits_and_features
from models.meta.evaluation import Score
from models.meta.memory import MemoryConfig, TaskMemory, build_memory
from models.meta.training import WeightedDataset, task_source
from models.nets import Net
from models.task import Task
from models.weights import Weights
from service.cli.console import progress

CHUNK: Final = 300
HIDDEN: Final = 50
LATENT: Final = 2
BATCH: Final = 512
METHODS: Final = ("start alone", "memory", "one drawn net", "drawn nets")


class WeightModel(nn.Module):
    """A variational autoencoder of chunks of weights.

    Args:
        chunks: of one net.
        domains: that have a prior.
    """

    def __init__(self, chunks: int, domains: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(CHUNK, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 2 * LATENT))
        self.decoder = nn.Sequential(nn.Linear(2 * LATENT, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, CHUNK))
        self.places = nn.Parameter(torch.randn(chunks, LATENT))
        self.priors = nn.Parameter(torch.zeros(domains, 2 * LATENT))

    def loss(self, values: Tensor, places: Tensor, domains: Tensor) -> Tensor:
        """Negative evidence lower bound of chunks (batch, CHUNK), for unit variance around what is decoded."""
        mean, log_variance = self.encoder(values).chunk(2, -1)
        prior_mean, prior_log_variance = self.priors[domains].chunk(2, -1)
        latent = mean + (log_variance / 2).exp() * torch.randn_like(mean)
        shift = (mean - prior_mean).square() + log_variance.exp()
        divergence = (prior_log_variance - log_variance + shift / prior_log_variance.exp() - 1).sum(-1) / 2
        error = (self.decode(latent, places) - values).square().sum(-1) / 2
        bound: Tensor = (error + divergence).mean()
        return bound

    def decode(self, latent: Tensor, places: Tensor) -> Tensor:
        """Chunks (batch, CHUNK)."""
        decoded: Tensor = self.decoder(torch.cat([self.places[places], latent], -1))
        return decoded

    @torch.no_grad()
    def draw(self, domain: int | None, nets: int, generator: torch.Generator) -> Tensor:
        """Changes of the weights of nets, (nets, chunks * CHUNK), from a domain's prior; None: from the mean of all."""
        prior = self.priors.mean(0) if domain is None else self.priors[domain]
        mean, log_variance = prior.chunk(2)
        latent = mean + (log_variance / 2).exp() * torch.randn(nets, LATENT, generator=generator)
        places = torch.arange(len(self.places))
        return torch.stack([self.decode(one.expand(len(places), -1), places).flatten() for one in latent])


@dataclass(frozen=True)
class Generator:
    """Draws starting weights.

    Attributes:
        model: of chunks.
        scale: root mean square of the changes that it was trained on.
        domains: names of those with a prior.
        names: of the weights, in the order in which they lie in the chunks.
    """

    model: WeightModel
    scale: float
    domains: Sequence[str]
    names: Sequence[str]

    def starts(self, start: Weights, domain: str, nets: int, seed: int) -> list[dict[str, Tensor]]:
        """Weights of nets for a task of a domain."""
        known = self.domains.index(domain) if domain in self.domains else None
        drawn = self.scale * self.model.draw(known, nets, torch.Generator().manual_seed(seed))
        sizes = [start[name].numel() for name in self.names]
        parts = torch.split(drawn[:, : sum(sizes)], sizes, dim=1)
        changes = {name: part.view(nets, *start[name].shape) for name, part in zip(self.names, parts, strict=True)}
        return [
            {**start, **{name: start[name] + change[net] for name, change in changes.items()}} for net in range(nets)
        ]


def remember(start: Checkpoint, classes: ClassDataset, tasks: int) -> TaskMemory:
    """Adapt training tasks of one domain."""
    source = task_source([WeightedDataset(classes)], start.net_config, TASKS, CPU)
    memory = TaskMemory(start.digest, MemoryConfig(tasks))
    for grown in build_memory(memory, start.build_net(), start.weights, source, start.recipe):
        memory = grown
    return memory


def train(memories: Mapping[str, TaskMemory], epochs: int, seed: int) -> Generator:
    """Train the model on the values of all memories."""
    torch.manual_seed(seed)  # the layers and the reparameterisation draw from it
    names = sorted(next(iter(memories.values())).values)
    changes = [[memory.values[name].float().flatten(1) for name in names] for memory in memories.values()]
    flat = torch.cat([torch.cat(of_domain, 1) for of_domain in changes])
    scale = float(flat.square().mean().sqrt())
    chunks = F.pad(flat / scale, (0, -flat.shape[1] % CHUNK)).view(len(flat), -1, CHUNK)
    count, places = len(flat), chunks.shape[1]
    domains = torch.arange(len(memories)).repeat_interleave(torch.tensor([len(memory) for memory in memories.values()]))
    model = WeightModel(places, len(memories))
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    with progress("training the model of weights", epochs) as report:
        for epoch in range(epochs):
            total = torch.zeros(())
            order = torch.randperm(count * places)
            for start in range(0, len(order), BATCH):
                rows = order[start : start + BATCH]
                loss = model.loss(chunks[rows // places, rows % places], rows % places, domains[rows // places])
                optimiser.zero_grad()
                torch.autograd.backward(loss)
                optimiser.step()
                total += loss.detach() * len(rows)
            report(epoch + 1, f"loss {float(total) / (count * places):.2f}")
    return Generator(model, scale, list(memories), names)


def score(net: Net, task: Task, start: Checkpoint, starts: Sequence[Weights], steps: int, seed: int) -> float:
    """Accuracy of the mean of the probabilities of nets that take the inner steps from these weights."""
    recipe = start.recipe.adjusted(steps, None)
    loops = [InnerLoopInput(task.support, recipe, seed, weights) for weights in starts]
    probabilities = []
    for adapted in adapt_inputs(net, start.weights, loops):
        if isinstance(adapted, Adapted):  # a drawn net may diverge
            stacked = {name: tensor[None] for name, tensor in folded(adapted).items()}
            with torch.no_grad():
                logits, _ = logits_and_features(net, stacked, task.query_inputs[None], None)
            probabilities.append(logits[0].softmax(-1))
    if not probabilities:
        return 1 / task.support.n_way
    return float((torch.stack(probabilities).mean(0).argmax(-1) == task.query_labels).float().mean())


def run(arguments: argparse.Namespace, start: Checkpoint) -> list[dict[str, Any]]:
    """All domains and numbers of steps: a row with the accuracies of each method."""
    domains = {name: open_domain(name, start.net_config.image, arguments.data_root) for name in arguments.only}
    trained = {name: domain.train for name, domain in domains.items() if domain.train is not None}
    memories = {name: remember(start, classes, arguments.tasks) for name, classes in trained.items()}
    generator, net = train(memories, arguments.epochs, arguments.seed), start.build_net()
    every, rows = TaskMemory(start.digest, MemoryConfig(arguments.tasks * len(memories))), []
    for memory in memories.values():
        if memory.keys is not None:
            every = every.add(memory.keys, memory.values)
    for name, domain in domains.items():
        shape = EpisodeShape(min(WAYS, len(domain.test)), arguments.shots, arguments.queries)
        source = EpisodeSampler(domain.test, shape, start.net_config.image, within_line=1.0)
        for steps in arguments.steps:
            row: dict[str, Any] = {"domain": name, "steps": steps, **{method: [] for method in METHODS}}
            for seed in range(arguments.seed, arguments.seed + arguments.episodes):
                task = source.task(seed)
                drawn = generator.starts(start.weights, name, arguments.nets, seed)
                recalled = every.start_for(net, start.weights, task.support)
                of_method: list[Sequence[Weights]] = [[start.weights], [recalled], drawn[:1], drawn]
                for method, starts in zip(METHODS, of_method, strict=True):
                    row[method].append(score(net, task, start, starts, steps, seed))
            rows.append(row)
    return rows


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    parser.data_root("omniglot/, mini-imagenet.zip, licensed/ and x_sdd.zip", required=True)
    parser.option("--checkpoint", "omniglot", "name of a shipped checkpoint, or path to one")
    parser.option("--tasks", 32, "tasks of each domain to learn from")
    parser.option("--epochs", 20, "passes over the chunks")
    parser.option("--nets", 10, "nets to draw for an episode")
    parser.option("--only", list(DOMAINS), "domains", choices=DOMAINS, metavar="DOMAIN")
    parser.option("--shots", 5, "support images per class")
    parser.option("--steps", [1, 2], "inner steps")
    parser.option("--queries", 10, "query images per class")
    parser.option("--episodes", 20, "episodes per domain", least=2)
    parser.option("--seed", 0, "seed of the model of weights and of the first episode")
    parser.json()
    return parser.parse_args()


@script
def main() -> None:
    """Remember, train the model of weights, score, and print the table."""
    arguments = parse_arguments()
    torch.set_num_threads(1)
    start = load_checkpoint(arguments.checkpoint)
    record = {"machine": machine(arguments.checkpoint), **vars(arguments), "digest": start.digest}
    record["rows"] = run(arguments, start)
    print(json.dumps(record, indent=2, default=str) if arguments.json else table(record))


def table(record: Mapping[str, Any]) -> str:
    """The results as text."""
    alone, *others = METHODS
    rows = [
        (
            row["domain"],
            str(row["steps"]),
            percent(Score(tuple(row[alone]))),
            *(points(differences(row[method], row[alone])) for method in others),
        )
        for row in record["rows"]
    ]
    return "\n".join([
        f"{WAYS}-way {record['shots']}-shot, {record['episodes']} episodes, seed {record['seed']}",
        f"start {record['digest'][:12]}; {record['tasks']} tasks of each domain, {record['nets']} nets drawn",
        machine_line(record["machine"]),
        "Accuracy with 95 % interval; differences to the start alone in points, paired by episode.",
        "",
        markdown(("domain", "inner steps", *METHODS), rows),
    ])  # fmt: skip


if __name__ == "__main__":
    main()
