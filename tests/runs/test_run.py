"""A run's costs by split, its truth, and how scores become its label sets."""

import json
import os
import signal

import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from scipy.sparse import issparse

from lib.config.arms import BaselineParams, EmbeddingParams
from lib.data import labels
from lib.errors import DataError, InputError
from lib.evaluation.scores import Scores
from lib.machine import NO_COST, Cost
from lib.runs import run as run_module
from lib.runs.baselines import features_of, resources_of
from lib.runs.finished import require_whole
from lib.runs.run import Run

LABELS = {"train": [["a"], ["b"], ["c"], ["b"]], "validation": [["a"], ["b"]], "test": [["c"]] * 4}


class Clock:
    """Counters of a machine of two watts; `work` lets time pass."""

    now = 0.0

    def work(self, seconds):
        self.now += seconds

    def read(self, device):
        return Cost(self.now, 2 * self.now)


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(run_module, "meter", clock.read)
    return clock


@pytest.fixture
def make_run(tmp_path, monkeypatch):
    """A run of documents with these labels, by split; by default TF-IDF, so without a model."""

    def make(kind=BaselineParams, split_labels=LABELS, **changes):
        splits = DatasetDict({
            name: Dataset.from_dict({
                "id": [f"{name}-{i}" for i in range(len(rows))],
                "text": [f"{name} text {i}" for i in range(len(rows))],
                "labels": rows,
            })
            for name, rows in split_labels.items()
        })  # fmt: skip
        monkeypatch.setattr(run_module, "load_splits", lambda params: splits)
        monkeypatch.setattr(run_module, "configure_process", lambda **options: None)
        return Run(kind(study="s", runs_dir=str(tmp_path), device="cpu", **changes))

    return make


def test_a_step_that_runs_again_counts_once(make_run, clock):
    run = make_run()
    for seconds in (3, 5):
        with run.timed("validation"):
            clock.work(seconds)
    assert run.cost("validation") == Cost(5, 10)


def test_a_step_that_fails_leaves_what_its_last_try_took(make_run, clock):
    run = make_run()
    with run.timed("validation"):
        clock.work(3)
    with pytest.raises(KeyError), run.timed("validation"):
        clock.work(7)
        raise KeyError
    assert run.cost("validation").seconds == 3


def test_a_split_pays_for_its_own_steps_alone(make_run, clock):
    run = make_run()
    for split, step, seconds in (
        ("train", "answers", 100), ("validation", "answers", 10),
        ("test", "prompts", 1), ("test", "answers", 2),
    ):  # fmt: skip
        with run.timed(split, step):
            clock.work(seconds)
        clock.work(1000)  # between the steps
    costs = [run.cost(split).seconds for split in ("train", "validation", "test")]
    assert costs == [100, 10, 3]
    assert make_run().cost("test") == NO_COST


def work(run, clock):
    """Open a run and let time pass for each split."""
    run.open()
    for split, seconds in (("train", 2), ("validation", 7), ("test", 0.5)):
        with run.timed(split):
            clock.work(seconds)


def save(run):
    preds = {name: run.splits[name]["labels"][:] for name in ("validation", "test")}
    scores = {name: Scores(run.truth(name).astype(float)) for name in preds}
    return run.save(preds, scores, threshold=np.inf, probabilities=False,
                    resources=resources_of(run, 10, 3, {}))  # fmt: skip


def test_resources_are_those_of_training_and_of_answering_test(make_run, clock):
    run = make_run()
    work(run, clock)
    save(run)
    saved = json.loads((run.folder / "resources.json").read_text())
    assert (saved["train_seconds"], saved["train_joules"], saved["train_docs_per_second"]) == (
        2, 4, 2,
    )  # fmt: skip
    assert (saved["infer_docs_per_second"], saved["infer_joules_per_doc"]) == (8, 0.25)
    assert json.loads((run.folder / "metrics.json").read_text())["threshold"] is None


def test_a_run_is_saved_again_unless_it_was_run_again_since(make_run, clock):
    run, other = make_run(), make_run()
    work(run, clock)
    assert save(run) == save(run)
    require_whole(run.folder)
    work(other, clock)
    save(other)
    with pytest.raises(InputError, match=r"seed-0: was run again since; run the notebook from"):
        save(run)
    require_whole(run.folder)
    assert not (run.folder / "owner.json").exists()


def test_a_run_that_is_opened_again_has_the_parameters_that_it_was_asked_for(make_run):
    """Not those that a search has found: the search is resumed, and its checkpoints stay."""
    run = make_run(EmbeddingParams, search={"lora_r": [4, 8]}, max_length=8)
    asked = run.params
    run.params, run.tries = run.params.candidates[0], "a table"
    run.open()
    assert (run.params, run.tries) == (asked, None)
    run.owner.release()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_asked_to_stop_while_saved_is_finished(make_run, clock, monkeypatch, number):
    run = make_run()
    work(run, clock)
    monkeypatch.setattr(
        run_module, "write_card", lambda *_, **options: os.kill(os.getpid(), number)
    )
    save(run)
    assert (run.folder / "metrics.json").exists()
    assert not (run.folder / "owner.json").exists()


