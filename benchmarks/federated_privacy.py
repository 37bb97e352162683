"""What a client's difference gives away in a round of federated Reptile: two attacks, under each protection.

    python benchmarks/federated_privacy.py --data-root FOLDER [--clinics 6] [--start-rounds 20] [--shadows 1000]
        [--targets 60] [--epsilon 8] [--parts few many class] [--json]

The clinics and the recipe are those of `federated_rounds.py`. The attacker knows the start of the round, the recipe,
and for each clinic a pool of images that its clients draw from; a fresh draw is attacked. Parts:

* few: was this image in the support of a client with 5 images of 5 classes? Here an attack has to succeed;
* many: the same for a client of the rounds, with 40 images of 8 classes;
* class: did a client of the rounds have images of this class? The attacker has other images of the class.

Images in question are of the classes that the client had.

Rows: one client's difference as it is, clipped, and with its share of the noise that all rounds need for epsilon; and
the mean over 10 clients of different clinics, which is what secure aggregation shows.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from benchmarks.clinics import CHARACTERS, IMAGE, RECIPE, TRAINING, open_clinics, training_supports
from benchmarks.difference_attacks import Observed, View, hit_rate, likelihood_ratio, sent_differences
from benchmarks.federated_rounds import Federation
from benchmarks.figures import Parser, auroc, machine, machine_line, markdown, percent, script
from models.data.class_dataset import ClassDataset
from models.images.preprocessing import normalise
from models.meta.evaluation import Score
from models.meta.federated import Privacy, noise_multiplier_for
from models.task import Support
from models.weights import Weights

COHORT: Final = 10


@dataclass(frozen=True)
class Kind:
    """A kind of clients, and the pool that they draw from.

    Attributes:
        name: of the table's rows.
        n_way: classes of a client.
        n_shot: images of each.
        classes: classes of the pool.
        images: images of each class in the pool.
    """

    name: str
    n_way: int
    n_shot: int
    classes: int
    images: int

    def pool(self, clinic: ClassDataset, first: int = 0) -> Tensor:
        """Images from number `first` on: float32 (classes, images, 1, side, side)."""
        last = first + self.images
        return torch.stack([normalise(clinic.images(index)[first:last], IMAGE) for index in range(self.classes)])

    def draw(self, pool: Tensor, count: int, seed: int) -> tuple[list[Support], Tensor]:
        """Supports of clients, and which images of the pool they have: bool (count, classes, images)."""
        generator, supports = torch.Generator().manual_seed(seed), []
        member = torch.zeros(count, self.classes, self.images, dtype=torch.bool)
        for client in range(count):
            chosen = torch.randperm(self.classes, generator=generator)[: self.n_way]
            for index in chosen:
                member[client, index, torch.randperm(self.images, generator=generator)[: self.n_shot]] = True
            rows = [pool[index][member[client, index]] for index in chosen]
            supports.append(self.support(rows))
        return supports, member

    def support(self, rows: Sequence[Tensor]) -> Support:
        """A support of some images for each class; heads start from the first of each, as in the rounds."""
        sizes = [len(each) for each in rows]
        labels = torch.arange(len(rows)).repeat_interleave(torch.tensor(sizes))
        anchors = torch.tensor([sum(sizes[:index]) for index in range(len(rows))])
        return Support(torch.cat(list(rows)), labels, len(rows), anchors)


SMALL: Final = Kind("5 images", n_way=5, n_shot=1, classes=8, images=5)
ROUND: Final = Kind("40 images", TRAINING.n_way, TRAINING.n_shot, CHARACTERS, images=10)
PARTS: Final = {"few": (SMALL, False), "many": (ROUND, False), "class": (ROUND, True)}
"""Option of the command line -> the clients, and whether the question is about classes."""


@dataclass(frozen=True)
class Laboratory:
    """What all attacks work with.

    Attributes:
        start: of the round.
        clinics: that are attacked.
        others: that the attacker does not ask about.
        options: of the command line.
        views: rows of the tables.
    """

    start: Weights
    clinics: Sequence[ClassDataset]
    others: Sequence[ClassDataset]
    options: argparse.Namespace
    views: Sequence[View]

    def companions(self, kind: Kind, seed: int) -> Tensor:
        """Differences of clients of other clinics, (clients, numbers)."""
        supports = []
        for number, clinic in enumerate(self.others):
            supports += kind.draw(kind.pool(clinic), 4, (seed << 16) + number)[0]
        return sent_differences(self.start, supports, RECIPE, seed)


def privacy_views(options: argparse.Namespace) -> list[View]:
    """Each protection, for one client and for a cohort."""
    multiplier = noise_multiplier_for(options.epsilon, options.delta, options.rounds)
    plain, clipped = Privacy(), Privacy(options.clip_norm)
    noise = f"clipped, noise for epsilon {options.epsilon:g}"
    return [
        View("one client, as it is", plain),
        View("one client, clipped", clipped),
        View(f"one client, {noise}", Privacy(options.clip_norm, multiplier, options.clients)),
        View(f"mean of {COHORT}, as they are", plain, COHORT),
        View(f"mean of {COHORT}, clipped", clipped, COHORT),
        View(f"mean of {COHORT}, {noise}", Privacy(options.clip_norm, multiplier, COHORT), COHORT),
    ]


Found = dict[str, dict[str, list[float]]]
"""View -> measure -> value for each clinic."""


def attack(lab: Laboratory, kind: Kind, *, classes: bool) -> Found:
    """Was an image in the support, or any image of a class?

    For a class, the attacker has none of the images that its clients draw from, but others of the clinic's classes.
    """
    here, there = lab.companions(kind, 1), lab.companions(kind, 2)
    found: Found = {view.name: {"auroc": [], "hits": []} for view in lab.views}
    what = "classes" if classes else "images"
    for number, clinic in enumerate(track(lab.clinics, f"{what}, {kind.name}", console=Console(stderr=True))):
        known = kind.pool(clinic, kind.images if classes else 0)
        shadows = drawn(lab, kind, known, lab.options.shadows, (3 << 16) + number)
        targets = drawn(lab, kind, kind.pool(clinic), lab.options.targets, (4 << 16) + number)
        if classes:
            shadows, targets = of_classes(shadows, kind), of_classes(targets, kind)
        for view in lab.views:
            generator = torch.Generator().manual_seed(number)
            simulated = replace(shadows, seen=view.observe(shadows.seen, there, generator))
            seen = view.observe(targets.seen, here, generator)
            members, others = targets.split(likelihood_ratio(simulated).scores(seen))
            found[view.name]["auroc"].append(auroc(members, others))
            found[view.name]["hits"].append(hit_rate(members, others))
    return found


def drawn(lab: Laboratory, kind: Kind, pool: Tensor, count: int, seed: int) -> Observed:
    """Clients of one clinic as they are, and the question about images of the classes that they have."""
    supports, member = kind.draw(pool, count, seed)
    asked = member.any(2, keepdim=True).expand_as(member)
    seen = sent_differences(lab.start, supports, RECIPE, seed)
    return Observed(seen, member.flatten(1), asked.flatten(1))


def of_classes(clients: Observed, kind: Kind) -> Observed:
    """The same clients, and the question about each class of the pool."""
    member = clients.member.view(-1, kind.classes, kind.images).any(2)
    return replace(clients, member=member, asked=torch.ones_like(member))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run the attacks."""
    record = machine(f"federated, {options.start_rounds} rounds of {options.clients} clients")
    clinics = open_clinics(options.data_root, options.cache, options.clients + options.clinics)
    clients, attacked = clinics[: options.clients], clinics[options.clients :]
    federation = Federation(clients, max(1, options.start_rounds))
    starts = federation.starts(
        lambda *round_: federation.federated(Privacy(), 0.0, *round_), [options.start_rounds], "start"
    )
    start = starts[options.start_rounds]
    lab = Laboratory(start, attacked, clients, options, privacy_views(options))
    found: dict[str, Any] = {"machine": record, "parts": {}}
    norms = sent_differences(start, training_supports(attacked, 10_000), RECIPE, 0).norm(dim=1)
    found["norms"] = norms.tolist()
    for part in options.parts:
        kind, classes = PARTS[part]
        found["parts"][part] = attack(lab, kind, classes=classes)
    return found


