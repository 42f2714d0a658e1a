"""Features of a frozen language model: computed once, kept on disk, read without any model."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import torch
from transformers import PreTrainedModel

from lib.head.pooling import pool
from lib.machine import GIB, Cost, meter, peak_memory_gib
from lib.model.batches import micro_batches, pad
from lib.model.forward import hidden_layers
from lib.model.load import count_parameters, load_backbone
from lib.model.tokens import require_positions
from lib.model.weights import CACHE, model_fingerprint
from lib.storage import atomic_path, computing_fingerprint

Kind = tuple[str, int]  # a pooling and a layer


def frozen_features(
    model_id: str,
    splits: Mapping[str, Sequence[Sequence[int]]],
    *,
    poolings: Sequence[str],
    layers: Sequence[int],
    quantization: str,
    dtype: torch.dtype,
    device: torch.device,
    token_budget: int,
    fast: bool = True,
) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, dict[str, Any]]]:
    """Pooled hidden states of an untrained model, from one pass over tokenized documents.

    They are kept in `runs/cache/features` under a hash of tokens, weights and precision; what is
    there already is memory-mapped, and if all is, no model is loaded.

    Parameters
    ----------
    splits
        Token ids of each split's documents.
    poolings
        Modes of `lib.head.pooling.pool`.
    layers
        Hidden layers, counted from the end: 1 is the last, after the model's final norm.
    quantization, dtype, device, fast
        See `lib.model.load.load_backbone`.
    token_budget
        Most tokens of a batch once padded.

    Returns
    -------
    features
        For each split, (N, H) float32 for each "<pooling> of layer -<layer>".
    costs
        For each split, of the pass (or passes, added up) that made all that is kept: `spent`,
        seconds and joules; `total_params`, `quantization`, `nf4_share`, `model_memory_gib` and
        `peak_memory_gib`.

    Raises
    ------
    ValueError
        The model has fewer layers.
    """
    rules = (
        model_fingerprint(model_id),
        computing_fingerprint("head.frozen"),
        quantization,
        str(dtype),
        device.type,
        torch.get_num_threads(),  # it and the budget decide how sums are rounded
        token_budget,
        fast,
    )
    kinds = [(mode, layer) for layer in layers for mode in poolings]
    backbone = None
    features, costs = {}, {}
    for name, documents in splits.items():
        content = joblib.hash([list(map(int, d)) for d in documents])
        key = hashlib.sha256(json.dumps([*rules, content]).encode()).hexdigest()[:32]
        folder = CACHE / "features" / key
        if missing := [kind for kind in kinds if not _file(folder, kind).exists()]:
            backbone = backbone or load_backbone(
                model_id,
                quantization=quantization,
                dtype=dtype,
                device=device,
                max_length=max(map(len, documents)),
                fast=fast,
            )
            require_positions(backbone.config, documents)
            _compute(folder, backbone, documents, missing, dtype, token_budget)
        features[name] = {
            f"{mode} of layer -{layer}": np.load(_file(folder, (mode, layer)), mmap_mode="r")
            for mode, layer in kinds
        }
        costs[name] = json.loads((folder / "cost.json").read_text(encoding="utf-8"))
    return features, costs


def _file(folder: Path, kind: Kind) -> Path:
    return folder / f"{kind[0]}-{kind[1]}.npy"


@torch.no_grad()
def _compute(
    folder: Path,
    backbone: PreTrainedModel,
    documents: Sequence[Sequence[int]],
    kinds: Sequence[Kind],
    dtype: torch.dtype,
    token_budget: int,
) -> None:
    """Write an array for each kind, a batch at a time, and what the pass has cost."""
    deepest, depth = max(layer for _, layer in kinds), backbone.config.num_hidden_layers
    if deepest > depth:
        raise ValueError(f"layer_grid: {deepest} was asked for, but the model has {depth} layers")
    folder.mkdir(parents=True, exist_ok=True)
    earlier = folder / "cost.json"  # of kinds that another run has asked for and finished
    finished = earlier.exists() and any(folder.glob("*.npy"))
    before = Cost(*json.loads(earlier.read_text())["spent"]) if finished else Cost()
    start = meter(backbone.device)
    shape = (len(documents), backbone.config.hidden_size)
    ending = f".unfinished-{os.getpid()}"
    unfinished = {kind: _file(folder, kind).with_suffix(ending) for kind in kinds}
    arrays = {
        kind: np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
        for kind, path in unfinished.items()
    }
    for batch in micro_batches([len(d) for d in documents], token_budget):
        ids, mask = pad([documents[i] for i in batch], backbone.config.pad_token_id)
        ids, mask = ids.to(backbone.device), mask.to(backbone.device)
        states = hidden_layers(backbone, ids, mask, num_layers=deepest, compute_dtype=dtype)
        for mode, layer in kinds:
            arrays[mode, layer][batch] = pool(states[-layer], mask, mode).cpu().numpy()
    cost = {
        "spent": list(before + meter(backbone.device) - start),
        "total_params": count_parameters(backbone)[1],
        "quantization": backbone.quantization,
        "nf4_share": backbone.nf4_share,
        "model_memory_gib": backbone.get_memory_footprint() / GIB,
        "peak_memory_gib": peak_memory_gib(backbone.device),
    }
    with atomic_path(folder / "cost.json") as path:
        path.write_text(json.dumps(cost) + "\n", encoding="utf-8")
    for kind, path in unfinished.items():
        arrays[kind].flush()
        path.rename(_file(folder, kind))
