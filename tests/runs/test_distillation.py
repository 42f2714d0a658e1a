import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from datasets import Dataset, DatasetDict

from lib.config.arms import BaselineParams, EmbeddingParams, InstructionParams
from lib.data.labels import LabelSpace
from lib.errors import ParamsError
from lib.evaluation.scores import Scores
from lib.report.tables import compare_with_teachers, stack_predictions
from lib.runs import distillation
from lib.runs.classifier import Classifier
from lib.runs.distillation import check_teacher, soft_targets
from lib.runs.finished import read_runs
from lib.runs.record import FILES, RESOURCE_KEYS, open_run, write_run
from lib.storage import write_checksums

SPACE, CPU = LabelSpace(("a", "b", "c")), torch.device("cpu")
TRUTH = [["a"], ["b"], ["c"], ["b"]]
TEXTS = ["first", "second", "third", "fourth"]
PROBS = np.random.default_rng(0).dirichlet(np.ones(3), size=4).astype(np.float32)
PART = Dataset.from_dict({"id": list("wxyz"), "text": TEXTS, "labels": TRUTH})
KINDS = {"02_baselines": BaselineParams, "03_finetune_embedding": EmbeddingParams}
KINDS["04_finetune_instruction"] = InstructionParams


@pytest.fixture
def write(tmp_path):
    """A finished run that has given these labels: its folder."""

    def write(arm, preds=TRUTH, *, seed=0, notebook="03_finetune_embedding", costs=(), **changes):
        params = KINDS[notebook](
            notebook=notebook, study="s", arm=arm, seed=seed, runs_dir=str(tmp_path), **changes
        )
        folder = open_run(params, data_fingerprint="same")
        both = dict.fromkeys(("validation", "test"), preds)
        write_run(
            folder, splits=DatasetDict(dict.fromkeys(("train", *both), PART)), label_space=SPACE,
            preds=both, scores={k: Scores(SPACE.encode(v).astype(float)) for k, v in both.items()},
            multi_label=False, probabilities=True,
            resources=dict.fromkeys(RESOURCE_KEYS, 1.0) | dict(costs),
        )  # fmt: skip
        return folder

    return write


@pytest.fixture
def teacher(monkeypatch):
    """What texts the teacher is shown at once; it answers with the rows of `PROBS`."""
    shown = []

    def score(texts):
        shown.append(list(texts))
        return Scores(PROBS[[TEXTS.index(text) for text in texts]])

    def load(folder, *, every_label):
        torch.rand(1)  # as a new head does
        return Classifier(SPACE, score, multi_label=False, threshold=None)

    monkeypatch.setattr(distillation, "load_classifier", load)
    return shown


def test_targets_are_the_mean_of_labels_and_the_teachers_probabilities_by_chunks(
    teacher, tmp_path, monkeypatch
):
    monkeypatch.setattr(distillation, "CHUNK", 3)
    targets, spent = soft_targets(
        tmp_path, PART, SPACE, file=tmp_path / "new" / "targets.npy", device=CPU
    )
    np.testing.assert_allclose(targets, (PROBS + SPACE.encode(TRUTH)) / 2)
    np.testing.assert_allclose(targets.sum(axis=1), 1, rtol=1e-6)
    assert (targets.dtype, isinstance(targets, np.memmap)) == (np.float32, True)
    assert teacher == [TEXTS[:3], TEXTS[3:]]
    assert spent.seconds > 0


def test_a_student_starts_where_it_would_without_a_teacher(teacher, tmp_path):
    state = torch.get_rng_state()
    soft_targets(tmp_path, PART, SPACE, file=tmp_path / "targets.npy", device=CPU)
    assert torch.equal(torch.get_rng_state(), state)


def check(folder, space=SPACE, *, data_fingerprint="same", multi_label=False):
    return check_teacher(folder, space, data_fingerprint=data_fingerprint, multi_label=multi_label)


def test_a_teacher_is_known_by_what_it_predicts(write):
    first = check(write("one"))
    assert first == check(write("two", learning_rate=0.1))
    assert first != check(write("three", [["a"]] * 4))


