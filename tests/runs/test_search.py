"""The search over an arm's parameters: who goes on, what is recorded, how it resumes."""

import json

import pandas as pd
import pytest

from lib.config.arms import EmbeddingParams
from lib.config.strict_yaml import parse_params
from lib.errors import ParamsError
from lib.runs.record import CHOSEN, read_params
from lib.runs.run import Run
from lib.runs.search import choose_params, trained_epochs


@pytest.fixture
def make_run(tmp_path, monkeypatch):
    """An open run of six epochs whose arm searches: `make_run({"learning_rate": [...]})`."""

    for slow in ("configure_process", "gc.collect"):  # take a second
        monkeypatch.setattr(f"lib.runs.search.{slow}", lambda **_: None)

    def make(searched, epochs=1, **changes):
        run = Run.__new__(Run)
        run.params = EmbeddingParams(
            notebook="03_finetune_embedding", num_epochs=6, search=searched, search_epochs=epochs,
            **changes,
        )  # fmt: skip
        run.splits, run._paid = {"train": range(80)}, {}
        run.folder, run.checkpoints = tmp_path, tmp_path / "checkpoints"
        (tmp_path / "params.yaml").write_text("learning_rate: 0.002\npooling: mean\n")
        return run

    return make


class Fit:
    """Training that is known: `curves[rate]` has the validation score of each epoch."""

    def __init__(self, curves, breaks=0):
        self.curves, self.breaks, self.calls = curves, breaks, []

    def __call__(self, run, stop_epochs):
        self.calls.append((run.params.learning_rate, stop_epochs))
        if len(self.calls) == self.breaks:
            raise KeyboardInterrupt
        scores = self.curves[run.params.learning_rate][:stop_epochs]
        history = pd.DataFrame({"epoch": range(1, len(scores) + 1), "eval_micro_f1": scores})
        history = history.assign(train_seconds=10.0 * history["epoch"], train_joules=1.0)
        logged = pd.DataFrame({"epoch": [len(scores)], "loss": [0.5]})  # as the trainer ends
        return pd.concat([history, logged], ignore_index=True), "model"


RATES = [1e-3, 2e-3, 4e-3, 8e-3]
CURVES = {  # the best in the end is second after one epoch
    1e-3: [0.10, 0.20, 0.30, 0.40, 0.50, 0.60],
    2e-3: [0.40, 0.60, 0.70, 0.80, 0.85, 0.90],
    4e-3: [0.50, 0.55, 0.60, 0.62, 0.63, 0.64],
    8e-3: [0.20, 0.10, 0.10, 0.10, 0.10, 0.10],
}


def test_halving_chooses_what_training_all_to_the_end_chooses(make_run):
    halved, tries = choose_params(make_run({"learning_rate": RATES}), Fit(CURVES))
    whole, all_tries = choose_params(make_run({"learning_rate": RATES}, epochs=6), Fit(CURVES))
    assert halved.params.learning_rate == whole.params.learning_rate == 2e-3
    assert tries["epochs"].tolist() == [1, 2, 2, 1]
    assert all_tries["epochs"].tolist() == [6] * 4
    assert tries["chosen"].tolist() == all_tries["chosen"].tolist() == [False, True, False, False]


def test_a_try_records_its_values_score_and_seconds_and_others_count_as_training(make_run):
    run = make_run({"learning_rate": RATES[:2], "pooling": ["mean", "last"]})
    fit = Fit(CURVES)
    chosen, tries = choose_params(run, fit)
    assert tries.columns.tolist() == [
        "learning_rate", "pooling", "epochs", "micro_f1", "train_seconds", "chosen"
    ]  # fmt: skip
    assert tries[["learning_rate", "pooling"]].to_numpy().tolist() == [
        [1e-3, "mean"], [1e-3, "last"], [2e-3, "mean"], [2e-3, "last"]
    ]  # fmt: skip
    assert len(fit.calls) == 6  # four after one epoch, two after two
    others = tries[~tries["chosen"]]
    assert chosen.cost("train").seconds == others["train_seconds"].sum() == 10 + 10 + 20
    assert chosen.params.search == {}
    assert json.loads((run.folder / CHOSEN).read_text()) == {
        "learning_rate": 2e-3,
        "pooling": "mean",
    }
    assert read_params(run.folder) == {"learning_rate": 2e-3, "pooling": "mean"}