def figure(values: Sequence[float]) -> str:
    """Mean and 95 % interval of an area under the curve."""
    score = Score(tuple(values))
    return f"{score.mean:.3f} ± {score.half_width:.3f}"


def tables(found: dict[str, Any]) -> str:
    """The results as Markdown."""
    parts = [machine_line(found["machine"]), "", f"Norm of the clients' differences: {figure(found['norms'])}"]
    for part, views in found["parts"].items():
        kind, classes = PARTS[part]
        question = f"{'class' if classes else 'image'} of a client with {kind.name}"
        rows = [[name, figure(each["auroc"]), percent(Score(tuple(each["hits"])))] for name, each in views.items()]
        parts += ["", markdown([question, "AUROC", "found at 1 % false alarms"], rows)]
    return "\n".join(parts)


@script
def main() -> None:
    """See the module."""
    parser = Parser(__doc__)
    parser.data_root("omniglot/", required=True)
    parser.option("--cache", Path("~/.cache/anole").expanduser(), "folder for decoded images")
    parser.option("--parts", list(PARTS), "attacks to run", choices=list(PARTS))
    parser.option("--clinics", 6, "number of clinics to attack", least=2)
    parser.option("--clients", 50, "clinics of the rounds, which the attacker does not ask about", least=COHORT)
    parser.option("--start-rounds", 20, "rounds before the attacked one", least=0)
    parser.option("--shadows", 1000, "shadow clients for each clinic", least=8)
    parser.option("--targets", 60, "attacked draws of each clinic", least=2)
    parser.option("--rounds", 20, "rounds that share epsilon", least=1)
    parser.option("--clip-norm", 1.0, "of a difference")
    parser.option("--epsilon", 8.0, "privacy loss over all rounds")
    parser.option("--delta", 1e-5, "of the privacy loss")
    parser.json()
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = measure(options)
    print(json.dumps(found) if options.json else tables(found))


if __name__ == "__main__":
    main()
