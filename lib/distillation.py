"""A teacher: another arm's finished run, whose scores a smaller and faster model learns from."""

import gc
import hashlib
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import yaml
from datasets import Dataset

from lib.classifier import load_classifier
from lib.labels import DENSE_LABELS, LabelSpace
from lib.params import NOTEBOOK_PARAMS, FinetuneParams
from lib.significance import AVERAGES, bootstrap_f1
from lib.validation import ParamsError

TEACHER_WEIGHT = 0.5  # against 1 - 0.5 of the labels (chosen here)
CHUNK = 4096  # documents scored at once, as in `Classifier.predict_stream`


def check_teacher(
    folder: Path, label_space: LabelSpace, *, data_fingerprint: str, multi_label: bool
) -> str:
    """A fingerprint of what the run in `folder` predicts, for `lib.results.open_run`.

    Raises
    ------
    ParamsError
        It has not run, saves no model, or has seen other documents or labels; or there are more
        labels than dense arrays of probabilities are made for.
    """
    if label_space.sparse:
        raise ParamsError(
            f"teacher: its probabilities of {len(label_space):,} labels do not fit, "
            f"{DENSE_LABELS:,} is the most; set a coarser label_level or a min_support"
        )
    if not (folder / "metrics.json").exists():
        raise ParamsError(
            f"teacher: {folder} holds no finished run (no metrics.json); run that arm with this "
            "seed first"
        )
    ran = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    if not issubclass(NOTEBOOK_PARAMS[ran["notebook"]], FinetuneParams):
        raise ParamsError(
            f"teacher: {folder}: {ran['notebook']} saves no model; name a fine-tuned arm"
        )
    if ran.get("num_examples"):
        raise ParamsError(f"teacher: {folder}: examples in prompts (num_examples) are not kept")
    same_kind = (ran["label_mode"] == "multi") == multi_label
    if ran.get("data_fingerprint") != data_fingerprint or not same_kind:
        raise ParamsError(
            f"teacher: {folder} has seen other documents or labels than this run; run it again"
        )
    return hashlib.sha256((folder / "predictions.parquet").read_bytes()).hexdigest()[:16]


def soft_targets(
    folder: Path, documents: Dataset, label_space: LabelSpace, *, file: Path
) -> tuple[np.ndarray, float]:
    """What a student learns: the mean of documents' labels and a teacher's probabilities.

    With w = `TEACHER_WEIGHT`, the cross-entropy with (1 - w) labels + w probabilities is the
    weighted mean of the two cross-entropies (arXiv 1503.02531, section 2, at temperature 1, where
    their gradients have one scale). For label sets it is so label by label.

    Parameters
    ----------
    folder
        The teacher's run, which `check_teacher` has accepted; its model is freed before the return.
    documents
        `text` str and `labels` list[str] of N training documents.
    file
        Where targets are kept, a chunk of documents after the other: no more stand in memory.

    Returns
    -------
    targets
        (N, C) float32 in [0, 1], memory-mapped, in label order.
    seconds
        That the teacher took to score the documents; loading it is left out, as in every run.
    """
    with torch.random.fork_rng():  # the student's head starts where it would without a teacher
        teacher = load_classifier(folder)
    file.parent.mkdir(parents=True, exist_ok=True)
    shape = (len(documents), len(label_space))
    targets = np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=shape)
    start = time.perf_counter()
    for first in range(0, len(documents), CHUNK):
        rows = documents[first : first + CHUNK]
        probs = teacher.predict_scores(rows["text"])
        labels = label_space.encode(rows["labels"])
        part = TEACHER_WEIGHT * probs + (1 - TEACHER_WEIGHT) * labels
        targets[first : first + CHUNK] = part
    targets.flush()
    seconds = time.perf_counter() - start
    del teacher
    gc.collect()
    torch.cuda.empty_cache()
    return targets, seconds


def distillation(
    runs: pd.DataFrame,
    y_true: np.ndarray,
    y_preds: Mapping[str, np.ndarray],
    *,
    num_resamples: int = 5000,
) -> pd.DataFrame:
    """What students keep of their teachers and what that costs, a row for each student.

    Parameters
    ----------
    runs
        See `lib.results.read_runs`; a student whose teacher is not among them has no row.
    y_true, y_preds
        (N, C) bool, and for each arm (S, N, C) bool over its seeds, as `compare_runs` returns them.

    Returns
    -------
    DataFrame
        `student`, `teacher`; `micro_f1_kept` and `macro_f1_kept`, the student's mean F1 over the
        teacher's, each with a 95 % percentile interval, `_low` and `_high`, over the same resampled
        documents and seeds for both; `speedup`, of documents/s at inference; `params_share`, the
        student's parameters over the teacher's; `train_seconds`, in which the teacher has scored
        the documents, and `train_seconds_with_teacher`, with its own training.
    """
    columns = [*AVERAGES, "infer_docs_per_second", "total_params", "train_seconds"]
    means = runs.groupby("arm")[columns].mean()
    teachers = {run["arm"]: run["params"].get("teacher") for _, run in runs.iterrows()}
    rows = []
    for student, teacher in teachers.items():
        if teacher not in means.index:
            continue
        ours, theirs = means.loc[student], means.loc[teacher]
        row = {"student": student, "teacher": teacher}
        for average in AVERAGES:
            name, options = f"{average}_kept", {"average": average, "num_resamples": num_resamples}
            samples = [bootstrap_f1(y_true, y_preds[arm], **options) for arm in (student, teacher)]
            low, high = np.quantile(samples[0] / samples[1], [0.025, 0.975])
            row[name] = ours[average] / theirs[average]
            row |= {f"{name}_low": low, f"{name}_high": high}
        row["speedup"] = ours["infer_docs_per_second"] / theirs["infer_docs_per_second"]
        row["params_share"] = ours["total_params"] / theirs["total_params"]
        row["train_seconds"] = ours["train_seconds"]
        row["train_seconds_with_teacher"] = ours["train_seconds"] + theirs["train_seconds"]
        rows.append(row)
    return pd.DataFrame(rows)