@pytest.mark.parametrize("method", ["tfidf", "frozen"])
@pytest.mark.parametrize("label_mode", ["single", "multi"])
@pytest.mark.parametrize("labels", [["a"], []])
def test_a_sample_of_one_class_is_no_sample_to_learn_from(make_run, method, label_mode, labels):
    rows = [["a"], ["b"]] if labels or label_mode == "single" else [[], []]
    run = make_run(
        split_labels=LABELS | {"train": rows}, method=method, label_mode=label_mode, train_size=1
    )
    with pytest.raises(DataError, match=r"^train_size: the sample of 1 .* one class only: \[.*\];"):
        features_of(run)


def test_frozen_features_of_validation_are_a_part_of_training(make_run, monkeypatch):
    """They choose pooling and penalty."""
    spent = {"train": [4, 8], "validation": [2, 4], "test": [1, 2]}
    monkeypatch.setattr("lib.runs.baselines.load_tokenizer", lambda *_: None)
    monkeypatch.setattr(Run, "tokenize", lambda run, tokenizer: {})
    monkeypatch.setattr(
        run_module, "frozen_features",
        lambda *a, **k: ({}, {name: {"spent": cost} for name, cost in spent.items()}),
    )  # fmt: skip
    run = make_run(method="frozen")
    for _ in range(2):  # its cell runs again
        features_of(run)
    assert [run.cost(name) for name in spent] == [Cost(6, 12), Cost(2, 4), Cost(1, 2)]


def test_cached_layers_and_a_teacher_are_paid_where_they_are_used(make_run, monkeypatch, tmp_path):
    costs = {"train": Cost(4, 8), "validation": Cost(2, 4), "test": Cost(1, 2)}
    monkeypatch.setattr(
        run_module, "cache_lower_layers", lambda model, documents, **k: (documents, costs)
    )
    monkeypatch.setattr(run_module, "soft_targets", lambda *a, **k: (np.eye(4), Cost(10, 20)))
    run = make_run(EmbeddingParams, teacher="big")
    run.folder, run.inputs = tmp_path, {"model_fingerprint": "same"}
    run.cache_lower_layers(None, {"train": [], "test": []})
    run.targets()
    paid = [run.cost(name) for name in costs]
    assert paid == [Cost(14, 28), NO_COST, Cost(1, 2)]  # nothing was cached for validation


def test_truth_has_a_row_per_document_and_a_column_per_label_of_any_split(make_run, monkeypatch):
    run = make_run()
    assert run.truth("validation").tolist() == [[True, False, False], [False, True, False]]
    assert run.truth("validation").dtype == bool
    assert run.train_counts.tolist() == [1, 2, 1]
    monkeypatch.setattr(labels, "DENSE_LABELS", 2)
    sparse = run.truth("validation")
    assert issparse(sparse)
    assert sparse.toarray().tolist() == [[True, False, False], [False, True, False]]


def test_a_sample_of_train_keeps_the_labels_of_all(make_run):
    run = make_run(train_size=3, num_train=4)
    assert len(run.splits["train"]) == 3
    assert run.truth("test").shape == (4, 3)


def test_one_label_per_document_is_the_best_and_has_no_threshold(make_run):
    run, scores = make_run(), Scores(np.array([[0.1, 0.3, 0.2], [-3.0, -2.0, -1.0]]))
    threshold = run.tune_threshold(scores)
    assert threshold == np.inf
    assert run.labels_above(scores, threshold) == [["b"], ["c"]]


SETS = {"train": [["a"], ["b"]], "test": [["a"]]}
SCORES = Scores(np.array([[0.9, 0.2], [0.8, 0.7], [0.5, 0.1]]))


@pytest.mark.parametrize(
    ("last", "best"),
    [([], (0.7 + 0.5) / 2), (["a"], (0.7 + 0.2) / 2)],
    ids=["sets may be empty", "no set is empty"],
)
def test_the_threshold_of_label_sets_suits_validation_best(make_run, last, best):
    validation = [["a"], ["a", "b"], last]
    run = make_run(split_labels=SETS | {"validation": validation}, label_mode="multi")
    assert run.label_space.may_be_empty == (not last)
    threshold = run.tune_threshold(SCORES)
    assert threshold == pytest.approx(best)
    assert run.labels_above(SCORES, threshold) == validation
    # A document without a label above the threshold gets the best one unless sets may be empty.
    assert run.labels_above(SCORES, 0.85)[1:] == ([[], []] if not last else [["a"], ["a"]])


def test_an_empty_set_anywhere_lets_every_document_be_empty(make_run):
    validation = [["a"], ["a", "b"], ["b"]]
    splits = SETS | {"validation": validation, "test": [["a"], []]}
    run = make_run(split_labels=splits, label_mode="multi")
    assert run.labels_above(SCORES, 0.95) == [[], [], []]
    assert not run.truth("test")[1].any()
