"""What the layers below the first adapted one compute: once a document, not once an epoch.

Where adapters sit on the last layers alone, everything below them stays constant. Their output is
computed in one pass, kept on disk for every run that shares it, and training starts from there: the
same numbers for a part of the work.
"""

import hashlib
import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import joblib
import numpy as np
import torch
from torch import nn

from lib.attention import is_packed
from lib.data import micro_batches
from lib.embedding import EmbeddingModel, pad
from lib.loader import CACHE
from lib.results import atomic_path, code_fingerprint

log = logging.getLogger(__name__)

CODE = code_fingerprint("attention", "layers", "loader", "lower")
KEPT_SHARE = 0.5  # of the free disk that kept states may take


def lower_states(
    model: nn.Module,
    splits: Mapping[str, Sequence[Sequence[int]]],
    *,
    fingerprint: str,
    token_budget: int,
) -> tuple[dict[str, list[np.ndarray]], dict[str, float]]:
    """Hidden states that enter the first adapted layer, of every token of every document.

    Parameters
    ----------
    model
        An `EmbeddingModel`, with adapters, whose `first_layer` says where they begin.
    splits
        Token ids of each split's documents.
    fingerprint
        Of the weights, their precision and their attention: what else decides the states.
    token_budget
        Most tokens of a batch once padded.

    Returns
    -------
    states
        For each split, for each document (T, H): float32, or bfloat16 seen as int16. Empty where
        there is nothing to gain (adapters from the first layer on, a model that is not packed), no
        room, or a model whose layers do more than pass states on, as two documents tell; then
        training runs every layer in every epoch.
    seconds
        For each split, that the pass took which made them.
    """
    base: EmbeddingModel = model.get_base_model() if hasattr(model, "get_base_model") else model
    backbone, first = base.backbone, base.first_layer
    num_tokens = sum(len(d) for documents in splits.values() for d in documents)
    needed = num_tokens * backbone.config.hidden_size * backbone.dtype.itemsize
    suits = first > 0 and is_packed(backbone) and needed <= KEPT_SHARE * _free_bytes()
    if not (suits and _is_exact(base, next(iter(splits.values()))[:2])):
        return {}, dict.fromkeys(splits, 0.0)
    states, seconds = {}, {}
    for name, documents in splits.items():
        content = joblib.hash([list(map(int, d)) for d in documents])
        rules = json.dumps(
            [fingerprint, CODE, backbone.device.type, str(backbone.dtype), first, content]
        )
        file = CACHE / "lower" / f"{hashlib.sha256(rules.encode()).hexdigest()[:32]}.npy"
        if not file.with_suffix(".json").exists():
            log.info("layers 1 to %d read %s once", first, name)
            _compute(file, base, documents, token_budget)
        rows = np.load(file, mmap_mode="r")
        ends = np.cumsum([len(d) for d in documents])
        states[name] = np.split(rows, ends[:-1])
        seconds[name] = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
    return states, seconds


@torch.no_grad()
def _is_exact(model: EmbeddingModel, documents: Sequence[Sequence[int]]) -> bool:
    """Whether the layers above, on what the layers below give, make the whole model's embedding.

    Some architectures scale embeddings on their way in, or call their last norm otherwise.
    """
    training = model.training
    model.eval()
    device = model.backbone.device
    ids, mask = (x.to(device) for x in pad(documents, model.config.pad_token_id))
    whole = model.embed(ids, mask)
    try:
        parts = model.embed(ids, mask, model.below(ids, mask))
    except AttributeError:  # no `layers`
        return False
    finally:
        model.train(training)
    near = torch.allclose(parts, whole, rtol=0.05, atol=0.05 * float(whole.abs().mean()))
    if not near:
        log.info("layers below the adapters run in every epoch: they cannot be taken apart")
    return near


def _free_bytes() -> int:
    CACHE.mkdir(parents=True, exist_ok=True)
    disk = os.statvfs(CACHE)
    return disk.f_bavail * disk.f_frsize


@torch.no_grad()
def _compute(
    file: Path, model: EmbeddingModel, documents: Sequence[Sequence[int]], token_budget: int
) -> None:
    start = time.perf_counter()
    model.eval()
    lengths = np.array([len(d) for d in documents])
    starts = np.cumsum([0, *lengths])
    kind = np.float32 if model.backbone.dtype == torch.float32 else np.int16
    shape = (int(starts[-1]), model.config.hidden_size)
    with atomic_path(file) as path:
        rows = np.lib.format.open_memmap(path, mode="w+", dtype=kind, shape=shape)
        for batch in micro_batches(lengths.tolist(), token_budget):
            ids, mask = pad([documents[i] for i in batch], model.config.pad_token_id)
            states = model.below(ids.to(model.backbone.device), mask.to(model.backbone.device))
            states = states.cpu() if kind == np.float32 else states.cpu().view(torch.int16)
            for i, part in zip(batch, states.split(lengths[batch].tolist()), strict=True):
                rows[starts[i] : starts[i + 1]] = part.numpy()
        rows.flush()
    with atomic_path(file.with_suffix(".json")) as path:
        path.write_text(json.dumps(time.perf_counter() - start), encoding="utf-8")
