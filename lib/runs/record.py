"""Files of a run: written whole or not at all; `lib.runs.finished` reads them."""

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from datasets import DatasetDict

from lib.config.arms import StudyParams
from lib.config.choices import TRACKERS
from lib.config.strict_yaml import load_yaml
from lib.data.labels import LabelSpace
from lib.data.version import HELD_OUT, dataset_version, hash_documents
from lib.evaluation.metrics import run_metrics
from lib.evaluation.scores import Scores
from lib.fingerprints import code_fingerprint, modules_behind
from lib.machine import GIB
from lib.model.weights import model_fingerprint
from lib.runs.reading import reads_all
from lib.storage import CHECKSUMS, UNFINISHED, atomic_path, remove, write_checksums, write_json

INPUTS = ("data_version", "model_fingerprint", "data_fingerprint", "held_out_fingerprint",
          "code_fingerprint", "teacher_fingerprint")  # fmt: skip
RESOURCE_KEYS = (
    "trainable_params", "total_params", "train_seconds", "train_docs_per_second",
    "train_tokens_per_second", "infer_docs_per_second", "peak_memory_gib", "model_memory_gib",
    "device", "num_threads", "dtype", "quantization",
)  # fmt: skip
# Parameters that decide nothing that is learnt: an interrupted run resumes though they differ.
UNLEARNT = ("params_dir", "runs_dir", "figures_dir", "report_to", "num_processes")
CHOSEN = "chosen.json"  # the values that a search has found
CARD = "model/README.md"  # has no checksum, because people may edit it
# Files beside the model that are read back: those of every finished run, and those of some.
FILES = ("metrics.json", "params.yaml", "labels.json", "train_counts.json", "resources.json",
         "predictions.parquet", "history.parquet")  # fmt: skip
SOME_FILES = (CHOSEN, "sweep.csv", "rungs.csv", "search.csv")
# Null in runs of an earlier version; energy also where the machine has no counter of it.
OPTIONAL_RESOURCES = (
    "model_disk_gib", "train_joules", "infer_joules_per_doc", "nf4_share",
    "test_cut_share",  # of the test documents that the arm does not read to their end
    "train_documents",
)  # fmt: skip


def open_run(params: StudyParams, **inputs: str) -> Path:
    """The run's folder with `params.yaml`: the resolved parameters and `describe_inputs`.

    Checkpoints and trackers' logs of an interrupted run with the same parameters and inputs stay,
    also where the folder has been moved; all other results of an earlier run are removed.
    """
    folder = params.run_dir
    values, file = params.model_dump() | inputs, folder / "params.yaml"
    finished = (folder / "metrics.json").exists()
    if finished or _learnt(_values_of(file)) != _learnt(values):
        for name in ("checkpoints", *TRACKERS):
            shutil.rmtree(folder / name, ignore_errors=True)
    (folder / "metrics.json").unlink(missing_ok=True)  # first: from here on nothing is finished
    shutil.rmtree(folder / "model", ignore_errors=True)
    for name in {*FILES, *SOME_FILES, CHECKSUMS} - {file.name}:
        (folder / name).unlink(missing_ok=True)
    # Temporary files of a run that was killed.
    for left in (*folder.glob(f"{UNFINISHED}*"), *folder.glob("tmp*")):
        remove(left)
    with atomic_path(file) as path:
        path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return folder


def _values_of(file: Path) -> dict[str, Any]:
    """Values of a file of parameters; none of one that is missing or damaged."""
    try:
        values = load_yaml(file, yaml.SafeLoader)
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return values if isinstance(values, dict) else {}


