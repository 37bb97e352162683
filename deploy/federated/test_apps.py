"""The Flower apps in one process: every byte that a client sends, drop-outs, too small cohorts, and the new start."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from anole_federated.client_app import ReptileClient, client_app
from anole_federated.in_process import InProcessGrid, set_task_identity
from anole_federated.server_app import run
from anole_federated.settings import Settings
from flwr.app import Context, Message, RecordDict
from flwr.client import Client
from flwr.clientapp import ClientApp
from flwr.common import Code, FitIns, FitRes, Status, bytes_to_ndarray, ndarrays_to_parameters
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS
from flwr.common.serde import message_to_proto, recorddict_to_proto
from flwr.compat.common import recorddict_compat as compat

from models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from models.config import InnerLoopConfig, NetConfig
from models.data.class_dataset import ArrayDataset
from models.data.episodes import EpisodeSampler, EpisodeShape
from models.errors import InvalidConfig
from models.images.preprocessing import ImageConfig
from models.meta.federated import client_updates
from models.nets import build
from models.weights import changed

NET = NetConfig("conv4", ImageConfig(channels=1, side=16, contrast="none"), width=4)
DEFAULTS = {"rounds": 1, "steps": 2, "learning-rate": 0.05, "n-way": 3, "n-shot": 4, "cohort": 3, "clip-norm": 2.0}
SECRET = b"patient-0815"


def samples(context: Context, settings: Settings, image: ImageConfig) -> ArrayDataset:
    generator = torch.Generator().manual_seed(int(context.node_config["partition-id"]))
    images = [torch.randint(0, 256, (6, 1, 16, 16), generator=generator, dtype=torch.uint8) for _ in range(3)]
    return ArrayDataset("clinic", [f"{SECRET.decode()}-{index}" for index in range(3)], images)


@pytest.fixture(autouse=True)
def task_identity() -> None:
    """What Flower's runtime sets in the process of an app."""
    set_task_identity()


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    net = build(NET, 0)
    path = tmp_path / "start.safetensors"
    save_checkpoint(Checkpoint("start", NET, InnerLoopConfig(steps=2, learning_rate=0.05), net.start()), path)
    return path


def run_rounds(
    checkpoint: Path, changes: Mapping[str, object] | None = None, dropped: tuple[int, ...] = ()
) -> tuple[Checkpoint, InProcessGrid]:
    """Run rounds of four clients and return the new start, and what the clients sent."""
    out = checkpoint.with_name("new.safetensors")
    defaults = {**DEFAULTS, "checkpoint": str(checkpoint), "out": str(out), **(changes or {})}
    grid = InProcessGrid(client_app(samples), 4, defaults, dropped)
    context = Context(1, 0, {}, RecordDict(), {})
    return run(grid, context, Settings.of(context, defaults)), grid


def reply_without_masks(checkpoint: Path) -> Message:
    """The reply of client 1 before secure aggregation masks it."""
    settings = Settings.of(Context(1, 1, {**DEFAULTS, "checkpoint": str(checkpoint)}, RecordDict(), {}))

    def client_fn(context: Context) -> Client:
        return ReptileClient(settings, lambda image: samples(context, settings, image)).to_client()

    weights = load_checkpoint(checkpoint).weights
    arrays = [weights[name].numpy() for name in sorted(weights)]
    content = compat.fitins_to_recorddict(FitIns(ndarrays_to_parameters(arrays), {}), keep_input=True)
    context = Context(1, 1, {"partition-id": 1}, RecordDict(), {})
    return ClientApp(client_fn)(Message(content, dst_node_id=1, message_type="train"), context)