def test_equal_scores_choose_the_first(make_run):
    curves = dict.fromkeys(RATES, [0.5] * 6)
    chosen, _ = choose_params(make_run({"learning_rate": RATES[::-1]}), Fit(curves))
    assert chosen.params.learning_rate == RATES[-1]


@pytest.mark.parametrize("breaks", range(1, 7))
def test_an_interrupted_search_goes_on_where_it_was(breaks, make_run):
    expected = choose_params(make_run({"learning_rate": RATES}, seed=1), Fit(CURVES))[1]
    run = make_run({"learning_rate": RATES}, seed=2)
    run.checkpoints = run.folder / "interrupted"
    first, second = Fit(CURVES, breaks), Fit(CURVES)
    with pytest.raises(KeyboardInterrupt):
        choose_params(run, first)
    _, tries = choose_params(run, second)
    pd.testing.assert_frame_equal(tries, expected)
    assert second.calls[0] == first.calls[-1]
    assert len(first.calls) - 1 + len(second.calls) == 6


def test_without_a_search_nothing_is_tried(make_run):
    run, fit = make_run({}), Fit(CURVES)
    chosen, tries = choose_params(run, fit)
    assert chosen is run
    assert tries.empty
    assert not fit.calls


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 8])
def test_the_epochs_of_a_plan_are_those_that_a_search_trains(number, make_run):
    rates = [0.001 * (i + 1) for i in range(number)]
    run, fit = make_run({"learning_rate": rates}), Fit({r: [r] * 6 for r in rates})
    _, tries = choose_params(run, fit)
    done = tries["epochs"].sum() + 6 - tries[tries["chosen"]]["epochs"].item()
    assert trained_epochs(run.params) == done


REFUSED = {
    "unknown": ({"learnin_rate": [1e-3]}, "learnin_rate: unknown parameter; did you mean 'learni"),
    "no value": ({"learning_rate": []}, "a list is empty"),
    "no candidate": ([], "a list is empty"),
    "documents": ({"num_train": [3]}, "num_train: would change the documents"),
    "run": ({"seed": [1]}, "seed: belongs to the study or the run"),
    "contradiction": ({"lora_r": [0, 8]}, r"\{'lora_r': 0\}: lora_r: 0 asks for full fine-tuning"),
    "value": ({"pooling": ["men"]}, r"\{'pooling': 'men'\}: pooling: Input should be 'last'"),
    "twice": ([{"lora_r": 4}, {"lora_r": 4}], r"\{'lora_r': 4\} is given twice"),
    "itself": ({"search_epochs": [1]}, "search_epochs: belongs to"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_a_search_that_cannot_be_is_refused_in_one_line(fault):
    searched, line = REFUSED[fault]
    values = {"notebook": "03_finetune_embedding", "search": searched}
    with pytest.raises(ParamsError, match=rf"^a\.yaml: search: {line}[^\n]*$"):
        parse_params(EmbeddingParams, values, source="a.yaml")


def test_a_search_is_not_longer_than_its_schedule():
    values = {"search": {"num_epochs": [4, 2]}, "search_epochs": 3}
    with pytest.raises(ParamsError, match=r"^a: search_epochs: 3 epochs are more"):
        parse_params(EmbeddingParams, values, source="a")
    with pytest.raises(ParamsError, match="search_epochs: has no effect without a search"):
        parse_params(EmbeddingParams, {"search_epochs": 3}, source="a")