def _learnt(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that decide what is learnt; folders change where a run is moved."""
    return {name: value for name, value in values.items() if name not in UNLEARNT}


def write_run(
    folder: Path,
    *,
    splits: DatasetDict,
    label_space: LabelSpace,
    preds: Mapping[str, list[list[str]]],
    scores: Mapping[str, Scores],
    multi_label: bool,
    probabilities: bool,
    threshold: float | None = None,
    resources: Mapping[str, Any],
    history: pd.DataFrame | None = None,
) -> dict[str, float | int | None]:
    """Write a run's predictions, history, resources and, last, its metrics; returns the metrics.

    Parameters
    ----------
    preds, scores
        For "validation" and "test": the label list and the scores of each document of `splits`.
    multi_label, probabilities, threshold
        See `run_metrics`.
    resources
        A value for every key of `RESOURCE_KEYS`, and for any of `OPTIONAL_RESOURCES`; other keys
        are a `ValueError`.
    """
    if missing := set(RESOURCE_KEYS) ^ set(resources) - set(OPTIONAL_RESOURCES):
        raise ValueError(f"resources: missing or unknown keys {sorted(missing)}")
    frames = []
    for split in ("validation", "test"):
        documents = splits[split]
        answers = {"y_true": list(documents["labels"]), "y_pred": preds[split]}
        columns = {"id": documents["id"], "split": split} | answers | scores[split].to_rows()
        group = {"group": documents["group"]} if "group" in documents.column_names else {}
        frames.append(pd.DataFrame(columns | group))
    metrics = run_metrics(
        label_space.encode(splits["test"]["labels"]),
        label_space.encode(preds["test"]),
        scores["test"],
        outside=label_space.outside(preds["test"]),
        multi_label=multi_label,
        probabilities=probabilities,
        threshold=threshold,
    )
    with atomic_path(folder / "predictions.parquet") as path:
        # Scores are mostly distinct numbers, which a dictionary makes larger.
        table = pd.concat(frames, ignore_index=True)
        table.to_parquet(path, compression="zstd", use_dictionary=False)
    with atomic_path(folder / "history.parquet") as path:
        (pd.DataFrame({"step": []}) if history is None else history).to_parquet(path)
    called = dict(zip(label_space.names, label_space.texts, strict=True))
    none = {"": label_space.none} if label_space.none else {}
    write_json(folder / "labels.json", called | none)
    counts = count_labels(splits["train"]["labels"], label_space).tolist()
    write_json(folder / "train_counts.json", dict(zip(label_space.names, counts, strict=True)))
    known = {key: None if pd.isna(value) else value for key, value in resources.items()}
    write_json(folder / "resources.json", dict.fromkeys(OPTIONAL_RESOURCES) | known)
    # Metrics last, in the manifest already: with them the run is finished, and the manifest there.
    with atomic_path(folder / "metrics.json") as path:
        path.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
        files = {name: folder / name for name in (*FILES, *SOME_FILES, *model_files(folder))}
        files = {name: file for name, file in files.items() if file.is_file()}
        write_checksums(folder, files | {"metrics.json": path})
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return metrics


def count_labels(labels: Iterable[Sequence[str]], label_space: LabelSpace) -> np.ndarray:
    """Number of documents of each label, (C,) int64, from the label list of each document."""
    indices = chain.from_iterable(label_space.indices(labels))
    return np.bincount(np.fromiter(indices, dtype=int), minlength=len(label_space))


def model_files(folder: Path) -> list[str]:
    """Paths within the run's folder of the files of its model, without hidden ones and the card."""
    paths = [path for path in sorted((folder / "model").rglob("*")) if not path.is_dir()]
    names = [path.relative_to(folder).as_posix() for path in paths]
    return [name for name in names if name != CARD and "/." not in name]


def saved_gib(folder: Path) -> float | None:
    """GiB on disk of the model that a run has saved; None if it has saved none."""
    files = (folder / "model").rglob("*")
    saved = [file.stat().st_size for file in files if file.is_file()]
    return sum(saved) / GIB if saved else None


def describe_inputs(params: StudyParams, splits: DatasetDict) -> dict[str, str]:
    """Version of the data, fingerprints of weights, documents and code: what a run depends on."""
    modules = modules_behind(notebook=params.notebook)
    model = (params.model_id, params.model_revision)
    return {
        "data_version": dataset_version(params),
        "model_fingerprint": "none" if reads_all(params) else model_fingerprint(*model),
        "data_fingerprint": hash_documents(params, splits),
        "held_out_fingerprint": hash_documents(params, splits, HELD_OUT),
        "code_fingerprint": code_fingerprint(*modules, notebook=params.notebook),
    }
