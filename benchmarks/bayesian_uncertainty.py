"""Probabilities averaged over what a version does not know, compared with the point estimate and with cheap rivals.

    python benchmarks/bayesian_uncertainty.py --data-root FOLDER [--sets x_sdd deeppcb] [--shots 1 5] [--episodes 100]
        [--omniglot CHECKPOINT ...] [--methods point posterior] [--cache FOLDER] [--picture PNG] [--json]

All rows adapt to the same episodes, and each fits a temperature of its own on held-out folds, as the service does (with
one shot there are none, and it is 1):

* point: softmax of the head's scores;
* posterior: averaged over the posterior of the class means (`models.nets.head_posterior`), 64 draws;
* laplace: averaged over a Laplace approximation of the head, of each class's row for itself, 64 draws; the prior's
  variance is the mean square of the head's weights;
* ensemble: averaged over versions with other seeds, or, of heads in closed form, from resampled supports;
* sampled weights: averaged over draws of the Gaussian scales and shifts as well, of checkpoints trained with
  bayesian-reptile. Every draw is a pass through the net.

Images of classes that are not in the support are unknown. AUROC says how well a score tells them from the queries:
the service's unknown score, the entropy, and the epistemic part of it, which is compared with the point estimate's
entropy. Further checkpoints for Omniglot are compared with the first one's point estimate.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from benchmarks.embedded_sets import Shape, draw_episode, embed_for, queries_of, read_set, support_of, turned_of
from benchmarks.figures import Parser, auroc, differences, machine, machine_line, markdown, script
from benchmarks.measuring import Times
from benchmarks.reliability import judged_of, plot
from models.adaptation.adapt import Adapted, adapt
from models.adaptation.gaussian_weights import GaussianStep, draw_noise, gaussian_names
from models.adaptation.inner_loop import collect_statistics
from models.atomic_files import write_atomically
from models.checkpoint import Checkpoint, load_checkpoint
from models.config import InnerLoopConfig
from models.data.episodes import EpisodeSampler, EpisodeShape
from models.data.registry import open_dataset
from models.errors import AdaptationDiverged, InvalidConfig
from models.inference.predict import fold_calibrated, logits_and_features
from models.meta.evaluation import Score
from models.nets import Net, call_net, heads
from models.nets.head_posterior import SAMPLES, HeadPosterior, posterior_weights
from models.task import Support
from models.validation.calibration import expected_calibration_error, fit_averaged_temperature
from models.validation.cross_validation import Candidate, CrossValidator
from models.validation.novelty import in_distribution_score, novelty_distance
from models.weights import expand, join

METRICS: Final = ("accuracy", "nll", "auroc_service", "auroc_total", "auroc_epistemic")
MEMBERS: Final = 5
WEIGHT_SAMPLES: Final = 16
AT_ONCE: Final = 4
RESAMPLES: Final = 500


@dataclass(frozen=True)
class Trial:
    """An episode: a support, queries of its classes, and images of other classes.

    Attributes:
        turned: inputs of queries and then unknown images, turned by 180 degrees; None for nets without a second look.
    """

    support: Support
    queries: Tensor
    labels: Tensor
    unknown: Tensor
    turned: Tensor | None

    @property
    def inputs(self) -> Tensor:
        """Queries, then unknown images."""
        return torch.cat([self.queries, self.unknown])


@dataclass(frozen=True)
class Scores:
    """Sampled scores of images.

    Attributes:
        logits: (images, samples or 1, n_way).
        noise: of each sample, (images, samples, n_way) or a scalar.
        power: noise is divided by the temperature to this power.
    """

    logits: Tensor
    noise: Tensor
    power: float = 1.0

    def sampled(self, temperature: float) -> Tensor:
        """Probabilities (images, samples, n_way)."""
        scaled: Tensor = self.logits / temperature + self.noise / temperature**self.power
        return scaled.softmax(-1)


@dataclass(frozen=True)
class Start:
    """A checkpoint and its net."""

    net: Net
    checkpoint: Checkpoint


@dataclass(frozen=True)
class Fitted:
    """A version, or a fold of it, with what it was adapted to and how."""

    adapted: Adapted
    support: Support
    recipe: InnerLoopConfig
    seed: int

    @property
    def posterior(self) -> HeadPosterior:
        """Of its class means."""
        found = HeadPosterior.of(self.adapted.weights)
        if found is None:
            raise InvalidConfig("the version has no posterior; its recipe must have uncertainty 'bayes'")
        return found


Method = Callable[[Start, Fitted, Tensor, Tensor | None], Scores]
"""Sampled scores of inputs, and of the turned images' inputs for a second look."""


