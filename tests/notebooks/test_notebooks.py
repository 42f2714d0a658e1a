"""The five notebooks, as files and executed for real on the smoke study."""

import json
import os
import re
import shutil
import subprocess
import sys

import nbformat
import numpy as np
import pandas as pd
import pytest
from conftest import snakemake

from lib.classifier import load_classifier
from lib.comparison import distillation, stack_predictions
from lib.data import load_splits
from lib.params import NOTEBOOK_PARAMS, ROOT
from lib.results import OPTIONAL_RESOURCES, RESOURCE_KEYS, read_predictions, read_runs
from lib.study import load_params

ARMS = ("tfidf", "frozen", "encoder", "embedding", "instruction", "zero_shot", "distill")
TUNED = ("encoder", "embedding", "instruction", "distill")
FIGURES = (
    "forest", "pairwise", "class_f1", "confusion", "training", "cost", "ladder", "reliability",
    "risk_coverage", "slices",
)  # fmt: skip


def read(name):
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


def papermill(notebook, output, *arguments, cwd=ROOT):
    command = [sys.executable, "-m", "papermill", str(ROOT / "notebooks" / f"{notebook}.ipynb")]
    command += [str(output), "--no-progress-bar", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", NOTEBOOK_PARAMS)
def test_parameters_cell_repeats_the_names_and_defaults_of_lib_params(name):
    cells = [c for c in read(name).cells if "parameters" in c.metadata.get("tags", [])]
    assert len(cells) == 1
    assert cells[0].source.startswith("# Parameters")
    # papermill's own parser stops at a second "=" and finds no annotation with "|"
    assert not any(x.count("=") > 1 or "|" in x for x in cells[0].source.splitlines())
    values = {}
    exec(cells[0].source, values)
    del values["__builtins__"], values["__annotations__"]
    assert values == NOTEBOOK_PARAMS[name](notebook=name).model_dump()


@pytest.mark.parametrize("name", NOTEBOOK_PARAMS)
def test_notebooks_are_committed_without_outputs_and_define_no_classes(name):
    notebook = read(name)
    code = [c for c in notebook.cells if c.cell_type == "code"]
    assert not any(c.outputs or c.execution_count for c in code)
    assert len(code) <= 30
    assert not any(re.search(r"^class |sys\.path", c.source, re.M) for c in code)


STUDIES = sorted(path.name for path in (ROOT / "params").iterdir())
MODEL_ID = re.compile(r"package:[\w.]+/[\w./-]+|[\w.-]+/[\w.-]+")
DATASET = re.compile(r"(package:|wipo:)?[\w./{}-]+")


@pytest.mark.parametrize("study", STUDIES)
def test_every_study_is_valid_and_its_ids_are_well_formed(study):
    """Also of studies that need a GPU, a download or data that is not here."""
    folder = ROOT / "params" / study
    for file in sorted(folder.glob("*.yaml")):
        files = [folder / "common.yaml"] + ([file] if file.stem != "common" else [])
        params = load_params(*files)
        assert params.study == study
        assert MODEL_ID.fullmatch(params.model_id)
        assert DATASET.fullmatch(params.dataset)


@pytest.mark.parametrize("study", sorted(set(STUDIES) - {"quick", "smoke"}))
def test_every_study_has_a_plan(study, tmp_path):
    shutil.copytree(ROOT / "params" / study, tmp_path / "params" / study)
    done = snakemake("--dry-run", folder=tmp_path, study=study)
    assert done.returncode == 0, done.stderr
    for file in (ROOT / "params" / study).glob("*.yaml"):
        if file.stem != "common":
            assert re.search(f"/{study}/{file.stem}(@\\d+)?/seed-", done.stdout + done.stderr)


def test_a_learning_curve_runs_every_arm_that_learns_at_every_size(tmp_path):
    shutil.copytree(ROOT / "params" / "smoke", tmp_path / "params" / "smoke")
    common = tmp_path / "params" / "smoke" / "common.yaml"
    text = common.read_text().replace("seeds: [0]", "seeds: [3, 4]\ntrain_sizes: [16, 48]")
    common.write_text(text)
    done = snakemake("--dry-run", "--printshellcmds", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    planned = re.findall(r"output: \S*/smoke/(\S+)/metrics.json", done.stdout + done.stderr)
    sized = {f"{arm}@{n}/seed-{s}" for arm in ARMS for n in (16, 48) for s in (3, 4)}
    untaught = {run for run in sized if run.startswith("zero_shot")}
    assert sorted(planned) == sorted(sized - untaught | {"zero_shot/seed-3"})
    command = (
        r"embedding@16/seed-4/notebook\.ipynb .*embedding\.yaml .*-p seed 4 -p train_size 16\b"
    )
    assert re.search(command, done.stdout + done.stderr)
    common.write_text(text + "train_size: 16\n")
    done = snakemake("--dry-run", folder=tmp_path)
    assert "set train_sizes, in common.yaml alone" in done.stderr


def test_label_sets_go_through_every_arm_to_the_report(multi_label_study):
    """Thresholds tuned on validation, sets never empty unless generated, in label order."""
    tuned = ("encoder", "embedding", "distill", "instruction")
    for arm in ("tfidf", "frozen", *tuned, "scored", "few_shot", "asked"):
        folder = multi_label_study / "runs" / "multi" / arm / "seed-0"
        metrics = json.loads((folder / "metrics.json").read_text())
        generated = arm in ("instruction", "few_shot")
        assert (metrics["threshold"] is None) == (metrics["ndcg_at_5"] is None) == generated
        assert 0 <= metrics["samples_f1"] <= 1
        table = read_predictions(folder)
        assert any(len(labels) > 1 for labels in table["y_true"])
        assert all(list(labels) == sorted(labels) for labels in table["y_pred"])
        assert arm == "instruction" or all(len(labels) for labels in table["y_pred"])
    report = multi_label_study / "figures" / "multi"
    comparison = pd.read_csv(report / "comparison.csv").set_index("arm")
    assert comparison["precision_at_1"].notna().sum() == 7
    assert comparison.loc["tfidf", "micro_f1"] > 0.4
    assert not (report / "confusion.png").exists()
    assert "has the highest micro-F1" in (report / "report.html").read_text()


def test_new_data_in_the_same_file_is_a_new_study(multi_label_study):
    def planned():
        done = snakemake("--dry-run", folder=multi_label_study, study="multi")
        return "Nothing to be done" not in done.stdout + done.stderr

    file = multi_label_study / "all.jsonl"
    times = file.stat()
    assert not planned()
    os.utime(file)
    assert planned()
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_examples_in_a_prompt_are_not_kept(multi_label_study):
    with pytest.raises(ValueError, match=r"few_shot/seed-0: examples in prompts .* are not kept"):
        load_classifier(multi_label_study / "runs" / "multi" / "few_shot" / "seed-0")


@pytest.mark.parametrize("arm", ["embedding", "instruction", "scored", "asked"])
def test_a_reloaded_multi_label_run_predicts_what_it_predicted(multi_label_study, arm):
    """TRAPS 21: a sigmoid for each label, not a softmax over them."""
    folder = multi_label_study / "runs" / "multi" / arm / "seed-0"
    params = load_params(*(multi_label_study / f"params/multi/{n}.yaml" for n in ("common", arm)))
    texts = load_splits(**params.data_options)["test"]["text"]
    classifier, table = load_classifier(folder), read_predictions(folder)
    scores = classifier.predict_scores(texts)
    np.testing.assert_allclose(scores, np.stack(table["scores"]), atol=1e-2)
    assert classifier.predict(texts) == [list(labels) for labels in table["y_pred"]]


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
    assert (folder / "model").is_dir() == (arm in TUNED)
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
        assert planned() == (outputs | {"05_compare.ipynb", "report.html"}, False)
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_a_student_shows_its_teacher_and_pays_for_its_scores(smoke_study):
    runs = read_runs("smoke", runs_dir=str(smoke_study / "runs"))
    y_true, y_preds = stack_predictions(runs)
    (row,) = distillation(runs, y_true, y_preds, num_resamples=100).to_dict("records")
    assert (row["student"], row["teacher"]) == ("distill", "embedding")
    assert 0 < row["micro_f1_kept_low"] <= row["micro_f1_kept"] <= row["micro_f1_kept_high"]
    assert row["params_share"] < 0.2
    folder = runs.set_index("arm")["folder"]["distill"]
    assert "teacher_fingerprint" in (folder / "params.yaml").read_text()
    notebook = nbformat.read(folder / "notebook.ipynb", 4)
    printed = [o.get("text", "") for c in notebook.cells for o in c.get("outputs", [])]
    assert any(text.startswith("embedding scored 48 documents in") for text in printed)


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


@pytest.mark.parametrize("arm", TUNED)
def test_a_reloaded_run_predicts_what_it_predicted(smoke_study, arm):
    """TRAPS 5: head and adapters survive saving, on the quantized base."""
    folder = smoke_study / "runs" / "smoke" / arm / "seed-0"
    params = load_params(ROOT / "params/smoke/common.yaml", ROOT / f"params/smoke/{arm}.yaml")
    splits = load_splits(**params.data_options)
    classifier = load_classifier(folder)
    table = read_predictions(folder)
    scores = classifier.predict_scores(splits["test"]["text"])
    np.testing.assert_allclose(scores, np.stack(table["scores"]), atol=1e-2)
    assert classifier.predict(splits["test"]["text"]) == [x[0] for x in table["y_pred"]]
    texts = splits["test"]["text"][:10]
    streamed = list(classifier.predict_stream(iter(texts), chunk_size=4))
    assert streamed == [label for i in (0, 4, 8) for label in classifier.predict(texts[i : i + 4])]


def test_loading_a_run_that_saved_no_model_says_so(smoke_study):
    with pytest.raises(ValueError, match="02_baselines saves no model"):
        load_classifier(smoke_study / "runs" / "smoke" / "tfidf" / "seed-0")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (("learning_rat", "0.1"), "unknown parameter; did you mean 'learning_rate'"),
        (("num_epochs", "two"), "num_epochs: 'two' is not valid"),
        (("notebook", "04_finetune_instruction"), "these parameters are for '04_finetune_instruc"),
        (("dataset", "absent-{split}.csv"), "absent-train.csv: no such data file"),
    ],
)
def test_papermill_stops_on_bad_input_and_leaves_no_run(tmp_path, value, message):
    done = papermill(
        "03_finetune_embedding",
        tmp_path / "out.ipynb",
        "-p",
        *value,
        "-p",
        "runs_dir",
        tmp_path / "r",
    )
    assert done.returncode != 0
    assert message in done.stderr.strip().splitlines()[-1]
    shown = [
        o for c in nbformat.read(tmp_path / "out.ipynb", 4).cells for o in c.get("outputs", [])
    ]
    assert [len(o.traceback) for o in shown if o.output_type == "error"] == [1]
    assert not (tmp_path / "r").exists()


def test_the_study_stops_in_one_line_before_anything_runs(tmp_path):
    shutil.copytree(ROOT / "params" / "smoke", tmp_path / "params" / "smoke")
    file = tmp_path / "params" / "smoke" / "tfidf.yaml"
    file.write_text(file.read_text() + "metod: frozen\n")
    done = snakemake(folder=tmp_path)
    assert done.returncode != 0
    assert f"{file}: metod: unknown parameter; did you mean 'method'" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


def test_the_data_notebook_runs_from_its_own_folder(tmp_path):
    done = papermill(
        "01_explore_data", tmp_path / "out.ipynb", "-f", ROOT / "params/smoke/common.yaml",
        cwd=ROOT / "notebooks",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
