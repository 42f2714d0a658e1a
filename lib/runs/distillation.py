"""A teacher: another arm's finished run, whose scores a smaller and faster model learns from."""

import gc
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset

from lib.config.arms import NOTEBOOK_PARAMS, FinetuneParams
from lib.config.choices import SET_THRESHOLDS
from lib.data.labels import DENSE_LABELS, LabelSpace
from lib.errors import InputError, ParamsError
from lib.machine import Cost, meter
from lib.runs.classifier import load_classifier
from lib.runs.finished import read_params, require_whole
from lib.storage import checksum

TEACHER_WEIGHT = 0.5  # of the teacher's probabilities; the labels have the rest (our choice)
CHUNK = 4096  # documents scored at once (our choice)


def check_teacher(
    folder: Path, label_space: LabelSpace, *, data_fingerprint: str, multi_label: bool
) -> str:
    """A fingerprint of the predictions of the teacher, the run in `folder`.

    It is one of a student's inputs (`lib.runs.record.open_run`): with another teacher, an
    interrupted student begins anew.

    Raises `ParamsError` if the run is not finished or was changed since, is no fine-tuned arm,
    shows examples in its prompts, gives no probability of each label, or has seen other documents
    or labels; or if there are more labels than `DENSE_LABELS`.
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
    try:
        require_whole(folder)
    except InputError as error:
        raise ParamsError(f"teacher: {error}") from None
    ran = read_params(folder)
    if str(ran.get("notebook")) not in NOTEBOOK_PARAMS:
        raise ParamsError(
            f"teacher: {folder}/params.yaml: names no notebook of this version; run the arm again"
        )
    if not issubclass(NOTEBOOK_PARAMS[ran["notebook"]], FinetuneParams):
        raise ParamsError(f"teacher: {folder}: {ran['notebook']} is no fine-tuned arm")
    if ran.get("num_examples"):
        raise ParamsError(
            f"teacher: {folder}: examples in its prompts (num_examples) would show it the answers "
            "of documents that it teaches; name another arm"
        )
    if multi_label and ran.get("decoding", SET_THRESHOLDS[0]) not in SET_THRESHOLDS:
        raise ParamsError(
            f"teacher: {folder}: its decoding {ran['decoding']!r} gives no probability of each "
            f"label; run it with one of {', '.join(SET_THRESHOLDS)}"
        )
    same_kind = (ran.get("label_mode") == "multi") == multi_label
    if ran.get("data_fingerprint") != data_fingerprint or not same_kind:
        raise ParamsError(
            f"teacher: {folder} has seen other documents or labels than this run; run it again"
        )
    return checksum(folder / "predictions.parquet")[:16]


def soft_targets(
    folder: Path,
    documents: Dataset,
    label_space: LabelSpace,
    *,
    file: Path,
    device: torch.device,
) -> tuple[np.ndarray, Cost]:
    """Targets of a student: the mean of documents' labels and a teacher's probabilities.

    With w = `TEACHER_WEIGHT`, the cross-entropy with (1 - w) labels + w probabilities is the
    weighted mean of the two cross-entropies (arXiv 1503.02531, section 2). The temperature is 1,
    at which both gradients have the same scale. For label sets the mean is taken label by label.

    Parameters
    ----------
    documents
        `text` str and `labels` list[str] of N training documents.
    device
        Device whose energy counts.

    Returns
    -------
    targets, cost
        (N, C) float32 in [0, 1], in label order, memory-mapped from `file`; and the cost of scoring
        the documents. Loading the teacher does not count, as loading a model counts in no run.
    """
    with torch.random.fork_rng():  # the student's head starts where it would without a teacher
        teacher = load_classifier(folder, every_label=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    shape = (len(documents), len(label_space))
    targets = np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=shape)
    start = meter(device)
    for first in range(0, len(documents), CHUNK):
        chunk = slice(first, first + CHUNK)
        rows = documents[chunk]
        probs = teacher.predict_scores(rows["text"]).values
        labels = label_space.encode(rows["labels"])
        targets[chunk] = TEACHER_WEIGHT * probs + (1 - TEACHER_WEIGHT) * labels
    targets.flush()
    spent = meter(device) - start
    del teacher
    gc.collect()
    torch.cuda.empty_cache()
    return targets, spent
