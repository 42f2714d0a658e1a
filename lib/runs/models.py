"""The model of an arm: loaded once for training, prediction and export alike."""

import json
import logging
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_model as load_weights
from safetensors.torch import save_model as save_weights
from torch import nn
from transformers import GenerationConfig, PreTrainedTokenizerBase

from lib.config.arms import EmbeddingParams, FinetuneParams, InstructionParams
from lib.data.labels import LabelSpace
from lib.errors import InputError
from lib.head.model import EmbeddingModel
from lib.model.adapters import add_lora, load_lora
from lib.model.load import load_backbone
from lib.model.tokens import structure_ids
from lib.storage import atomic_path, read_json

log = logging.getLogger(__name__)

WEIGHTS = "model.safetensors"
Reading = Callable[[Sequence[str]], list[list[int]]]


def load_arm_model(
    params: FinetuneParams,
    label_space: LabelSpace,
    *,
    device: torch.device,
    dtype: torch.dtype,
    trained: Path | None = None,
    unpack: bool = False,
) -> nn.Module:
    """The quantized base of an arm with its head and its adapters, ready to train or trained.

    Raises `ModelError` if weights cannot be loaded, or adapters do not fit the model.

    Parameters
    ----------
    dtype
        Of the arithmetic and of frozen weights; weights that train are float32.
    trained
        Folder of a finished run's model, which `save_arm_model` has written; None for a model that
        is yet to train: with fresh adapters or, if `lora_r` is 0, with all its weights.
    unpack
        Dequantize weights that are packed in 4 bits, into `dtype`.
    """
    has_head = isinstance(params, EmbeddingParams)
    model: nn.Module = load_backbone(
        params.model_id,
        revision=params.model_revision,
        quantization=params.quantization,
        dtype=torch.float32 if params.trains_all_weights else dtype,
        device=device,
        head="none" if has_head else "lm",
        bidirectional=has_head and params.bidirectional,
        max_length=params.max_length,
        memory_gib=params.memory_gib,
        depth=params.depth,
        fast=params.fast,
    )
    if unpack and getattr(model, "is_quantized", False):
        model = model.dequantize(dtype)
    if has_head:
        model = EmbeddingModel(model, params, num_labels=len(label_space), compute_dtype=dtype)
    if not params.num_epochs:  # zero-shot
        return model
    if trained and params.lora_r:
        return load_lora(model, trained, params)
    if trained:
        load_weights(model, str(trained / WEIGHTS))
        return model
    if params.trains_all_weights:
        return model.requires_grad_(True)
    return add_lora(model, params)


def save_arm_model(
    model: nn.Module, params: FinetuneParams, folder: Path, *, max_new_tokens: int = 0
) -> None:
    """Save what training changed: adapter and head, or every weight after full fine-tuning.

    `max_new_tokens`, the length of a free answer, is saved with `decoding: "generate"`.
    """
    if params.num_epochs:
        shutil.rmtree(folder, ignore_errors=True)  # it is there if a notebook's cell is run again
        with atomic_path(folder) as path:
            path.mkdir()
            if isinstance(model, PeftModel):
                model.save_pretrained(path)
            else:
                save_weights(model, str(path / WEIGHTS))
    if isinstance(params, InstructionParams) and params.decoding == "generate":
        GenerationConfig(max_new_tokens=max_new_tokens).save_pretrained(folder)


def require_same_reading(
    written: Reading, expected: Reading, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]
) -> None:
    """Raise `InputError` if a saved tokenizer gives texts other token ids than the run's does.

    If only texts that spell special tokens (`</s>`, `<think>`) get other ids, a warning is logged.
    """
    if written(texts) != expected(texts):
        raise InputError(
            f"{tokenizer.name_or_path}: once saved, its tokenizer reads texts otherwise"
        )
    spelled = [t.content for t in tokenizer.added_tokens_decoder.values() if t.content.strip()]
    read = zip(spelled, written(spelled), expected(spelled), strict=True)
    if other := [text for text, new, old in read if new != old]:
        log.warning("texts with %s are read otherwise than in training", ", ".join(other))


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Save a tokenizer for other software, with every token of `structure_ids` flagged as special.

    With `split_special_tokens`, a text that spells a token is read as text; this works only for
    tokens that are flagged as special.
    """
    tokenizer.save_pretrained(folder)
    file = folder / "tokenizer.json"
    if file.exists():
        rules, structure = read_json(file), structure_ids(tokenizer)
        for token in rules["added_tokens"]:
            token["special"] = token["special"] or token["id"] in structure
        file.write_text(json.dumps(rules, ensure_ascii=False), encoding="utf-8")
