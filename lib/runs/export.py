"""A finished embedding run as a plain transformers model."""

import copy
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel
from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from lib.config.arms import EmbeddingParams
from lib.data.labels import LabelSpace
from lib.errors import InputError
from lib.evaluation.scores import Scores
from lib.head.model import predict_logits
from lib.machine import choose_dtype
from lib.model.load import load_tokenizer
from lib.model.tokens import encode_documents
from lib.runs.classifier import read_run
from lib.runs.models import load_arm_model
from lib.storage import atomic_path

TOLERANCE = 0.02  # of the largest logit: bfloat16 keeps 8 bits (our choice)

# transformers' decoders classify the last token's state with a linear layer that has no bias.
EXPORTABLE = {
    "pooling": "last",
    "head": "linear",
    "head_bias": False,
    "bidirectional": False,
    "windows": 1,
}


def export_classifier(run_dir: str | Path, folder: str | Path) -> None:
    """Write an embedding run as a plain transformers model, its adapters merged.

    `AutoModelForSequenceClassification` and `pipeline("text-classification")` load the folder, with
    neither this package nor peft. Called with `truncation=True`, the pipeline reads the run's
    `max_length` tokens of a text. A tuned threshold for label sets stays with the run.

    Raises
    ------
    InputError
        The folder is not empty, the run is not `EXPORTABLE`, or the exported model's logits differ
        from the run's own, which are compared before anything is kept.
    """
    run_dir, folder = Path(run_dir), Path(folder)
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise InputError(f"{folder}: something is there already; name a new folder")
    params, label_space = read_run(run_dir)
    if not isinstance(params, EmbeddingParams):
        raise InputError(f"{run_dir}: only runs of 03_finetune_embedding can be exported")
    differing = {k: v for k in EXPORTABLE if (v := getattr(params, k)) != EXPORTABLE[k]}
    if differing:
        raise InputError(f"{run_dir}: cannot be exported with {differing}; it takes {EXPORTABLE}")
    # Logits of the run on texts of its labels, before its adapters are merged.
    cpu = torch.device("cpu")
    options = {"device": cpu, "dtype": choose_dtype(cpu, params.dtype), "unpack": True}
    model = load_arm_model(params, label_space, trained=run_dir / "model", **options)
    tokenizer = load_tokenizer(params.model_id, params.model_revision)
    samples = encode_documents(
        tokenizer, label_space.texts, max_length=params.max_length, add_special_tokens=True
    )
    expected = predict_logits(model, samples, token_budget=params.token_budget)
    # The same model as transformers builds it, and its logits.
    exported = _plain_model(model, label_space, multi_label=params.multi_label)
    if exported is None:
        raise InputError(f"{run_dir}: transformers' head for {params.model_id} has another form")
    gap = _largest_gap(exported, samples, expected)
    if gap > TOLERANCE * np.abs(expected.values).max():
        raise InputError(f"{run_dir}: exported logits differ from the run's by up to {gap:.3g}")
    # A tokenizer that reads as in training: special tokens in a text are text, and length is cut.
    tokenizer.split_special_tokens = True
    tokenizer.init_kwargs["split_special_tokens"] = True  # only these are saved
    tokenizer.model_max_length = params.max_length + tokenizer.num_special_tokens_to_add()
    with atomic_path(folder) as path:
        exported.save_pretrained(path)
        tokenizer.save_pretrained(path)
        if (card := run_dir / "model" / "README.md").exists():  # earlier versions wrote none
            shutil.copy(card, path)


def _plain_model(
    model: nn.Module, label_space: LabelSpace, *, multi_label: bool
) -> PreTrainedModel | None:
    """The model with merged weights; None if transformers classifies with another kind of head."""
    if isinstance(model, PeftModel):
        model = model.merge_and_unload()
    config = copy.deepcopy(model.config)
    config.update(
        {
            "num_labels": len(label_space),
            "id2label": dict(enumerate(label_space.names)),
            "label2id": {name: i for i, name in enumerate(label_space.names)},
            "problem_type": f"{'multi' if multi_label else 'single'}_label_classification",
        }
    )
    exported = AutoModelForSequenceClassification.from_config(
        config, dtype=model.backbone.dtype, trust_remote_code=False
    )
    if not hasattr(exported, "score"):
        return None
    exported.set_attn_implementation("sdpa")
    exported.base_model.load_state_dict(model.backbone.state_dict())
    exported.score.weight = nn.Parameter(model.head.classifier.weight.to(exported.dtype))
    return exported.eval()


def _largest_gap(
    exported: PreTrainedModel, samples: Sequence[Sequence[int]], expected: Scores
) -> float:
    """Largest difference from the expected logits; of many labels, only the best are kept there."""
    logits = np.array([exported(torch.tensor([ids])).logits[0].tolist() for ids in samples])
    kept = np.take_along_axis(logits, expected.columns, axis=1)
    return float(np.abs(kept - expected.values).max())
