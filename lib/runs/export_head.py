"""A trained head as a transformers classifier or as modules of sentence-transformers."""

import copy
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from safetensors.torch import save_file
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from lib.config.arms import EmbeddingParams
from lib.data.labels import LabelSpace
from lib.head.classifiers import MLPHead
from lib.head.model import EmbeddingModel, predict_logits
from lib.runs.models import require_same_reading, save_tokenizer
from lib.runs.reading import encode, window_tokens

SMALL = 2.0**-12  # tanh(x SMALL) / SMALL is x within 1e-5 of it, for states up to 20 (our choice)

# Our poolings as sentence-transformers calls them; it has none for "attention".
POOLINGS = {
    "last": "lasttoken",
    "cls": "cls_token",
    "mean": "mean_tokens",
    "weighted_mean": "weightedmean_tokens",
    "max": "max_tokens",
}

LOAD_TRANSFORMERS = """\
```python
from transformers import pipeline  # no other library is needed

classify = pipeline("text-classification", model="{folder}")
answers = classify(["a text"], truncation=True, top_k=None)  # {scores}
```

Strip spaces around a text. Without `truncation` the model reads more of it than in training."""

LOAD_MODULES = """\
```python
import json
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("{folder}")
labels = json.load(open("{folder}/labels.json"))["labels"]
logits = model.encode(["a text"], convert_to_tensor=True)
probs = logits.float().{activation}  # {scores}, in the order of the labels
```

Strip spaces around a text. It is cut where it was in training."""


def export_head(
    path: Path,
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    label_space: LabelSpace,
    params: EmbeddingParams,
    *,
    texts: Sequence[str],
) -> tuple[str, str, np.ndarray, np.ndarray]:
    """Write a model with a head into the folder `path`, its adapters merged.

    Returns the name of the library that loads it, Markdown on how, and two arrays of logits of the
    N texts, (N, C) float32: by the model that was written, and by the run's. Of very many labels
    they have only the K best of each text, (N, K).

    Raises `InputError` if the tokenizer that was written reads texts otherwise than the run's.
    """
    # Logits of the run, before its adapters are merged.
    ids = encode(params, tokenizer, texts)
    expected = predict_logits(model, ids, token_budget=params.token_budget)
    if isinstance(model, PeftModel):
        model = model.merge_and_unload()
    # A tokenizer that reads as in training: special tokens in a text are text, and length is cut.
    tokenizer.split_special_tokens = True
    tokenizer.init_kwargs["split_special_tokens"] = True  # only these are saved
    frame = tokenizer.num_special_tokens_to_add()
    tokenizer.model_max_length = window_tokens(params, tokenizer) + frame
    tokenizer.padding_side = "right"
    tokenizer.chat_template = None  # sentence-transformers would put every text into a chat
    # The form, written and read again.
    plain = _plain_model(model, label_space, params)
    if plain is not None:
        library, usage = "transformers", LOAD_TRANSFORMERS
        plain.save_pretrained(path)
        save_tokenizer(tokenizer, path)
        logits = _plain_logits(path, texts)
    else:
        library, usage = "sentence-transformers", LOAD_MODULES
        _save_modules(path, model, tokenizer, params)
        logits = _module_logits(path, texts)
    written = AutoTokenizer.from_pretrained(path)
    require_same_reading(
        lambda some: written(some, truncation=True).input_ids,
        partial(encode, params, tokenizer),
        tokenizer,
        texts,
    )
    if params.multi_label:
        activation, kind = "sigmoid()", "probabilities, one per label"
    else:
        activation, kind = "softmax(-1)", "probabilities that add up to 1"
    usage = usage.replace("{activation}", activation).replace("{scores}", kind)
    # Of very many labels the run keeps each text's best, which alone are compared.
    found = np.take_along_axis(logits, expected.columns, axis=1)
    return library, usage, found, expected.values


