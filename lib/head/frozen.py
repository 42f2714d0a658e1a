"""Features of a frozen language model: computed once, kept on disk, read without the model."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from lib.errors import ParamsError
from lib.fingerprints import computing_fingerprint
from lib.head.pooling import pool
from lib.machine import GIB, meter, peak_memory_gib
from lib.model.batches import micro_batches, pad
from lib.model.forward import hidden_layers
from lib.model.load import count_parameters, load_backbone
from lib.model.tokens import require_positions
from lib.model.weights import model_fingerprint
from lib.model.windows import (
    Documents,
    count_windows,
    documents_mask,
    longest_window,
    regroup,
    split_windows,
    window_lengths,
)
from lib.storage import cached, content_hash, read_json

Kind = tuple[str, int]  # a pooling and a layer


def frozen_features(
    model_id: str,
    splits: Mapping[str, Documents],
    *,
    revision: str = "",
    poolings: Sequence[str],
    layers: Sequence[int],
    quantization: str,
    dtype: torch.dtype,
    device: torch.device,
    token_budget: int,
    depth: int = 0,
    fast: bool = True,
) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, dict[str, Any]]]:
    """Pooled hidden states of an untrained model, from one pass over tokenized documents.

    They are cached (`lib.storage.cached`) and memory-mapped; if all of them are in the cache, no
    model is loaded. Other arguments are those of `lib.model.load.load_backbone`.

    Parameters
    ----------
    splits
        Token ids of each split's N documents.
    poolings, layers
        Modes of `lib.head.pooling.pool`, and hidden layers, counted from the end: 1 is the last,
        after the model's final norm.
    token_budget
        Most tokens of a batch once padded.

    Returns
    -------
    features
        For each split, (N, H) float32 for each "<pooling> of layer -<layer>" (`kind_name`).
    costs
        For each split, of the pass that made its features: `spent`, seconds and joules;
        `total_params`, `quantization`, `nf4_share`, `model_memory_gib` and `peak_memory_gib`.

    Raises
    ------
    ParamsError
        The model has fewer layers than were asked for, or fewer positions than a document has
        tokens.
    ModelError
        The model cannot be loaded (`load_backbone`).
    """
    # The number of threads and the budget decide how sums are rounded.
    rules = [model_fingerprint(model_id, revision), quantization, str(dtype), device.type,
             torch.get_num_threads(), token_budget, depth, fast]  # fmt: skip
    kinds = [(mode, layer) for layer in layers for mode in poolings]
    backbone = None
    features, costs = {}, {}
    for name, documents in splits.items():

        def write(folder: Path, documents: Documents = documents) -> None:
            nonlocal backbone
            backbone = backbone or load_backbone(
                model_id,
                revision=revision,
                quantization=quantization,
                dtype=dtype,
                device=device,
                max_length=longest_window(documents),
                depth=depth,
                fast=fast,
            )
            require_positions(backbone.config, documents)
            _compute(folder, backbone, documents, kinds, dtype, token_budget)

        key = [rules, sorted(kinds), content_hash(map(split_windows, documents))]
        folder = cached("features", key, write, code=computing_fingerprint("head.frozen"))
        features[name] = {
            kind_name(kind): np.load(_file(folder, kind), mmap_mode="r") for kind in kinds
        }
        costs[name] = read_json(folder / "cost.json")
    return features, costs


def kind_name(kind: Kind) -> str:
    """The name of a pooling and a layer, such as "mean of layer -1" for ("mean", 1)."""
    return f"{kind[0]} of layer -{kind[1]}"


def embed(
    backbone: PreTrainedModel,
    documents: Documents,
    kind: Kind,
    *,
    dtype: torch.dtype,
    token_budget: int,
) -> np.ndarray:
    """Pooled states of one kind of N tokenized documents, (N, H) float32; they are not cached."""
    width = backbone.config.get_text_config().hidden_size
    features = np.empty((len(documents), width), dtype=np.float32)
    for batch, pooled in _pooled(backbone, documents, [kind], dtype, token_budget):
        features[batch] = pooled[kind]
    return features


def _file(folder: Path, kind: Kind) -> Path:
    return folder / f"{kind[0]}-{kind[1]}.npy"


def _compute(
    folder: Path,
    backbone: PreTrainedModel,
    documents: Documents,
    kinds: Sequence[Kind],
    dtype: torch.dtype,
    token_budget: int,
) -> None:
    """Write an array for each kind, a batch at a time, and what the pass has cost."""
    start = meter(backbone.device)
    shape = (len(documents), backbone.config.get_text_config().hidden_size)
    options = {"mode": "w+", "dtype": np.float32, "shape": shape}
    arrays = {kind: np.lib.format.open_memmap(_file(folder, kind), **options) for kind in kinds}
    for batch, pooled in _pooled(backbone, documents, kinds, dtype, token_budget):
        for kind in kinds:
            arrays[kind][batch] = pooled[kind]
    cost = {
        "spent": list(meter(backbone.device) - start),
        "total_params": count_parameters(backbone)[1],
        "quantization": backbone.quantization,
        "nf4_share": backbone.nf4_share,
        "model_memory_gib": backbone.get_memory_footprint() / GIB,
        "peak_memory_gib": peak_memory_gib(backbone.device),
    }
    for array in arrays.values():
        array.flush()
    (folder / "cost.json").write_text(json.dumps(cost) + "\n", encoding="utf-8")


@torch.no_grad()
def _pooled(
    backbone: PreTrainedModel,
    documents: Documents,
    kinds: Sequence[Kind],
    dtype: torch.dtype,
    token_budget: int,
) -> Iterator[tuple[list[int], dict[Kind, np.ndarray]]]:
    """Indices of the documents of each batch, and their pooled states of each kind."""
    deepest = max(layer for _, layer in kinds)
    depth = backbone.config.get_text_config().num_hidden_layers
    if deepest > depth:
        raise ParamsError(f"layer_grid: {deepest} was asked for, but the model has {depth} layers")
    for batch in micro_batches([window_lengths(d) for d in documents], token_budget):
        chosen = [documents[i] for i in batch]
        ids, mask = (x.to(backbone.device) for x in pad(chosen, backbone.config.pad_token_id))
        whole = documents_mask(mask, count_windows(chosen))
        states = hidden_layers(backbone, ids, mask, num_layers=deepest, compute_dtype=dtype)
        pooled = {
            (mode, layer): pool(regroup(states[-layer], mask, whole), whole, mode).cpu().numpy()
            for mode, layer in kinds
        }
        yield batch, pooled