def point(start: Start, fitted: Fitted, inputs: Tensor, turned: Tensor | None) -> Scores:
    """See the module."""
    logits, _ = head_outputs(start.net, fitted.adapted, inputs, turned)
    return Scores(logits[:, None], torch.zeros(()))


def posterior(start: Start, fitted: Fitted, inputs: Tensor, turned: Tensor | None) -> Scores:
    """See the module."""
    logits, _ = head_outputs(start.net, fitted.adapted, inputs, turned)
    noise = fitted.posterior.deviation(logits)[:, None] * fitted.posterior.draws
    return Scores(logits[:, None], noise.float(), power=0.5)


def laplace(start: Start, fitted: Fitted, inputs: Tensor, turned: Tensor | None) -> Scores:
    """See the module."""
    logits, features = head_outputs(start.net, fitted.adapted, inputs, turned)
    scores, known = head_outputs(start.net, fitted.adapted, fitted.support.inputs, None)
    prior_variance = fitted.adapted.weights[heads.WEIGHT].square().mean()
    deviations = []
    for p in scores.softmax(-1).T:  # the Hessian of a class's row is the sum of p (1 - p) f f^T over the support
        rows = known * (p * (1 - p)).sqrt()[:, None]
        gram = rows @ rows.T + torch.eye(len(rows)) / prior_variance
        explained = features @ rows.T
        reduced = features.square().sum(-1) - (explained @ torch.linalg.inv(gram) * explained).sum(-1)
        deviations.append((prior_variance * reduced).clamp(min=0).sqrt())
    noise = torch.stack(deviations, -1)[:, None] * fitted.posterior.draws
    return Scores(logits[:, None], noise.float())


def ensemble(start: Start, fitted: Fitted, inputs: Tensor, turned: Tensor | None) -> Scores:
    """See the module."""
    seeds = [fitted.seed + 1000 * member for member in range(1, MEMBERS)]
    support = fitted.support
    supports = [support if fitted.recipe.steps else resampled(support, seed) for seed in seeds]
    others = adapt(start.net, start.checkpoint.weights, supports, fitted.recipe, seeds)
    members = [fitted.adapted, *(one for one in others if isinstance(one, Adapted))]
    logits = [head_outputs(start.net, member, inputs, turned)[0] for member in members]
    return Scores(torch.stack(logits, 1), torch.zeros(()))


