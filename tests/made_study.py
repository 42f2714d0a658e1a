"""Studies of made-up predictions, written as runs leave them, and 05_compare on them."""

import subprocess
import sys

import numpy as np
import pandas as pd
import yaml
from datasets import Dataset, DatasetDict

from lib.config.arms import StudyParams
from lib.data.labels import LabelSpace
from lib.data.version import HELD_OUT, hash_documents
from lib.evaluation.scores import Scores
from lib.runs.record import RESOURCE_KEYS, open_run, write_run
from lib.storage import ROOT

LABELS = ("A", "B", "C", "D<b onclick=alert(1)>")
STYLES = {"tfidf": "02_baselines", "embedding": "03_finetune_embedding"}
HOSTILE = "<img src='x' onerror='document.title = 1'><script>document.title = 1</script>"


def documents(size, split, generator, multi_label):
    labels = [sorted(generator.choice(LABELS, 1 + multi_label, replace=False)) for _ in range(size)]
    names = [f"{split}-{i}" for i in range(size)]
    rows = zip(names, labels, strict=True)
    texts = [f"<b>{name}</b> & of {' and '.join(row)} {HOSTILE}" for name, row in rows]
    return {"id": names, "text": texts, "labels": labels}


def make_study(tmp_path, arms, *, seeds=(0,), multi_label=False, missing=(), sizes=(), **shared):
    """Runs of these arms under `tmp_path`, as notebooks leave them, and their documents."""
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
    held_out = hash_documents(params, splits, HELD_OUT)
    write_run(
        open_run(params, data_fingerprint="x", held_out_fingerprint=held_out), splits=splits,
        label_space=space, preds=preds,
        scores={name: Scores(values) for name, values in scores.items()},
        multi_label=multi_label, probabilities=True,
        threshold=0.5 if multi_label else None, resources=resources,
    )  # fmt: skip


def compare(folder, **values):
    command = [sys.executable, "-m", "papermill", str(ROOT / "notebooks/05_compare.ipynb")]
    command += [str(folder / "05.ipynb"), "--no-progress-bar", "-f", str(folder / "common.yaml")]
    command += ["-y", yaml.safe_dump({"num_resamples": 200} | values)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "figures" / "made", (folder / "05.ipynb").read_text()
