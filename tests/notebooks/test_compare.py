"""05_compare on studies of made-up predictions: few and many arms, missing seeds, label sets."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import yaml
from datasets import Dataset, DatasetDict

from lib.config.arms import StudyParams
from lib.data.labels import LabelSpace
from lib.evaluation.scores import Scores
from lib.runs.record import RESOURCE_KEYS, open_run, write_run
from lib.storage import ROOT

LABELS = ("A", "B", "C", "D")
STYLES = {"tfidf": "02_baselines", "embedding": "03_finetune_embedding"}


def documents(size, split, generator, multi_label):
    labels = [sorted(generator.choice(LABELS, 1 + multi_label, replace=False)) for _ in range(size)]
    texts = [f"{split} <b>{i}</b> & of {' and '.join(row)}" for i, row in enumerate(labels)]
    return {"id": [f"{split}-{i}" for i in range(size)], "text": texts, "labels": labels}


@pytest.fixture
def study(tmp_path):
    """`study(arms, seeds=..., multi_label=...)` leaves runs as notebooks do, and their data."""

    def make(arms, *, seeds=(0,), multi_label=False, missing=(), sizes=(), **shared):
        generator = np.random.default_rng(0)
        parts = {
            split: documents(size, split, generator, multi_label)
            for split, size in (("train", 40), ("validation", 40), ("test", 120))
        }
        for split, rows in parts.items():
            pd.DataFrame(rows).to_json(tmp_path / f"{split}.jsonl", orient="records", lines=True)
        common = {
            "study": "made", "seeds": list(seeds), "dataset": f"{tmp_path}/{{split}}.jsonl",
            "split_names": ["train", "validation", "test"], "text_columns": ["text"],
            "label_column": "labels", "label_mode": "multi" if multi_label else "first",
            "id_column": "id", "num_train": 0, "num_validation": 0, "num_test": 0,
            "runs_dir": str(tmp_path / "runs"), "figures_dir": str(tmp_path / "figures"),
        } | shared | ({"train_sizes": list(sizes)} if sizes else {})  # fmt: skip
        (tmp_path / "common.yaml").write_text(yaml.safe_dump(common))
        space = LabelSpace(LABELS)
        splits = DatasetDict({k: Dataset.from_dict(v) for k, v in parts.items()})
        for number, arm in enumerate(arms):
            for seed in seeds:
                for size in sizes or (0,):
                    if (arm, seed) in missing:
                        continue
                    good = 0.85 - 0.4 * number / len(arms) - (8 / size if size else 0)
                    draw = np.random.default_rng([number, seed, size])
                    write(common, arm, seed, size, splits, space, good, draw)
        return tmp_path

    def write(common, arm, seed, size, splits, space, good, draw):
        notebook = STYLES.get(arm, "04_finetune_instruction")
        multi_label = common["label_mode"] == "multi"
        params = StudyParams(
            **common | {"arm": arm, "seed": seed, "train_size": size, "notebook": notebook}
        )
        preds, scores = {}, {}
        for split in ("validation", "test"):
            truth = space.encode(splits[split]["labels"])
            noisy = truth + (1 - good) * draw.normal(0, 1, truth.shape)
            scores[split] = np.exp(4 * noisy) / np.exp(4 * noisy).sum(axis=1, keepdims=True)
            if multi_label:
                scores[split] = 1 / (1 + np.exp(-4 * (noisy - 0.5)))
            chosen = scores[split] >= (0.5 if multi_label else scores[split].max(1, keepdims=True))
            preds[split] = space.to_names(chosen)
        resources = dict.fromkeys(RESOURCE_KEYS, 1.0 + draw.random()) | {
            "device": "cpu", "dtype": "float32", "quantization": "nf4"
        }  # fmt: skip
        write_run(
            open_run(params, data_fingerprint="x", held_out_fingerprint="y"), splits=splits,
            label_space=space, preds=preds,
            scores={name: Scores(values) for name, values in scores.items()},
            multi_label=multi_label, probabilities=True,
            threshold=0.5 if multi_label else None, resources=resources,
        )  # fmt: skip

    return make


def compare(folder, **values):
    command = [sys.executable, "-m", "papermill", str(ROOT / "notebooks/05_compare.ipynb")]
    command += [str(folder / "05.ipynb"), "--no-progress-bar", "-f", str(folder / "common.yaml")]
    command += ["-y", yaml.safe_dump({"num_resamples": 200} | values)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "figures" / "made", (folder / "05.ipynb").read_text()


@pytest.mark.slow
def test_one_arm_alone_has_a_report(study):
    figures, _ = compare(study(["embedding"]))
    assert pd.read_csv(figures / "pairwise.csv").empty
    assert json.loads((figures / "recommendation.json").read_text())
    assert not (figures / "pairwise.png").exists()


@pytest.mark.slow
def test_twelve_arms_have_a_report_that_names_missing_seeds_and_escapes_documents(study):
    arms = ["embedding", "tfidf", *(f"arm_{i}" for i in range(9)), "instruction"]
    folder = study(arms, seeds=(0, 1), missing={("instruction", 1)})
    figures, notebook = compare(folder, arms=[*arms, "frozen"])
    assert len(pd.read_csv(figures / "comparison.csv")) == 12
    assert len(pd.read_csv(figures / "pairwise.csv")) == 2 * 66
    assert "instruction: seed 1; frozen: seeds 0, 1" in notebook
    comparison = pd.read_csv(figures / "comparison.csv").set_index("arm")
    assert comparison["num_seeds"].drop("instruction").eq(2).all()
    assert comparison.loc["instruction", "num_seeds"] == 1
    assert "&lt;b&gt;" in notebook
    assert "<b>" not in notebook


@pytest.mark.slow
def test_label_sets_have_a_report(study):
    figures, _ = compare(study(["embedding", "instruction"], multi_label=True, seeds=(0, 1)))
    assert pd.read_csv(figures / "comparison.csv")["precision_at_1"].notna().all()
    assert not (figures / "confusion.png").exists()


def test_training_sizes_have_curves_and_a_comparison_at_the_largest(study):
    sizes = [16, 24, 32, 40]
    folder = study(["embedding", "instruction"], seeds=(0, 1), sizes=sizes)
    arms = [f"{arm}@{size}" for arm in ("embedding", "instruction") for size in sizes]
    figures, _ = compare(folder, arms=arms)
    curves = pd.read_csv(figures / "curves.csv")
    assert len(curves) == 8
    assert sorted(pd.read_csv(figures / "comparison.csv")["arm"]) == ["embedding", "instruction"]
    assert (figures / "curves.png").exists()
