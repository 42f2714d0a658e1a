"""Trackers: where their logs go, what they leave alone, and what is refused."""

import os
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lib.config.arms import EmbeddingParams
from lib.config.groups import HeadParams, LoraParams
from lib.config.study import require_trackers
from lib.errors import NotFiniteError, ParamsError
from lib.head.losses import HeadLoss
from lib.head.model import EmbeddingModel, predict_logits
from lib.machine import choose_dtype
from lib.model.adapters import add_lora
from lib.runs.record import open_run
from lib.training import trackers
from lib.training.finetune import finetune_embedding

COMPUTE = choose_dtype(torch.device("cpu"))


def params(tmp_path, **changes):
    values = {"notebook": "03_finetune_embedding", "study": "s", "runs_dir": str(tmp_path)}
    sizes = {"num_epochs": 2, "batch_size": 4, "token_budget": 96}
    return EmbeddingParams(**values | sizes | changes)


def train(make_backbone, given, output_dir):
    """Logits and history of a few steps with dropout."""
    torch.manual_seed(0)
    model = EmbeddingModel(make_backbone(), HeadParams(), num_labels=2, compute_dtype=COMPUTE)
    model = add_lora(model, LoraParams(lora_r=4, lora_dropout=0.1))
    examples = [
        {"id": f"d{i}", "input_ids": [100 + i % 2, 7, 9 + i], "target": i % 2} for i in range(8)
    ]

    def logits():
        return predict_logits(model, [e["input_ids"] for e in examples], token_budget=96).values

    history, _ = finetune_embedding(
        model, examples, lambda model: {"micro_f1": float(logits().mean() > 0)}, given,
        head_loss=HeadLoss("cross_entropy", 2), output_dir=output_dir,
    )  # fmt: skip
    return logits(), history


def test_tensorboard_has_the_curves_of_a_run_and_changes_nothing_in_it(make_backbone, tmp_path):
    plain, _ = train(make_backbone, params(tmp_path, report_to=[]), tmp_path / "s" / "elsewhere")
    assert not (tmp_path / "s" / "embedding").exists()
    given = params(tmp_path)
    candidate = given.run_dir / "checkpoints" / "search" / "3"
    tracked, history = train(make_backbone, given, candidate)
    np.testing.assert_array_equal(tracked, plain)
    logs = given.run_dir / "tensorboard" / "search" / "3"
    found = EventAccumulator(str(logs)).Reload()
    rates = [event.value for event in found.Scalars("train/learning_rate")]
    np.testing.assert_allclose(rates, history["learning_rate"].dropna(), rtol=1e-6)
    assert [event.step for event in found.Scalars("eval/micro_f1")] == [2, 4]


def test_logs_stay_with_the_checkpoints_that_a_run_resumes_from(tmp_path):
    given = params(tmp_path)
    folder = open_run(given)
    for name in ("checkpoints", "tensorboard"):
        (folder / name).mkdir()
    open_run(params(tmp_path, report_to=["tensorboard"] * 0))  # another tracker, the same training
    assert (folder / "checkpoints").exists()
    assert (folder / "tensorboard").exists()
    open_run(params(tmp_path, learning_rate=0.1))
    assert not (folder / "checkpoints").exists()
    assert not (folder / "tensorboard").exists()


def test_settings_of_the_environment_win_and_are_left_as_they_were(tmp_path, monkeypatch):
    given, seen = params(tmp_path, report_to=["wandb"]), {}
    monkeypatch.setenv("WANDB_MODE", "online")

    def note(folder):
        seen.update(os.environ)
        return trackers.contextlib.nullcontext("callback")

    monkeypatch.setitem(trackers.TRACKING, "wandb", note)
    with trackers.reporting(given, given.run_dir / "checkpoints") as callbacks:
        assert callbacks == ["callback"]
    assert seen["WANDB_PROJECT"] == "s"
    assert seen["WANDB_MODE"] == "online"
    assert "WANDB_PROJECT" not in os.environ
    candidate = given.run_dir / "checkpoints" / "search" / "3"
    assert trackers.run_name(given, candidate) == "embedding/seed-0/search/3"


def test_a_tracker_that_is_not_installed_is_named_with_its_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr("lib.config.study.find_spec", lambda name: None)
    with pytest.raises(
        ParamsError,
        match=r"embedding: report_to: 'wandb' is not installed; run `.*/pip install wandb`",
    ):
        require_trackers(params(tmp_path, report_to=["wandb"]))


def test_trackers_cannot_be_searched_over(tmp_path):
    with pytest.raises(ValueError, match="search: report_to: belongs to the study or the run"):
        params(tmp_path, search={"report_to": [[], ["tensorboard"]]})


def test_wandb_is_closed_also_where_a_candidate_diverges(tmp_path, monkeypatch):
    calls = []
    fake = ModuleType("wandb")
    fake.finish, fake.teardown = (
        (lambda: calls.append("finish")),
        (lambda: calls.append("teardown")),
    )
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setattr(trackers, "WandbCallback", lambda: "callback")
    given = params(tmp_path, report_to=["wandb"])
    with pytest.raises(NotFiniteError), trackers.reporting(given, given.run_dir / "checkpoints"):
        raise NotFiniteError("loss is nan")
    assert calls == ["finish", "teardown"]