def test_every_byte_that_a_client_sends_is_the_difference_or_a_count(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secrets.randbits", lambda bits: 7)
    reply = reply_without_masks(checkpoint)

    settings = Settings.of(Context(1, 1, {**DEFAULTS}, RecordDict(), {}))
    dataset = samples(Context(1, 1, {"partition-id": 1}, RecordDict(), {}), settings, NET.image)
    support = EpisodeSampler(dataset, EpisodeShape(3, 4, anchor_shots=1), NET.image).support(7)
    start, generator = load_checkpoint(checkpoint).weights, torch.Generator().manual_seed(7)
    (update,) = client_updates(build(NET), start, [support], settings.recipe, settings.privacy, [generator])
    arrays = [update.difference[name].numpy() for name in sorted(update.difference)]
    only = FitRes(Status(Code.OK, "Success"), ndarrays_to_parameters(arrays), 1, {"samples": 12})
    expected = recorddict_to_proto(compat.fitres_to_recorddict(only, keep_input=True))

    sent = message_to_proto(reply)
    assert sent.content.SerializeToString(deterministic=True) == expected.SerializeToString(deterministic=True)
    assert {field.name for field, _ in sent.metadata.ListFields()} <= {
        "run_id", "message_id", "src_node_id", "dst_node_id", "reply_to_message_id", "group_id", "ttl", "message_type",
        "created_at", "src_task_id", "dst_task_id",
    }  # fmt: skip


def test_with_secure_aggregation_a_client_sends_keys_masked_numbers_and_counts(checkpoint: Path) -> None:
    _, grid = run_rounds(checkpoint)
    records = {key for reply in grid.replies for key in reply.content}
    assert records == {
        RECORD_KEY_CONFIGS, "fitres.metrics", "fitres.num_examples", "fitres.parameters", "fitres.status",
    }  # fmt: skip
    masked = [reply for reply in grid.replies if "fitres.parameters" in reply.content]
    assert len(masked) == 4
    for reply in masked:
        assert not reply.content.array_records["fitres.parameters"]
        assert dict(reply.content.config_records["fitres.metrics"]) == {"samples": 12}
        vector = reply.content.config_records[RECORD_KEY_CONFIGS]["masked_params"]
        numbers = np.concatenate([bytes_to_ndarray(part).ravel() for part in vector]) / 2**32
        assert 0.4 < numbers.mean() < 0.6  # uniform, whatever the difference is
        assert numbers.std() > 0.25


def test_no_class_name_and_no_pixels_leave_the_device(checkpoint: Path) -> None:
    _, grid = run_rounds(checkpoint)
    sent = b"".join(message_to_proto(reply).SerializeToString() for reply in grid.replies)
    assert SECRET not in sent
    for node in range(1, 5):
        dataset = samples(Context(1, node, {"partition-id": node}, RecordDict(), {}), Settings(), NET.image)
        for index in range(3):
            assert dataset.images(index)[0].numpy().tobytes()[:32] not in sent


def test_a_round_moves_the_start_by_at_most_the_clip_norm(checkpoint: Path) -> None:
    start = load_checkpoint(checkpoint)
    new, _ = run_rounds(checkpoint, {"clip-norm": 0.01})
    assert changed(start.weights, new.weights)
    moved = torch.cat([(new.weights[name] - start.weights[name]).flatten() for name in start.weights])
    assert 0 < float(moved.norm()) < 0.0101
    assert load_checkpoint(checkpoint.with_name("new.safetensors")).digest == new.digest


def test_a_client_that_drops_out_after_sharing_its_keys_is_left_out(checkpoint: Path) -> None:
    start = load_checkpoint(checkpoint)
    new, _ = run_rounds(checkpoint, {"clip-norm": 0.01}, dropped=(2,))
    moved = torch.cat([(new.weights[name] - start.weights[name]).flatten() for name in start.weights])
    assert 0 < float(moved.norm()) < 0.0101  # a mask that remained would be far longer
    assert new.training["federated"]["rounds"] == 1


def test_a_round_with_fewer_clients_than_the_cohort_changes_nothing(checkpoint: Path) -> None:
    start = load_checkpoint(checkpoint)
    new, _ = run_rounds(checkpoint, dropped=(2, 3))
    assert not changed(start.weights, new.weights)
    assert new.training["federated"]["rounds"] == 0


def test_a_cohort_of_one_is_refused(checkpoint: Path) -> None:
    with pytest.raises(InvalidConfig, match="cohort is 1; allowed: at least 2"):
        run_rounds(checkpoint, {"cohort": 1})


def test_the_privacy_loss_is_recorded_in_the_checkpoint(checkpoint: Path) -> None:
    new, _ = run_rounds(checkpoint, {"rounds": 2, "noise-multiplier": 2.0})
    assert float(new.training["federated"]["epsilon"]) == pytest.approx(
        Settings(noise_multiplier=2.0).privacy.epsilon(2, 1e-5)
    )


def test_the_devices_settings_win_over_those_of_the_run() -> None:
    context = Context(1, 1, {"noise-multiplier": 3.0}, RecordDict(), {"noise-multiplier": 0.0, "clip-norm": 5.0})
    settings = Settings.of(context, {"clip-norm": 1.0, "rounds": 7})
    assert (settings.noise_multiplier, settings.clip_norm, settings.rounds) == (3.0, 5.0, 7)


def test_the_app_has_a_default_for_every_setting_so_that_a_run_can_change_it() -> None:
    app = tomllib.loads(Path(__file__).with_name("pyproject.toml").read_text())["tool"]["flwr"]["app"]
    of_devices = {"samples"}
    assert app["config"] == {
        field.name.replace("_", "-"): field.default for field in fields(Settings) if field.name not in of_devices
    }
