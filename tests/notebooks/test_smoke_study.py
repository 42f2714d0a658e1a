"""The smoke study, its notebooks executed for real: artefacts, report, repeatability, reload."""

import json
import os
import re
import shutil
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from conftest import papermill, snakemake

from lib.config.study import load_params
from lib.data.load import load_splits
from lib.report.tables import compare_with_teachers, stack_predictions
from lib.runs.classifier import load_classifier
from lib.runs.finished import read_predictions, read_runs
from lib.runs.record import OPTIONAL_RESOURCES, RESOURCE_KEYS
from lib.storage import ROOT

ARMS = ("tfidf", "frozen", "encoder", "embedding", "instruction", "zero_shot", "distill")
TUNED = ("encoder", "embedding", "instruction", "distill")
FIGURES = (
    "forest", "pairwise", "class_f1", "confusion", "training", "cost", "ladder", "reliability",
    "risk_coverage", "slices",
)  # fmt: skip


@pytest.fixture(scope="module")
def smoke_study(tmp_path_factory) -> Path:
    """A folder with `params/`, and `runs/` and `figures/` as `make study STUDY=smoke` left them."""
    folder = tmp_path_factory.mktemp("study")
    shutil.copytree(ROOT / "params" / "smoke", folder / "params" / "smoke")
    done = snakemake(folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.parametrize("arm", ARMS)
def test_a_run_leaves_every_artefact_of_the_contract(smoke_study, arm):
    folder = smoke_study / "runs" / "smoke" / arm / "seed-0"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["num_test"] == 64
    assert 0 <= metrics["micro_f1"] <= 1
    resources = json.loads((folder / "resources.json").read_text())
    assert set(resources) == {*RESOURCE_KEYS, *OPTIONAL_RESOURCES}
    assert resources["peak_memory_gib"] > 0
    labels = json.loads((folder / "labels.json").read_text())
    for split, size in (("validation", 24), ("test", 64)):
        table = read_predictions(folder, split)
        assert table.columns.tolist() == ["id", "split", "y_true", "y_pred", "scores"]
        assert len(table) == size
        assert {len(s) for s in table["scores"]} == {len(labels)}
    history = pd.read_parquet(folder / "history.parquet")
    assert ("eval_micro_f1" in history) == (arm in TUNED)
    assert (folder / "model").is_dir() == (arm != "zero_shot")
    assert not (folder / "checkpoints").exists()
    text = (folder / "params.yaml").read_text()
    assert "model_fingerprint" in text
    assert "data_fingerprint" in text


def test_every_arm_saw_the_same_documents(smoke_study):
    files = smoke_study.glob("runs/smoke/*/seed-0/params.yaml")
    prints = {line for f in files for line in f.read_text().splitlines() if "data_finger" in line}
    assert len(prints) == 1


def test_the_report_is_one_file_with_every_figure(smoke_study):
    folder = smoke_study / "figures" / "smoke"
    for name in FIGURES:
        assert (folder / f"{name}.pdf").stat().st_size > 1000
        assert "make study STUDY=smoke" in (folder / f"{name}.caption.md").read_text()
    html = (folder / "report.html").read_text()
    assert len(re.findall(r"<img[^>]+data:image/png;base64,", html)) == len(FIGURES)
    assert "has the highest micro-F1" in html
    loaded = [line for line in html.splitlines() if 'src="http' in line or 'import "http' in line]
    assert not loaded
    comparison = pd.read_csv(folder / "comparison.csv")
    assert sorted(comparison["arm"]) == sorted(ARMS)
    assert len(pd.read_csv(folder / "pairwise.csv")) == 2 * 21


def test_executed_notebooks_are_beside_the_report_without_paths_of_the_machine(smoke_study):
    folder = smoke_study / "figures" / "smoke" / "notebooks"
    numbers = {"tfidf": "02", "frozen": "02", "instruction": "04", "zero_shot": "04"}
    names = {f"{numbers.get(arm, '03')}_{arm}" for arm in ARMS} | {"05_compare"}
    assert {file.stem for file in folder.glob("*.ipynb")} == names
    for file in folder.glob("*.ipynb"):
        assert file.stat().st_size < 2**20
        text = file.read_text()
        assert not re.search(r"/(home|root|tmp|Users)/|" + re.escape(str(ROOT)), text)
        cells = nbformat.reads(text, 4).cells
        assert any(cell.get("outputs") for cell in cells)


def test_a_second_study_runs_nothing_and_a_touched_arm_itself_and_the_comparison(smoke_study):
    def planned():
        done = snakemake("--dry-run", folder=smoke_study)
        assert done.returncode == 0, done.stderr
        lines = (done.stdout + done.stderr).splitlines()
        outputs = [x.split("/smoke/")[1] for x in lines if x.strip().startswith("output:")]
        return set(outputs), any("Nothing to be done" in line for line in lines)

    assert planned() == (set(), True)
    for touched in (("tfidf",), ("embedding", "distill")):  # the latter learns from the former
        file = smoke_study / "params" / "smoke" / f"{touched[0]}.yaml"
        times = file.stat()
        os.utime(file)
        outputs = {f"{arm}/seed-0/metrics.json" for arm in touched}
        assert planned() == (outputs | {"05_compare.ipynb", "report.html", "notebooks"}, False)
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_a_student_shows_its_teacher_and_pays_for_its_scores(smoke_study):
    runs = read_runs("smoke", runs_dir=str(smoke_study / "runs"))
    y_true, y_preds = stack_predictions(runs)
    (row,) = compare_with_teachers(runs, y_true, y_preds, num_resamples=100).to_dict("records")
    assert (row["student"], row["teacher"]) == ("distill", "embedding")
    assert 0 < row["micro_f1_kept_low"] <= row["micro_f1_kept"] <= row["micro_f1_kept_high"]
    assert row["params_share"] < 0.2
    folder = runs.set_index("arm")["folder"]["distill"]
    assert "teacher_fingerprint" in (folder / "params.yaml").read_text()
    notebook = nbformat.read(folder / "notebook.ipynb", 4)
    printed = [o.get("text", "") for c in notebook.cells for o in c.get("outputs", [])]
    assert any(text.startswith("embedding scored 48 documents in") for text in printed)


@pytest.mark.slow
def test_plain_papermill_alone_gives_the_predictions_of_the_parallel_study(smoke_study, tmp_path):
    """TRAPS 26: beside other arms or alone, with its own share of threads."""
    smoke = ROOT / "params" / "smoke"
    done = papermill(
        "03_finetune_embedding", tmp_path / "out.ipynb",
        "-f", smoke / "common.yaml", "-f", smoke / "embedding.yaml",
        "-p", "seed", 0, "-p", "runs_dir", tmp_path,
        cwd=ROOT / "notebooks",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    alone = read_predictions(tmp_path / "smoke" / "embedding" / "seed-0")
    beside = read_predictions(smoke_study / "runs" / "smoke" / "embedding" / "seed-0")
    assert np.array_equal(np.stack(alone["scores"]), np.stack(beside["scores"]))


@pytest.mark.parametrize(
    "arm",
    [
        "encoder",
        "embedding",
        "tfidf",
        *(pytest.param(arm, marks=pytest.mark.slow) for arm in ("frozen", "instruction")),
    ],
)
def test_a_reloaded_run_predicts_what_it_predicted(smoke_study, arm):
    """TRAPS 5: head and adapters survive saving, on the quantized base."""
    folder = smoke_study / "runs" / "smoke" / arm / "seed-0"
    params = load_params(ROOT / "params/smoke/common.yaml", ROOT / f"params/smoke/{arm}.yaml")
    splits = load_splits(params)
    classifier = load_classifier(folder)
    table = read_predictions(folder)
    scores = classifier.predict_scores(splits["test"]["text"])
    np.testing.assert_allclose(scores, np.stack(table["scores"]), atol=1e-2)
    assert classifier.predict(splits["test"]["text"]) == [x[0] for x in table["y_pred"]]
    texts = splits["test"]["text"][:10]
    streamed = list(classifier.predict_stream(iter(texts), chunk_size=4))
    assert streamed == [label for i in (0, 4, 8) for label in classifier.predict(texts[i : i + 4])]
