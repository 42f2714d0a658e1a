"""Processes that are killed at any of their writes: what is left is whole, or goes on to the same.

The process kills itself (SIGKILL) at the n-th change of a file or folder that Python tells of.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import load_backbone
from transformers import LlamaConfig, LlamaModel

from lib.config.arms import BaselineParams, EmbeddingParams
from lib.config.groups import HeadParams, LoraParams
from lib.errors import DiskFullError, InputError
from lib.evaluation.scores import Scores
from lib.head.losses import HeadLoss
from lib.head.model import EmbeddingModel, predict_logits
from lib.machine import choose_dtype
from lib.model.adapters import add_lora
from lib.runs import estimators
from lib.runs.classifier import load_classifier
from lib.runs.record import RESOURCE_KEYS
from lib.runs.run import Run
from lib.storage import cached_json
from lib.training.finetune import finetune_embedding

pytestmark = [pytest.mark.reliability, pytest.mark.filterwarnings("ignore:This process")]

CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "shutil.rmtree")


def run_and_kill(work, folder, at=None):
    """Run `work` in a process of its own, killed at its change number `at` below the folder.

    Returns the changes up to its end, or None if it was killed.
    """
    told, tell = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            count_changes(folder, at, tell)
            work()
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    os.close(tell)
    with os.fdopen(told, "rb") as pipe:
        changes = len(pipe.read())
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return None
    assert os.WEXITSTATUS(status) == 0
    return changes


def count_changes(folder, at, tell):
    number = 0

    def hook(event, args):
        nonlocal number
        writes = event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+")
        creates = event == "open" and args[1] is None and args[2] & (os.O_WRONLY | os.O_RDWR)
        if (event in CHANGES or writes or creates) and str(folder) in str(args[0]):
            number += 1
            if number == at:
                os.kill(os.getpid(), signal.SIGKILL)
            os.write(tell, b".")

    sys.addaudithook(hook)


def spread(changes, tries):
    """Numbers of changes, from the first to the last."""
    return sorted({round(x) for x in np.linspace(1, changes, tries)})


def saving(root):
    """Parameters of a run of TF-IDF below a folder, and what trains and saves it."""
    rows = [(f"{text} {i}", text) for text in ("wheat", "zinc", "loan") for i in range(12)]
    pd.DataFrame(rows, columns=["text", "label"]).to_csv(root / "rows.csv", index=False)
    params = BaselineParams(
        arm="tfidf", study="s", notebook="02_baselines", dataset=str(root / "rows.csv"),
        text_columns=["text"], label_column="label", num_train=18, num_validation=6, num_test=6,
        runs_dir=str(root / "runs"),
    )  # fmt: skip

    def save():
        run = Run(params)
        run.open()
        words, svm, _ = estimators.build_classifier(params)
        x = words.fit_transform(run.splits["train"]["text"])
        svm.fit(x, run.truth("train").argmax(axis=1))
        estimators.save(words, svm, np.arange(3), run.folder / "model")
        with run.timed("test"):
            scores = Scores(run.truth("test").astype(float))
        names = ("validation", "test")
        run.save({name: run.splits[name]["labels"][:] for name in names},
                 dict.fromkeys(names, scores), threshold=None, probabilities=False,
                 resources=dict.fromkeys(RESOURCE_KEYS, 1.0))  # fmt: skip

    return params, save


def is_finished(folder):
    """True for a run that answers, false for one that says that it is none."""
    if (folder / "metrics.json").exists():
        load_classifier(folder)
        return True
    with pytest.raises(InputError, match="holds no finished run"):
        load_classifier(folder)
    return False


def test_a_run_that_is_killed_while_it_is_saved_is_whole_or_not_finished(tmp_path):
    params, save = saving(tmp_path)
    folder = params.run_dir
    changes = run_and_kill(save, folder)
    finished = 0
    for at in spread(changes, 12):
        assert run_and_kill(save, folder, at) is None
        finished += is_finished(folder)
    assert run_and_kill(save, folder)
    assert load_classifier(folder).predict(["zinc"]) == ["zinc"]
    assert finished < 6  # killed behind its metrics alone
    left = {path.name for path in folder.rglob("*") if not path.is_dir()}
    assert not [name for name in left if name.startswith((".", "tmp", "owner"))]


@contextlib.contextmanager
def mounted(image, folder):
    """A file system in a file; it writes to the file what it is told to, and nothing by itself."""
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", "loop,commit=300", image, folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.fixture
def image(tmp_path):
    """An ext4 file system of 64 MiB in a file."""
    file = tmp_path / "disk"
    with file.open("wb") as empty:
        empty.truncate(2**26)
    try:
        subprocess.run(["mkfs.ext4", "-q", file], check=True, capture_output=True)
        with mounted(file, tmp_path / "tried"):
            pass
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file system can be mounted here: {error}")
    return file


def test_a_power_cut_leaves_a_run_whole_or_not_finished(tmp_path, image):
    """What is on the disk at the cut is what the file system had been told to write by then."""
    copy, later = tmp_path / "copy", tmp_path / "later"

    def after_a_cut(folder):
        shutil.copyfile(image, copy)
        with mounted(copy, later):  # its journal is played
            return is_finished(later / folder)

    with mounted(image, tmp_path / "disk_of_runs") as root:
        params, save = saving(root)
        os.sync()
        folder = params.run_dir.relative_to(root)
        changes = run_and_kill(save, params.run_dir)
        assert after_a_cut(folder)  # what is reported as finished is on the disk
        for at in spread(changes, 12):
            assert run_and_kill(save, params.run_dir, at) is None
            after_a_cut(folder)
        assert run_and_kill(save, params.run_dir)
        assert after_a_cut(folder)


PAGE = os.sysconf("SC_PAGE_SIZE")  # a file takes whole pages


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_one_line_and_leaves_no_half_of_a_run(small_disk):
    params, save = saving(small_disk)
    save()
    pages = sum(-(-file.stat().st_size // PAGE) for file in params.run_dir.rglob("*.*"))
    for left in spread(pages, 8)[:-1]:  # pages of the disk
        shutil.rmtree(params.run_dir)
        filler = small_disk / "filler"
        filler.write_bytes(bytes((os.statvfs(small_disk).f_bavail - left) * PAGE))
        with pytest.raises(
            DiskFullError, match=f"^{small_disk}.*: no space left on disk; make room$"
        ):
            save()
        assert not is_finished(params.run_dir)
        filler.unlink()
        save()
        assert is_finished(params.run_dir)


def test_a_full_disk_at_a_checkpoint_is_one_line_and_training_goes_on_when_there_is_room(
    small_disk,
):
    config = LlamaConfig(hidden_size=32, intermediate_size=32, num_hidden_layers=1,
                         num_attention_heads=2, vocab_size=99, pad_token_id=0)  # fmt: skip
    rows = [{"id": f"{i}", "input_ids": [1 + i % 2, 7, i], "target": i % 2} for i in range(8)]
    params = EmbeddingParams(num_epochs=2, batch_size=4, max_length=24, token_budget=64)
    folder = small_disk / "checkpoints"

    def train():
        torch.manual_seed(0)
        model = EmbeddingModel(LlamaModel(config), HeadParams(), num_labels=2,
                               compute_dtype=torch.float32)  # fmt: skip
        finetune_embedding(
            add_lora(model, LoraParams(lora_r=2, lora_alpha=4)), rows, lambda _: {"micro_f1": 0.5},
            params, head_loss=HeadLoss("cross_entropy", 2), output_dir=folder,
        )  # fmt: skip

    train()
    pages = sum(-(-file.stat().st_size // PAGE) for file in folder.glob("checkpoint-2/*"))
    for left in spread(pages, 8)[:-1]:
        shutil.rmtree(folder)
        filler = small_disk / "filler"
        filler.write_bytes(bytes((os.statvfs(small_disk).f_bavail - left) * PAGE))
        with pytest.raises(
            DiskFullError, match=f"^{small_disk}.*: no space left on disk; make room$"
        ):
            train()
        filler.unlink()
    train()


def test_a_cached_result_that_was_killed_is_computed_anew(tmp_path, monkeypatch):
    monkeypatch.setattr("lib.storage.CACHE", tmp_path / "cache")
    work = partial(cached_json, "numbers", 1, lambda: [1, 2], code="c")

    def forget(number):
        for i, folder in enumerate((tmp_path / "cache").glob("*/*")):
            folder.rename(tmp_path / f"{number}-{i}")

    work()
    forget(0)
    for at in range(1, run_and_kill(work, tmp_path) + 1):
        forget(at)
        assert run_and_kill(work, tmp_path, at) is None
        assert work() == [1, 2]


@pytest.mark.slow
def test_a_training_that_is_killed_at_any_write_goes_on_to_the_same_logits(cut_model, tmp_path):
    """Scores fall from epoch to epoch, so that the first checkpoint is the best to the end."""
    rng, cpu = np.random.default_rng(0), torch.device("cpu")
    rows = [{"id": f"d{i}", "input_ids": [100 + i % 2, *rng.integers(5, 900, 6)], "target": i % 2}
            for i in range(8)]  # fmt: skip
    params = EmbeddingParams(
        num_epochs=3, batch_size=4, max_length=24, token_budget=64, learning_rate=5e-3
    )
    compute = choose_dtype(cpu)

    def train(folder, output):
        torch.manual_seed(0)
        backbone = load_backbone(cut_model(2), quantization="none")
        model = EmbeddingModel(backbone, HeadParams(), num_labels=2, compute_dtype=compute)
        model = add_lora(model, LoraParams(lora_r=2, lora_alpha=4, lora_dropout=0.1))

        def evaluate(_):
            done = [json.loads(f.read_text()) for f in folder.glob("*/trainer_state.json")]
            return {"micro_f1": 0.9 if not any(d["epoch"] >= 1 for d in done) else 0.1}

        finetune_embedding(
            model, rows, evaluate, params, head_loss=HeadLoss("cross_entropy", 2),
            output_dir=folder,
        )  # fmt: skip
        np.save(output, predict_logits(model, [r["input_ids"] for r in rows],
                                       token_budget=200).values)  # fmt: skip

    cut_model(2)
    changes = run_and_kill(partial(train, tmp_path / "whole", tmp_path / "expected.npy"),
                           tmp_path / "whole")  # fmt: skip
    expected = np.load(tmp_path / "expected.npy")
    for at in spread(changes, 12):
        folder, output = tmp_path / f"killed-{at}", tmp_path / f"logits-{at}.npy"
        assert run_and_kill(partial(train, folder, output), folder, at) is None
        assert run_and_kill(partial(train, folder, output), folder) is not None
        assert np.array_equal(np.load(output), expected), at
