"""A finished embedding run as a plain transformers model."""

import copy
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel
from torch import nn
from transformers import AutoModelForSequenceClassification

from lib.config.arms import EmbeddingParams
from lib.head.model import predict_logits
from lib.machine import choose_dtype
from lib.model.load import load_tokenizer
from lib.model.tokens import encode_documents
from lib.runs.classifier import read_run
from lib.runs.models import load_arm_model
from lib.storage import atomic_path

TOLERANCE = 0.02  # of the largest logit: bfloat16 keeps 8 bits (chosen here)


def export_classifier(run_dir: str | Path, folder: str | Path) -> None:
    """Write an embedding run as a plain transformers model, its adapters merged.

    `AutoModelForSequenceClassification` and `pipeline("text-classification")` load the folder, with
    neither this package nor peft; called with `truncation=True`, the pipeline reads the run's
    `max_length` tokens of a text. A tuned threshold for label sets stays with the run. Merging is
    into dequantized weights, and before anything is kept the exported model's logits are compared
    with the run's own.

    Raises
    ------
    ValueError
        transformers has no such model: its decoders classify the last token's state with a linear
        layer that has no bias. Or the logits differ, or something stands in the folder.
    """
    if Path(folder).is_file() or (Path(folder).is_dir() and any(Path(folder).iterdir())):
        raise ValueError(f"{folder}: something stands there already; name a new folder")
    params, label_space = read_run(Path(run_dir))
    wanted = {"pooling": "last", "head": "linear", "head_bias": False}
    wanted |= {"bidirectional": False}
    if not isinstance(params, EmbeddingParams):
        raise ValueError(f"{run_dir}: only runs of 03_finetune_embedding can be exported")
    if other := {k: getattr(params, k) for k, v in wanted.items() if getattr(params, k) != v}:
        raise ValueError(f"{run_dir}: cannot be exported with {other}; it takes {wanted}")
    cpu = torch.device("cpu")
    tokenizer = load_tokenizer(params.model_id)
    model = load_arm_model(
        params,
        label_space,
        device=cpu,
        dtype=choose_dtype(cpu, params.dtype),
        trained=Path(run_dir) / "model",
        unpack=True,
    )
    samples = encode_documents(
        tokenizer, label_space.texts, max_length=params.max_length, add_special_tokens=True
    )
    expected = predict_logits(model, samples, token_budget=params.token_budget)
    if isinstance(model, PeftModel):
        model = model.merge_and_unload()
    config = copy.deepcopy(model.config)
    config.update(
        {
            "num_labels": len(label_space),
            "id2label": dict(enumerate(label_space.names)),
            "label2id": {name: i for i, name in enumerate(label_space.names)},
            "problem_type": f"{'multi' if params.multi_label else 'single'}_label_classification",
        }
    )
    exported = AutoModelForSequenceClassification.from_config(config, dtype=model.backbone.dtype)
    if not hasattr(exported, "score"):
        raise ValueError(f"{run_dir}: {type(exported).__name__} has a head of another form")
    exported.set_attn_implementation("sdpa")
    exported.base_model.load_state_dict(model.backbone.state_dict())
    exported.score.weight = nn.Parameter(model.head.classifier.weight.to(exported.dtype))
    logits = [exported.eval()(torch.tensor([d])).logits[0].tolist() for d in samples]
    logits = np.take_along_axis(np.array(logits), expected.columns, axis=1)  # of many, the best
    gap = np.abs(logits - expected.values).max()
    if gap > TOLERANCE * np.abs(expected.values).max():
        raise ValueError(f"{run_dir}: exported logits differ from the run's by up to {gap:.3g}")
    tokenizer.split_special_tokens = True  # what a text says is text
    tokenizer.init_kwargs["split_special_tokens"] = True  # only these are saved
    tokenizer.model_max_length = params.max_length + tokenizer.num_special_tokens_to_add()
    with atomic_path(Path(folder)) as path:
        exported.save_pretrained(path)
        tokenizer.save_pretrained(path)
