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
from lib.runs.finished import read_label_space, read_runs
from lib.runs.models import load_arm_model, save_arm_model
from lib.runs.record import RESOURCE_KEYS
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
    ("checksums.json", add(b"{}"), "names no file"),
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
    line = rf"^{re.escape(str(copied[arm]))}: {re.escape(f'{name} {fault}')}; run the arm again$"
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


def arrays(change):
    def tamper(file):
        with np.load(file) as saved:
            values = {key: saved[key] for key in saved.files}
        np.savez(file, **values | change(values))

    return tamper


def tensors(change):
    return lambda file: save_file(change(load_file(file)), file)


def nowhere(values):
    return {key: torch.full_like(value, torch.nan) for key, value in values.items()}


def one_more(values):
    return values | {"base_model.model.backbone.embed_tokens.weight": torch.zeros(2, 2)}


WRITES, APART = "is not as a run writes it", "do not belong together"
# arm, file, what was done to it, what is said about it, with a manifest made anew
REWRITTEN = [
    ("tfidf", "metrics.json", add(b"[]"), WRITES),
    ("tfidf", "metrics.json", add(b"{}"), "metrics.json has no threshold"),
    ("tfidf", "metrics.json", add(b"[" * 100_000), WRITES),
    ("tfidf", "metrics.json", lambda f: edit(f, lambda m: m | {"threshold": "x"}), WRITES),
    ("tfidf", "labels.json", add(b'["grain"]'), WRITES),
    ("tfidf", "labels.json", add(b'{"grain": 1}'), WRITES),
    ("tfidf", "labels.json", add(b'{"grain": "grain"}'), "labels"),
    ("tfidf", "params.yaml", add(b"notebook: [1]"), "names no notebook"),
    ("tfidf", "params.yaml", add(b"seed: 0"), "names no notebook"),
    ("tfidf", "model/tfidf.json", add(b"[]"), "tfidf"),
    ("tfidf", "model/tfidf.json", lambda f: edit(f, lambda v: v | {"vocabulary": 5}), "list of"),
    ("tfidf", "model/tfidf.npz", arrays(lambda v: {"learnable": v["learnable"][::-1]}), APART),
    ("tfidf", "model/tfidf.npz", arrays(lambda v: {"learnable": v["learnable"][:2]}), APART),
    ("tfidf", "model/tfidf.npz", arrays(lambda v: {"learnable": v["learnable"] - 1}), APART),
    ("tfidf", "model/tfidf.npz", arrays(lambda v: {"learnable": v["learnable"] + 1}), "labels"),
    ("tfidf", "model/tfidf.npz", arrays(lambda v: {"coef": v["coef"] > 0}), APART),
    ("tfidf", "model/tfidf.npz", arrays(lambda v: {"coef": v["coef"] * np.nan}), "no numbers"),
    ("head", "model/adapter_model.safetensors", tensors(nowhere), "no numbers"),
    ("head", "model/adapter_model.safetensors", tensors(one_more), "1 tensors are of no adapter"),
    ("head", "params.yaml", lambda f: f.write_text(re.sub("lora_r: 2", "lora_r: 3", f.read_text())),
     "r of its config differ from the run's parameters"),
]  # fmt: skip


@pytest.mark.parametrize(("arm", "name", "tamper", "said"), REWRITTEN)
def test_what_no_run_writes_is_refused_whatever_the_manifest_says(copied, arm, name, tamper, said):
    tamper(copied[arm] / name)
    rewrite_manifest(copied[arm])
    with pytest.raises(InputError, match=said) as caught:
        load_classifier(copied[arm]).predict(["wheat"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("place", ["tfidf/seed-1", "tfidf@4/seed-0", "svm/seed-0"])
def test_a_run_is_compared_where_it_was_written_alone(copied, place):
    runs = copied["tfidf"].parents[2]
    shutil.copytree(copied["tfidf"], runs / "s" / place)
    with pytest.raises(InputError, match=rf"{place}: holds the run s/tfidf/seed-0, copied or mo"):
        read_runs("s", runs_dir=str(runs))
    load_classifier(runs / "s" / place)  # it answers wherever it is


@pytest.mark.parametrize("copy", ["seed-0 copy", "seed-00", "seed-٣", "seed-"])
def test_a_folder_that_no_run_has_is_not_compared(copied, copy):
    runs = copied["tfidf"].parents[2]
    shutil.copytree(copied["tfidf"], runs / "s" / "tfidf" / copy)
    assert len(read_runs("s", runs_dir=str(runs))) == 2