def _plain_model(
    model: EmbeddingModel, label_space: LabelSpace, params: EmbeddingParams
) -> PreTrainedModel | None:
    """The model as transformers' classifier for its kind; None if that has another kind of head.

    Decoders' classifiers have a linear layer without bias on the last token's state. BERT's has
    one with a bias on tanh(dense(state)) of the first token: a head of ours with a hidden layer,
    or a linear one, where the dense layer makes states so small that tanh leaves them as they are.
    """
    config = copy.deepcopy(model.config)
    config.id2label = dict(enumerate(label_space.names))
    config.label2id = {name: i for i, name in config.id2label.items()}
    config.problem_type = f"{params.label_mode}_label_classification"
    try:
        exported = AutoModelForSequenceClassification.from_config(
            config, dtype=model.backbone.dtype, trust_remote_code=False
        )
    except ValueError:  # transformers has no such class for this kind of model
        return None
    ours, hidden = model.head.classifier, isinstance(model.head.classifier, MLPHead)
    parts: dict[nn.Module, tuple[torch.Tensor, torch.Tensor | None]] = {}
    if params.pooling == "cls" and type(exported) is BertForSequenceClassification:
        eye = SMALL * torch.eye(config.hidden_size)
        pooler = (ours.dense.weight, ours.dense.bias) if hidden else (eye, None)
        scale = 1 if hidden else 1 / SMALL
        parts = {exported.bert.pooler.dense: pooler}
        parts[exported.classifier] = (scale * ours.weight, ours.bias)
    elif params.pooling == "last" and not hidden and hasattr(exported, "score"):
        parts = {exported.score: (ours.weight, ours.bias)}
    fits = all(bias is None or layer.bias is not None for layer, (_, bias) in parts.items())
    if not parts or not fits:
        return None
    exported.base_model.load_state_dict(model.backbone.state_dict())
    with torch.no_grad():
        for layer, (weight, bias) in parts.items():
            layer.weight.copy_(weight)
            if layer.bias is not None:
                layer.bias.copy_(torch.zeros_like(layer.bias) if bias is None else bias)
    return exported.eval()


def _plain_logits(path: Path, texts: Sequence[str]) -> np.ndarray:
    """(N, C) float32 logits of N texts by the model of a folder."""
    model = AutoModelForSequenceClassification.from_pretrained(path, dtype="auto")
    inputs = AutoTokenizer.from_pretrained(path)(
        texts, truncation=True, padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        return model(**inputs).logits.float().numpy()


def _save_modules(
    path: Path, model: EmbeddingModel, tokenizer: PreTrainedTokenizerBase, params: EmbeddingParams
) -> None:
    """Write a model as modules of sentence-transformers, one after another.

    The layout is that of its releases before 5.4, which later ones and vLLM read too:

        modules.json                    the order of the modules
        config.json model.safetensors   the backbone, with its tokenizer
        sentence_bert_config.json       the most tokens that are read
        1_Pooling/config.json
        2_Dense/ 3_Dense/               config.json model.safetensors: the head's layers
    """
    model.backbone.save_pretrained(path)
    save_tokenizer(tokenizer, path)
    read = {"max_seq_length": tokenizer.model_max_length, "do_lower_case": False}
    _write_json(path / "sentence_bert_config.json", read)
    modes = {f"pooling_mode_{name}": ours == params.pooling for ours, name in POOLINGS.items()}
    pooling = {"word_embedding_dimension": model.config.hidden_size} | modes
    _write_json(path / "1_Pooling" / "config.json", pooling)
    # The head's layers with their activations.
    classifier, folders = model.head.classifier, ["", "1_Pooling"]
    layers = [(classifier.dense, "activation.Tanh")] if isinstance(classifier, MLPHead) else []
    for layer, activation in [*layers, (classifier, "linear.Identity")]:
        folders.append(f"{len(folders)}_Dense")
        about = {
            "in_features": layer.in_features,
            "out_features": layer.out_features,
            "bias": layer.bias is not None,
            "activation_function": f"torch.nn.modules.{activation}",
        }
        _write_json(path / folders[-1] / "config.json", about)
        tensors = {"linear.weight": layer.weight, "linear.bias": layer.bias}
        tensors = {name: t.detach().contiguous() for name, t in tensors.items() if t is not None}
        save_file(tensors, path / folders[-1] / "model.safetensors")
    modules = [
        {
            "idx": i,
            "name": str(i),
            "path": folder,
            "type": f"sentence_transformers.models.{folder.partition('_')[2] or 'Transformer'}",
        }
        for i, folder in enumerate(folders)
    ]
    _write_json(path / "modules.json", modules)


def _write_json(file: Path, value: Any) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def _module_logits(path: Path, texts: Sequence[str]) -> np.ndarray:
    """(N, C) float32 logits of N texts by the modules of a folder."""
    from sentence_transformers import SentenceTransformer  # takes seconds: only where it is used

    model = SentenceTransformer(str(path), device="cpu")
    return model.encode(list(texts), show_progress_bar=False).astype(np.float32)
