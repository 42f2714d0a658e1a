"""Finished runs that were changed since: one line that names folder and file, and no answer."""

import json
import os
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from lib import storage
from lib.config.arms import BaselineParams, EmbeddingParams
from lib.errors import InputError, ModelError
from lib.evaluation.scores import Scores
from lib.machine import choose_dtype
from lib.runs import estimators
from lib.runs.classifier import load_classifier
from lib.runs.distillation import check_teacher
from lib.runs.models import load_arm_model, save_arm_model
from lib.runs.record import RESOURCE_KEYS, read_label_space, read_runs
from lib.runs.run import Run

pytestmark = pytest.mark.reliability

WORDS = {"grain": "wheat maize barley", "metal": "copper zinc iron", "money": "bank rate loan"}
SHARED = {
    "study": "s", "text_columns": ["text"], "label_column": "label", "num_train": 18,
    "num_validation": 6, "num_test": 6, "device": "cpu",
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory, cut_model):
    """Finished runs of TF-IDF and of a head on SmolLM2's first two layers, and their base."""
    root = tmp_path_factory.mktemp("made")
    words = [(label, f"{a} {b} {i}") for label, text in WORDS.items() for i in range(4)
             for a in text.split() for b in text.split()]  # fmt: skip
    pd.DataFrame(words, columns=["label", "text"]).to_csv(root / "documents.csv", index=False)
    shutil.copytree(cut_model(2), root / "base")
    shared = SHARED | {"dataset": str(root / "documents.csv"), "runs_dir": str(root / "runs")}
    run_tfidf(BaselineParams(arm="tfidf", notebook="02_baselines", **shared))
    run_head(EmbeddingParams(
        arm="head", notebook="03_finetune_embedding", model_id=str(root / "base"), lora_r=2,
        max_length=12, **shared,
    ))  # fmt: skip
    return root


def run_tfidf(params):
    run = Run(params)
    run.open()
    words, svm, _ = estimators.build_classifier(params)
    x = words.fit_transform(run.splits["train"]["text"])
    svm.fit(x, run.truth("train").argmax(axis=1))
    learnable = np.flatnonzero(run.train_counts)
    estimators.save(words, svm, learnable, run.folder / "model")
    save(run)


def run_head(params):
    run = Run(params)
    run.open()
    torch.manual_seed(0)
    cpu = torch.device("cpu")
    model = load_arm_model(params, run.label_space, device=cpu, dtype=choose_dtype(cpu))
    save_arm_model(model, params, run.folder / "model")
    save(run)


def save(run):
    names = ("validation", "test")
    with run.timed("test"):
        scores = {name: Scores(run.truth(name).astype(float)) for name in names}
    run.save({name: run.splits[name]["labels"][:] for name in names}, scores, threshold=None,
             probabilities=False, resources=dict.fromkeys(RESOURCE_KEYS, 1.0))  # fmt: skip


@pytest.fixture
def copied(made, tmp_path):
    """Both runs elsewhere: folders of seed 0 by arm."""
    shutil.copytree(made / "runs", tmp_path / "runs")
    storage._checksums.clear()
    return {arm: tmp_path / "runs" / "s" / arm / "seed-0" for arm in ("tfidf", "head")}


def edit(file, change):
    values = json.loads(file.read_text())
    file.write_text(json.dumps(change(values), indent=2) + "\n")


def flip(file, *, count=1):
    content = bytearray(file.read_bytes())
    start = len(content) // 2
    content[start : start + count] = bytes(byte ^ 1 for byte in content[start : start + count])
    file.write_bytes(content)


def cut(file, *, share=0.5):
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])


def empty(file):
    file.write_bytes(b"")


def pipe(file):
    file.unlink()
    os.mkfifo(file)


def dangle(file):
    file.unlink()
    file.symlink_to("nowhere")


def reorder(file):
    edit(file, lambda labels: dict(reversed(labels.items())))


def half_of_tensors(file):
    tensors = load_file(file)
    save_file(dict(list(tensors.items())[::2]), file)


def add(content):
    return lambda file: file.write_bytes(content)


