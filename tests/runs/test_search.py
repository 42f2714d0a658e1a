"""The search over an arm's parameters: who goes on, what is recorded, how it resumes."""

import json

import pandas as pd
import pytest
import torch

from lib.config.arms import EmbeddingParams
from lib.config.strict_yaml import parse_params
from lib.errors import NotFiniteError, ParamsError
from lib.machine import Cost
from lib.runs.finished import read_params
from lib.runs.record import CHOSEN
from lib.runs.run import Run
from lib.runs.search import choose_params, trained_epochs
from lib.storage import write_checksums


@pytest.fixture
def make_run(tmp_path, monkeypatch):
    """An open run of six epochs whose arm searches: `make_run({"learning_rate": [...]})`."""

    for slow in ("configure_process", "gc.collect"):  # take a second
        monkeypatch.setattr(f"lib.runs.search.{slow}", lambda **_: None)

    def make(searched, epochs=1, **changes):
        run = Run.__new__(Run)
        run.asked = run.params = EmbeddingParams(
            notebook="03_finetune_embedding", num_epochs=6, search=searched, search_epochs=epochs,
            **changes,
        )  # fmt: skip
        run.splits, run._paid, run.device = {"train": range(80)}, {}, torch.device("cpu")
        run.tries = None
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
    assert chosen.cost("search").seconds == others["train_seconds"].sum() == 10 + 10 + 20
    assert chosen.params.search == {}
    assert json.loads((run.folder / CHOSEN).read_text()) == {
        "learning_rate": 2e-3,
        "pooling": "mean",
    }
    assert read_params(run.folder) == {"learning_rate": 2e-3, "pooling": "mean"}


class Diverging(Fit):
    """As `Fit`, but a candidate's loss is not finite from an epoch on: `at[rate]`."""

    def __init__(self, curves, at):
        super().__init__(curves)
        self.at = at

    def __call__(self, run, stop_epochs):
        done = super().__call__(run, stop_epochs)
        if stop_epochs >= self.at.get(run.params.learning_rate, 99):
            raise NotFiniteError("loss is nan at step 3")
        return done


def test_a_candidate_that_diverges_is_given_up(make_run, caplog):
    run, fit = make_run({"learning_rate": RATES}), Diverging(CURVES, {8e-3: 1})
    chosen, tries = choose_params(run, fit)
    assert chosen.params.learning_rate == 2e-3
    assert tries["micro_f1"].tolist()[3] == -1
    assert "loss is nan at step 3; this candidate is given up" in caplog.text


def test_one_that_diverged_does_not_go_on_while_others_can(make_run):
    run, fit = make_run({"learning_rate": RATES[:3]}), Diverging(CURVES, {2e-3: 1, 4e-3: 1})
    chosen, tries = choose_params(run, fit)
    assert chosen.params.learning_rate == 1e-3
    assert tries["epochs"].tolist() == [1, 1, 1]


def test_what_a_candidate_cost_before_it_diverged_is_counted(make_run):
    run, fit = make_run({"learning_rate": RATES}), Diverging(CURVES, {4e-3: 2})
    chosen, tries = choose_params(run, fit)
    assert tries["micro_f1"].tolist() == [0.1, 0.6, -1, 0.2]
    assert tries["train_seconds"][2] >= 10
    assert chosen.cost("search").seconds >= 30


def test_a_search_that_is_over_chooses_the_same_again(make_run):
    # Second after one epoch, the best diverges later: a rank is that of the epoch it was given at.
    run = make_run({"learning_rate": RATES})
    first, again = (Diverging(CURVES, {4e-3: 2}), Diverging(CURVES, {4e-3: 2}))
    expected = choose_params(run, first)[1]
    chosen, tries = choose_params(run, again)
    assert chosen.params.learning_rate == 2e-3
    assert not again.calls
    pd.testing.assert_frame_equal(tries, expected)


