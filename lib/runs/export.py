"""A finished run as a folder that other software serves, without this package and without peft.

transformers            `pipeline("text-classification")`: a head that one of its classes has
sentence-transformers   any other head: modules whose output is the logits
causal LM               the model that answers the prompt

Adapters are merged. `labels.json` names the labels in the order of the scores, and README.md is the
run's model card. What was written is loaded again and compared with the run before it is kept.
"""

import json
from pathlib import Path

import numpy as np
import torch
from huggingface_hub import ModelCard
from scipy.sparse import csr_array
from transformers.utils import logging as transformers_logging

from lib.config.arms import BaselineParams, EmbeddingParams, InstructionParams, StudyParams
from lib.data.labels import LabelSpace
from lib.errors import InputError
from lib.evaluation.intervals import f1_intervals
from lib.model.weights import load_tokenizer
from lib.runs.card import CONFIDENCE, LOADING, RESULTS, SCORES
from lib.runs.classifier import read_run
from lib.runs.export_head import POOLINGS, export_head
from lib.runs.export_prompt import export_prompt
from lib.runs.finished import read_predictions, read_threshold
from lib.runs.models import load_arm_model
from lib.runs.record import CARD
from lib.storage import atomic_path

TOLERANCE = 1e-3  # of the largest score, in float32 (our choice)
NUM_SAMPLES = 20  # labels whose texts are compared (our choice)


def export_run(run_dir: str | Path, folder: str | Path) -> None:
    """Write a run of notebook 03 or 04 as a folder in one of the forms above.

    Raises `InputError` if the folder is not empty, the run is not whole or has a part that no form
    holds, or the written model answers otherwise than the run. Nothing is kept then.
    """
    run_dir, folder = Path(run_dir), Path(folder)
    if not folder.name or folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise InputError(f"{folder}: something is there already; name a new folder")
    params, label_space = read_run(run_dir)
    if obstacle := _obstacle(params):
        raise InputError(f"{run_dir}: cannot be exported: {obstacle}")
    transformers_logging.disable_progress_bar()
    # On the CPU, whose arithmetic every machine has, and with 4-bit weights unpacked. In bfloat16
    # a merged weight keeps 8 bits, fewer than many changes by the adapters need.
    cpu, dtype = torch.device("cpu"), torch.float32
    options = {"device": cpu, "dtype": dtype, "trained": run_dir / "model", "unpack": True}
    model = load_arm_model(params, label_space, **options)
    tokenizer = load_tokenizer(params.model_id, params.model_revision)
    texts = _sample_texts(label_space, params.max_length)
    labels = {
        "labels": label_space.names,
        "multi_label": params.multi_label,
        "threshold": read_threshold(run_dir),
        "may_be_empty": label_space.may_be_empty,
    }
    with atomic_path(folder) as path:
        path.mkdir()
        parts = (path, model, tokenizer, label_space, params)
        if isinstance(params, EmbeddingParams):
            library, usage, found, expected = export_head(*parts, texts=texts)
        else:
            usage, asked, found, expected = export_prompt(*parts, texts=texts, dtype=dtype)
            library, labels = "transformers", labels | asked
        _require_equal(found, expected, run_dir)
        (path / "labels.json").write_text(json.dumps(labels, indent=1) + "\n", encoding="utf-8")
        usage = usage.replace("{folder}", folder.name)
        _write_card(run_dir, path, label_space, library, usage)


def _obstacle(params: StudyParams) -> str:
    """The part of a run that no form holds, with the remedy; "" if there is none."""
    if isinstance(params, BaselineParams):
        return f"{params.method!r} trains no language model; apply it with `python -m lib predict`"
    if params.windows > 1:
        return (
            f"it reads {params.windows} windows of a text, others read one; train with windows: 1"
        )
    if isinstance(params, InstructionParams):
        return "" if params.num_epochs else f"nothing was trained; serve {params.model_id} itself"
    if params.bidirectional:
        return "no other software has its attention; train with bidirectional: false"
    if params.pooling not in POOLINGS:
        return f"no other software pools by {params.pooling!r}; use one of {', '.join(POOLINGS)}"
    return ""


def _sample_texts(label_space: LabelSpace, max_length: int) -> list[str]:
    """Texts to compare answers on: those of some labels, and one that is cut when it is read."""
    texts = list(label_space.texts[:NUM_SAMPLES])
    return [*texts, " ".join(texts * (1 + max_length // len(texts)))]


def _require_equal(found: np.ndarray, expected: np.ndarray, run_dir: Path) -> None:
    """Raise `InputError` if scores differ by more than `TOLERANCE` of the largest one."""
    gap = float(np.abs(found - expected).max())
    if not gap <= TOLERANCE * np.abs(expected).max():  # NaN too
        raise InputError(f"{run_dir}: exported scores differ from the run's by up to {gap:.3g}")


def _write_card(run_dir: Path, folder: Path, labels: LabelSpace, library: str, usage: str) -> None:
    """Write the run's card with intervals of F1 and `usage`; what a user added before stays."""
    file = run_dir / CARD
    card = ModelCard.load(file) if file.exists() else ModelCard("---\n---\n\n# An exported model\n")
    test = read_predictions(run_dir)
    truth, answers = (csr_array(labels.encode(test[c])).toarray() for c in ("y_true", "y_pred"))
    groups = test["group"].to_numpy() if "group" in test else None
    row = f1_intervals(truth, {"arm": answers[None]}, groups=groups).iloc[0]
    ends = {name: (row[f"{key}_low"], row[f"{key}_high"]) for name, key in SCORES.items()}

    before, _, rest = card.text.partition(RESULTS)
    results, _, after = rest.partition(CONFIDENCE)
    for name, (low, high) in ends.items():
        results = results.replace(f"| {name} |", f"| {name}, {low:.3f} to {high:.3f} |")
    results = results.replace("| score |", "| score, 95 % interval |").rstrip()
    units = "test documents" if groups is None else "groups of test documents"
    units += ", for this one trained model: another seed would score otherwise"
    results += f"\n\nIntervals are over {units}.\n\n"
    whole = f"{before}{RESULTS}{results}{CONFIDENCE}{after}" if after else card.text
    for result in card.data.eval_results or []:
        if result.metric_name in ends:
            low, high = ends[result.metric_name]
            result.metric_name += f" (95 % interval {low:.3f} to {high:.3f})"

    card.data.library_name = library
    card.text = f"{whole.partition(LOADING)[0].rstrip()}\n\n{LOADING}\n\n{usage}\n"
    card.save(folder / Path(CARD).name)