CHANGED = "was changed since the run"
# file, what was done to it, what is said about it
TAMPERED = [
    ("labels.json", reorder, CHANGED),
    ("labels.json", cut, "is cut"),
    ("labels.json", Path.unlink, "is missing"),
    ("labels.json", pipe, "is missing"),
    ("metrics.json", empty, "is cut"),
    ("metrics.json", lambda f: edit(f, lambda m: m | {"micro_f1": 1.0, "more": 1}), CHANGED),
    ("metrics.json", flip, CHANGED),
    ("resources.json", flip, CHANGED),
    ("resources.json", empty, "is cut"),
    ("train_counts.json", flip, CHANGED),
    ("predictions.parquet", cut, "is cut"),
    ("predictions.parquet", flip, CHANGED),
    ("predictions.parquet", Path.unlink, "is missing"),
    ("predictions.parquet", dangle, "is missing"),
    ("history.parquet", Path.unlink, "is missing"),
    ("params.yaml", lambda f: f.write_text(f.read_text() + "threshold: 3\n"), CHANGED),
    ("params.yaml", lambda f: f.write_text(f.read_text().replace("s", "t")), CHANGED),
    ("params.yaml", empty, "is cut"),
    ("params.yaml", Path.unlink, "is missing"),
    ("chosen.json", add(b'{"model_id": "a stranger\'s"}'), CHANGED),
    ("search.csv", add(b"x"), CHANGED),
    ("checksums.json", empty, "is damaged"),
    ("checksums.json", add(b"[1]"), "is damaged"),
    ("checksums.json", add(b"{}"), "metrics.json was changed since the run"),
]
MODELS = [
    ("tfidf", "model/tfidf.npz", flip, CHANGED),
    ("tfidf", "model/tfidf.npz", cut, "is cut"),
    ("tfidf", "model/tfidf.npz", pipe, "is missing"),
    ("tfidf", "model/tfidf.json", lambda f: edit(f, lambda v: v | {"more": 1}), CHANGED),
    ("tfidf", "model/tfidf.joblib", add(pickle.dumps(print)), CHANGED),
    ("head", "model/adapter_model.safetensors", lambda f: flip(f, count=100), CHANGED),
    ("head", "model/adapter_model.safetensors", cut, "is cut"),
    ("head", "model/adapter_model.safetensors", half_of_tensors, "is cut"),
    ("head", "model/adapter_model.safetensors", Path.unlink, "is missing"),
    ("head", "model/adapter_config.json", lambda f: edit(f, lambda v: v | {"r": 3}), CHANGED),
    ("head", "model/adapter_model.bin", add(pickle.dumps(print)), CHANGED),
    ("head", "model/deeper/model.py", add(b"print('ran')"), CHANGED),
]


@pytest.mark.parametrize(("name", "tamper", "fault"), TAMPERED)
@pytest.mark.parametrize("arm", ["tfidf", "head"])
def test_a_run_whose_files_were_changed_is_neither_loaded_nor_compared(
    copied, arm, name, tamper, fault
):
    file = copied[arm] / name
    file.parent.mkdir(exist_ok=True)
    tamper(file)
    said = fault if " " in fault and fault.startswith("metrics") else f"{name} {fault}"
    line = rf"^{re.escape(str(copied[arm]))}: {re.escape(said)}; run the arm again$"
    with pytest.raises(InputError, match=line):
        load_classifier(copied[arm])
    with pytest.raises(InputError, match=line):
        read_runs("s", runs_dir=str(copied[arm].parents[2]))


@pytest.mark.parametrize(("arm", "name", "tamper", "fault"), MODELS)
def test_a_run_whose_model_was_changed_is_not_loaded(copied, arm, name, tamper, fault):
    file = copied[arm] / name
    file.parent.mkdir(exist_ok=True)
    tamper(file)
    with pytest.raises(InputError, match=rf"{name} {fault}; run the arm again$"):
        load_classifier(copied[arm])
    assert len(read_runs("s", runs_dir=str(copied[arm].parents[2]))) == 2  # reads no model


def test_runs_as_they_were_written_answer_wherever_they_are(copied):
    runs = read_runs("s", runs_dir=str(copied["head"].parents[2]))
    assert runs["arm"].tolist() == ["head", "tfidf"]
    assert load_classifier(copied["tfidf"]).predict(["copper and zinc"]) == ["metal"]
    probs = load_classifier(copied["head"]).predict_scores(["wheat"]).values
    assert probs.sum() == pytest.approx(1)
    (copied["head"] / "model" / "README.md").write_text("a card may be edited")
    (copied["head"] / "notes.txt").write_text("and notes added")
    storage._checksums.clear()
    load_classifier(copied["head"])


def test_a_run_without_metrics_or_a_manifest_is_to_be_run_again(copied):
    (copied["tfidf"] / "metrics.json").unlink()
    (copied["head"] / "checksums.json").unlink()
    with pytest.raises(InputError, match=r"holds no finished run \(no metrics.json\)"):
        load_classifier(copied["tfidf"])
    with pytest.raises(InputError, match=r"an earlier version wrote this run .*; run the arm ag"):
        load_classifier(copied["head"])


def test_a_teacher_that_was_changed_does_not_teach(copied):
    flip(copied["head"] / "model" / "adapter_model.safetensors")
    space = read_label_space(copied["head"])
    with pytest.raises(InputError, match=r"^teacher: .*safetensors was changed since the run"):
        check_teacher(copied["head"], space, data_fingerprint="", multi_label=False)


def rewrite_manifest(folder):
    """As a stranger would who knows of it, or a model that never had one."""
    names = json.loads((folder / "checksums.json").read_text())
    storage._checksums.clear()
    storage.write_checksums(folder, {name: folder / name for name in names})


def test_adapters_without_some_tensors_are_refused_whatever_the_manifest_says(copied):
    half_of_tensors(copied["head"] / "model" / "adapter_model.safetensors")
    rewrite_manifest(copied["head"])
    with pytest.raises(ModelError, match=r"adapter_model.safetensors: .* tensors are missing: "):
        load_classifier(copied["head"])


def test_a_run_is_not_loaded_on_another_base(copied, made):
    config = made / "base" / "tokenizer_config.json"
    before = config.read_text()
    try:
        edit(config, lambda values: values | {"model_max_length": 7})
        with pytest.raises(ModelError, match=r"base: the base model has changed since the run in"
                           r".*: its fingerprint is \w{32}, not \w{32}; bring"):  # fmt: skip
            load_classifier(copied["head"])
    finally:
        config.write_text(before)