def test_a_run_whose_parameters_were_chosen_is_not_searched_again(make_run):
    """The notebook's cell runs again, with the run that it has returned."""
    chosen, tries = choose_params(make_run({"learning_rate": RATES}), Fit(CURVES))
    fit = Fit(CURVES)
    again, same = choose_params(chosen, fit)
    assert (again.params, again.checkpoints) == (chosen.params, chosen.checkpoints)
    assert again.cost("search") == chosen.cost("search")
    pd.testing.assert_frame_equal(same, tries)
    assert not fit.calls


def test_only_whole_epochs_are_compared(make_run):
    class Between(Fit):
        def __call__(self, run, stop_epochs):
            history, model = super().__call__(run, stop_epochs)
            middle = pd.DataFrame({"epoch": [0.5], "eval_micro_f1": [0.99], "train_seconds": [1.0]})
            if run.params.learning_rate == 1e-3:
                history = pd.concat([middle, history], ignore_index=True)
            return history, model

    chosen, _ = choose_params(make_run({"learning_rate": RATES[:2]}), Between(CURVES))
    assert chosen.params.learning_rate == 2e-3


def train_unrecorded(run, score):
    """Leave what a process leaves that ends between the first candidate's training and record."""
    checkpoint = run.checkpoints / "search" / "0" / "checkpoint-10"
    checkpoint.mkdir(parents=True)
    row = {"epoch": 1.0, "eval_micro_f1": score, "train_seconds": 5.0, "train_joules": 1.0}
    state = {"epoch": 1.0, "log_history": [row]}
    file = checkpoint / "trainer_state.json"
    file.write_text(json.dumps(state))
    write_checksums(checkpoint, {file.name: file})


def test_a_candidate_that_was_trained_but_not_recorded_is_not_trained_on(make_run, caplog):
    run, fit = make_run({"learning_rate": RATES[:2]}), Fit(CURVES)
    train_unrecorded(run, 0.77)
    _, tries = choose_params(run, fit)
    assert tries["micro_f1"].tolist() == [0.77, 0.40]
    assert fit.calls == [(2e-3, 1)]
    assert "search/0: trained by an earlier process; what that computed before" in caplog.text


class Caching(Fit):
    """As `Fit`, after layers were cached in 100 seconds."""

    def __call__(self, run, stop_epochs):
        run.pay("train", "cached layers", Cost(100.0, 1.0))
        return super().__call__(run, stop_epochs)


def test_one_that_was_not_recorded_is_charged_for_its_layers_by_another(make_run):
    run = make_run([
        {"lora_layers": 5, "learning_rate": 1e-3}, {"lora_layers": 5, "learning_rate": 8e-3},
        {"lora_layers": 2, "learning_rate": 4e-3},
    ])  # fmt: skip
    train_unrecorded(run, 0.05)  # is given up
    chosen, _ = choose_params(run, Caching(CURVES | {4e-3: [0.9] * 6}))
    assert chosen.params.lora_layers == 2
    assert chosen.cost("search").seconds == 5 + 20 + 100


@pytest.mark.parametrize("of_layers", ["lora_layers", "depth"])
def test_what_is_computed_before_training_is_charged_once_per_adapted_layers(make_run, of_layers):
    searched = {of_layers: [5, 2], "learning_rate": RATES[:2]}
    chosen, _ = choose_params(make_run(searched), Caching(CURVES))
    assert chosen.cost("search").seconds == 10 + 10 + 20 + 100  # the chosen one pays its own


def test_few_documents_get_the_epochs_that_a_candidates_batches_need(make_run):
    run = make_run([{"batch_size": 8}, {"batch_size": 16}], batch_size=80, min_steps=60)
    chosen, _ = choose_params(run, Fit({2e-3: [0.1 * e for e in range(1, 13)]}))
    assert chosen.params.num_epochs == 6  # of ten steps each, not of one


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
    "precision": ({"dtype": ["float32"]}, "dtype: belongs to the study or the run"),
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