@pytest.mark.parametrize(
    ("run", "asked", "message"),
    [
        ({}, {"data_fingerprint": "other"}, "has seen other documents or labels"),
        ({}, {"multi_label": True}, "has seen other documents or labels"),
        (
            {"notebook": "02_baselines"},
            {},
            "02_baselines is no fine-tuned arm",
        ),
        (
            {"notebook": "04_finetune_instruction", "num_epochs": 0, "num_examples": 2},
            {},
            r"examples in its prompts \(num_examples\) would show it the answers",
        ),
    ],
)
def test_runs_that_cannot_teach_are_errors(write, run, asked, message):
    with pytest.raises(ParamsError, match=f"teacher: .*one/seed-0:? {message}"):
        check(write("one", **run), **asked)


def test_a_teacher_that_has_not_run_is_an_error_that_names_its_folder(write):
    folder = write("one")
    (folder / "metrics.json").unlink()
    with pytest.raises(ParamsError, match=r"one/seed-0 holds no finished run .* with this seed"):
        check(folder)
    shutil.rmtree(folder)
    with pytest.raises(ParamsError, match=r"one/seed-0 holds no finished run .* with this seed"):
        check(folder)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"notebook": "09_gone"}, "names no notebook of this version; run the arm again"),
        ({"notebook": "03_finetune_embedding"}, "has seen other documents or labels"),
    ],
)
def test_a_teacher_of_another_version_is_an_error_of_one_line(write, values, message):
    folder = write("one")
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    write_checksums(folder, {name: folder / name for name in FILES})
    with pytest.raises(ParamsError, match=rf"^teacher: .*{message}[^\n]*$"):
        check(folder)


def test_more_labels_than_dense_arrays_hold_are_an_error(write, monkeypatch):
    folder = write("one")
    monkeypatch.setattr("lib.data.labels.DENSE_LABELS", 2)
    with pytest.raises(ParamsError, match="teacher: its probabilities of 3 labels do not fit"):
        check(folder)


def test_another_teacher_starts_the_student_anew(tmp_path):
    """A checkpoint that has learnt from one teacher is not resumed under another."""
    params = EmbeddingParams(study="s", arm="student", teacher="one", runs_dir=str(tmp_path))
    for fingerprint, kept in (("x", False), ("x", True), ("y", False)):
        folder = open_run(params, teacher_fingerprint=fingerprint)
        assert (folder / "checkpoints").exists() == kept
        (folder / "checkpoints").mkdir(exist_ok=True)


def test_the_teachers_run_is_that_of_the_same_study_and_seed(write):
    folder = write("one", seed=3)
    student = yaml.safe_load((folder / "params.yaml").read_text())
    del student["data_fingerprint"]
    params = EmbeddingParams(**student | {"arm": "student", "teacher": "one"})
    assert params.teacher_dir == folder


def test_students_are_compared_with_their_teachers_over_all_seeds(write, tmp_path):
    wrong = [["a"], ["b"], ["c"], ["c"]]
    for seed in (0, 1):
        costs = {"infer_docs_per_second": 10.0, "total_params": 800, "train_seconds": 100.0}
        write("big", TRUTH, seed=seed, costs=costs)
        costs = {"infer_docs_per_second": 200.0, "total_params": 200, "train_seconds": 30.0}
        write("small", wrong, seed=seed, teacher="big", costs=costs)
    write("alone", teacher="absent")
    runs = read_runs("s", runs_dir=str(tmp_path))
    y_true, y_preds = stack_predictions(runs)
    table = compare_with_teachers(runs, y_true, y_preds, num_resamples=500)
    assert len(table) == 1
    row = table.iloc[0]
    assert (row.student, row.teacher) == ("small", "big")
    assert row.micro_f1_kept == pytest.approx(0.75)
    assert 0 <= row.micro_f1_kept_low < 0.75 < row.micro_f1_kept_high <= 1
    metrics = [json.loads((f / "metrics.json").read_text()) for f in runs["folder"][[1, 3]]]
    assert row.macro_f1_kept == pytest.approx(metrics[1]["macro_f1"] / metrics[0]["macro_f1"])
    assert (row.speedup, row.params_share) == (20, 0.25)
    assert (row.train_seconds, row.train_seconds_with_teacher) == (30, 130)


def test_a_study_without_students_has_an_empty_table(write, tmp_path):
    write("one")
    runs = read_runs("s", runs_dir=str(tmp_path))
    y_true, y_preds = stack_predictions(runs)
    assert compare_with_teachers(runs, y_true, y_preds, num_resamples=10).empty