def sampled_weights(start: Start, fitted: Fitted, inputs: Tensor, _turned: Tensor | None) -> Scores:
    """See the module."""
    stacked = expand(fitted.adapted.weights, WEIGHT_SAMPLES)
    generators = [torch.Generator().manual_seed(sample) for sample in range(WEIGHT_SAMPLES)]
    sampled = GaussianStep(stacked, torch.ones(1), draw_noise(stacked, generators), 0.0).sample(stacked)
    logits = []
    with torch.no_grad():
        for first in range(0, WEIGHT_SAMPLES, AT_ONCE):
            part = {name: tensor[first : first + AT_ONCE] for name, tensor in sampled.items()}
            collected = collect_statistics(start.net, part, AT_ONCE * [fitted.support.inputs])
            statistics = join([one.statistics for one in collected])
            features = call_net(start.net, part, inputs.expand(AT_ONCE, *inputs.shape), statistics)
            logits.append(heads.logits(part, features))  # (samples, images, n_way)
    by_sample = torch.cat(logits).transpose(0, 1)  # (images, samples, n_way)
    deviation = fitted.posterior.deviation(by_sample.mean(1))[:, None]
    noise = deviation * fitted.posterior.draws[:: SAMPLES // WEIGHT_SAMPLES]
    return Scores(by_sample, noise.float(), power=0.5)


METHODS: Final[dict[str, Method]] = {
    "point": point,
    "posterior": posterior,
    "laplace": laplace,
    "ensemble": ensemble,
    "sampled weights": sampled_weights,
}


def head_outputs(net: Net, adapted: Adapted, inputs: Tensor, turned: Tensor | None) -> tuple[Tensor, Tensor]:
    """Scores (images, n_way) and features (images, features) of one version at temperature 1."""
    folded = fold_calibrated(adapted.kept(), adapted.statistics)
    single = {name: tensor[None] for name, tensor in folded.items()}
    with torch.no_grad():
        logits, features = logits_and_features(net, single, inputs[None], None if turned is None else turned[None])
    return logits[0], features[0]


def resampled(support: Support, seed: int) -> Support:
    """The support with as many samples of each class, drawn with replacement, in all their views."""
    generator = torch.Generator().manual_seed(seed)
    labels, rows = support.sample_labels, []
    for label in range(support.n_way):
        members = (labels == label).nonzero().flatten()
        rows.append(members[torch.randint(len(members), (len(members),), generator=generator)])
    drawn = torch.cat(rows)
    inputs = support.by_view[:, drawn].flatten(0, 1)
    return Support(inputs, labels[drawn].repeat(support.views), support.n_way, views=support.views)


def measure(start: Start, trial: Trial, method: Method, candidate: Candidate, seed: int) -> dict[str, Any]:
    """One method on one episode: its figures, and confidences and hits of the queries."""
    version = Fitted(candidate.adapted, candidate.support, candidate.recipe, seed)
    scores = method(start, version, trial.inputs, trial.turned)
    temperature = fitted_temperature(start, method, candidate, seed)
    sampled = scores.sampled(temperature)  # (images, samples, n_way)
    mean, known = sampled.mean(1), len(trial.queries)
    total = torch.special.entr(mean).sum(-1)
    epistemic = total - torch.special.entr(sampled).sum(-1).mean(1)
    folded = fold_calibrated(candidate.adapted.kept(), candidate.adapted.statistics)
    single = {name: tensor[None] for name, tensor in folded.items()}
    logits, features = head_outputs(start.net, candidate.adapted, trial.inputs, trial.turned)
    distance = novelty_distance(single, trial.inputs[None], features[None], logits[None])[0]
    strange = 1 - in_distribution_score(mean.amax(-1), distance)
    confidence, predicted = mean[:known].max(-1)
    hits = predicted == trial.labels
    chosen = mean[:known].gather(-1, trial.labels[:, None])
    scores_of = {"service": strange, "total": total, "epistemic": epistemic}
    areas = {f"auroc_{name}": auroc(own[known:], own[:known]) for name, own in scores_of.items()}
    figures = {"accuracy": float(hits.float().mean()), "nll": -float(chosen.clamp(min=1e-6).log().mean()), **areas}
    return {**figures, "temperature": temperature, "confidence": confidence, "hits": hits}


def fitted_temperature(start: Start, method: Method, candidate: Candidate, seed: int) -> float:
    """Of held-out samples, as the service fits it; 1 without any."""
    held, labels = [], candidate.support.sample_labels
    given = []
    for fold, adapted in enumerate(candidate.fold_results):
        mask = candidate.folds.test_mask(fold)
        if isinstance(adapted, AdaptationDiverged) or not bool(mask.any()):
            continue
        views = candidate.support.by_view[:, mask]
        fitted = Fitted(adapted, candidate.support.without(mask), candidate.recipe, seed + 1 + fold)
        held.append(method(start, fitted, views[0], views[-1] if len(views) > 1 else None))
        given.append(labels[mask])
    if not held:
        return 1.0
    return fit_averaged_temperature(
        lambda temperature: torch.cat([scores.sampled(temperature).mean(1) for scores in held]), torch.cat(given)
    )


def run(start: Start, trials: Iterator[tuple[int, Trial]], names: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """All methods on all episodes: method -> figures of each."""
    recipe = replace(start.checkpoint.recipe, uncertainty="bayes")
    validator = CrossValidator(start.net, start.checkpoint.weights)
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for seed, trial in trials:
        groups = torch.arange(len(trial.support.sample_labels))
        candidate = validator.adapt(trial.support, recipe, seed, groups)
        for name in names:
            rows[name].append(measure(start, trial, METHODS[name], candidate, seed))
    return rows


def omniglot_trials(start: Start, root: Path, shots: int, arguments: argparse.Namespace) -> Iterator[tuple[int, Trial]]:
    """Episodes of test characters: of twice the classes, half are unknown."""
    image = start.checkpoint.net_config.image
    data = open_dataset("omniglot", image, root, Path.home() / ".cache" / "anole").test
    sampler = EpisodeSampler(data, EpisodeShape(2 * arguments.ways, shots, arguments.queries), image)
    for seed in seeds(arguments, f"omniglot, {shots} shots"):
        task = sampler.task(seed)
        rows, known = task.support.labels < arguments.ways, task.query_labels < arguments.ways
        support = Support(task.support.inputs[rows], task.support.labels[rows], arguments.ways)
        queries = task.query_inputs
        yield seed, Trial(support, queries[known], task.query_labels[known], queries[~known], None)


def embedded_trials(
    start: Start, name: str, shots: int, arguments: argparse.Namespace
) -> Iterator[tuple[int, Trial]]:  # fmt: skip
    """Episodes of a set of images, seen by the frozen backbone; the classes left over are unknown."""
    data = embed_for(read_set(arguments.data_root / f"{name}.zip", arguments.most), start.checkpoint, arguments.cache)
    for seed in seeds(arguments, f"{name}, {shots} shots"):
        episode = draw_episode(data, Shape(min(arguments.ways, data.classes - 1), shots, arguments.queries), seed)
        rows = torch.cat([episode.queries, episode.others])
        queries, unknown = queries_of(data, episode.queries), queries_of(data, episode.others)
        yield seed, Trial(support_of(data, episode), queries, episode.query_labels, unknown, turned_of(data, rows))


def seeds(arguments: argparse.Namespace, title: str) -> Iterable[int]:
    """The episodes' seeds, with a progress bar."""
    numbers = range(arguments.seed, arguments.seed + arguments.episodes)
    return track(numbers, title, console=Console(stderr=True))


def calibration_error(rows: Sequence[dict[str, Any]]) -> float:
    """Of the queries of all episodes together."""
    return expected_calibration_error(*judged_of(rows))


def calibration_interval(rows: Sequence[dict[str, Any]], reference: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """95 % interval of the difference in calibration error: bootstrap over episodes (Efron 1979)."""
    generator, found = torch.Generator().manual_seed(0), []
    for _ in range(RESAMPLES):
        drawn = torch.randint(len(rows), (len(rows),), generator=generator).tolist()
        found.append(calibration_error([rows[i] for i in drawn]) - calibration_error([reference[i] for i in drawn]))
    low, high = torch.tensor(found).quantile(torch.tensor([0.025, 0.975])).tolist()
    return low, high


def summarised(title: str, rows: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Figures of all methods, and paired differences to the first one."""
    reference = next(iter(rows.values()))
    methods = {}
    for name, own in rows.items():
        figures: dict[str, Any] = {"ece": calibration_error(own), "ece_change": calibration_interval(own, reference)}
        figures["temperature"] = sum(row["temperature"] for row in own) / len(own)
        for metric in METRICS:
            values = [row[metric] for row in own]
            before = [row["auroc_total" if metric == "auroc_epistemic" else metric] for row in reference]
            mean, change = Score(tuple(values)), differences(values, before)
            figures[metric] = [mean.mean, mean.half_width, change.mean, change.half_width]
        methods[name] = figures
    return {"title": title, "episodes": len(reference), "methods": methods}


def table_of(result: dict[str, Any]) -> str:
    """Figures of the first method, and the others' differences to it."""
    lines = []
    first = next(iter(result["methods"]))
    for name, figures in result["methods"].items():
        cells = [name]
        for metric in METRICS:
            mean, half, change, change_half = figures[metric]
            scale, digits = (1, 3) if metric == "nll" else (100, 1)
            shown = (mean, half) if name == first else (change, change_half)
            sign = "" if name == first else "+"
            figure = f"{scale * shown[0]:{sign}.{digits}f} ± {scale * shown[1]:.{digits}f}"
            cells.append("" if name.endswith("point") and metric == "auroc_epistemic" else figure)
        low, high = figures["ece_change"]
        change = "" if name == first else f" ({100 * low:+.1f} to {100 * high:+.1f})"
        cells.append(f"{100 * figures['ece']:.1f}{change}")
        lines.append(cells)
    headings = ("method", "accuracy, %", "NLL, nats", "AUROC service", "AUROC entropy", "AUROC epistemic", "ECE, %")
    return f"{result['title']}, {result['episodes']} episodes\n\n{markdown(headings, lines)}"


def prediction_cost(ways: int) -> dict[str, float]:
    """What a posterior adds to predictions and to a version: microseconds an image in batches of 16, and bytes."""
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(ways, 256, generator=generator)
    head = heads.prototype_head(means, 0.01)
    stored = posterior_weights(head[heads.WEIGHT], means, torch.full((ways,), 5), generator)
    found = HeadPosterior.of({**head, **stored})
    logits, times = torch.randn(16, ways, generator=generator), Times()
    if found is not None:
        for _ in range(100):
            times.measure(partial(found.predict, logits))
    size_bytes = sum(tensor.nbytes for tensor in stored.values())
    return {"us_per_image": 1e6 * times.processor_median_s / 16, "version_bytes": size_bytes}


@script
def main() -> None:
    """Score all methods and print the tables."""
    arguments = parse_arguments()
    torch.set_num_threads(1)
    found, results, judged = machine(arguments.start), [], {}
    for shots in arguments.shots:
        for name in arguments.sets:
            start = opened(arguments.start)
            rows = run(start, embedded_trials(start, name, shots, arguments), usable(arguments.methods, start))
            results.append(summarised(f"{name}, {shots}-shot, {arguments.start}", rows))
            judged[f"{name}, {shots}-shot"] = {method: judged_of(own) for method, own in rows.items()}
        rows = {}
        for name in arguments.omniglot:
            start = opened(name)
            trials = omniglot_trials(start, arguments.data_root, shots, arguments)
            measured = run(start, trials, usable(arguments.methods, start))
            rows |= {f"{start.checkpoint.name}: {method}": own for method, own in measured.items()}
        if rows:
            results.append(summarised(f"omniglot, {arguments.ways}-way {shots}-shot", rows))
            judged[f"omniglot, {shots}-shot"] = {method: judged_of(own) for method, own in rows.items()}
    if arguments.picture is not None:
        write_atomically(arguments.picture, plot(judged), durable=False)
    costs = prediction_cost(arguments.ways)
    if arguments.json:
        print(json.dumps({"machine": found, "results": results, "cost": costs}, indent=2))
        return
    print("\n\n".join(map(table_of, results)))
    print(f"\nThe first row shows figures, the others differences to it, with 95 % intervals. {machine_line(found)}")
    print(f"{costs['us_per_image']:.0f} us per image more; {costs['version_bytes']} bytes more per version")


def opened(name: str) -> Start:
    """Load a checkpoint and build its net."""
    checkpoint = load_checkpoint(name)
    return Start(checkpoint.build_net(), checkpoint)


def usable(methods: Sequence[str], start: Start) -> list[str]:
    """The methods, without drawing weights where none is Gaussian."""
    return [name for name in methods if name != "sampled weights" or gaussian_names(start.checkpoint.weights)]


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    parser.data_root("one .zip for each set, and omniglot/", required=True)
    parser.option("--sets", ["x_sdd"], "names of .zip files in that folder, without the ending", nargs="*")
    parser.option("--omniglot", ["omniglot"], "checkpoints to score on Omniglot: shipped names, or paths", nargs="*")
    parser.option("--start", "efficientnet-lite0", "checkpoint with a frozen backbone for the sets")
    parser.option("--methods", list(METHODS), "rows; the first one is compared with", choices=list(METHODS))
    parser.option("--ways", 5, "known classes of an episode", least=2)
    parser.option("--shots", [1, 5], "support images per class")
    parser.option("--queries", 10, "queries per class")
    parser.option("--episodes", 100, "number of episodes", least=2)
    parser.option("--most", 300, "images of a class; of larger classes, so many are drawn", least=2)
    parser.option("--seed", 0, "seed of the first episode")
    parser.add_argument("--picture", type=Path, help="PNG to write: reliability, and errors against coverage")
    parser.add_argument("--cache", type=Path, help="folder that keeps features between runs (default: none)")
    parser.json()
    return parser.parse_args()


if __name__ == "__main__":
    main()
