"""Hidden states below the first adapted layer, cached: one pass per document, not one per epoch.

Where adapters are on the last layers alone, everything below them stays constant:

```
tokens -> [ layer 1 ... layer k ] -> (S, H) -> [ layer k + 1 ... last layer, with adapters ] -> head
             one pass, on disk                    every epoch, and every run that shares the states
```
"""

import json
import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lib.fingerprints import computing_fingerprint
from lib.machine import NO_COST, Cost, meter
from lib.model.batches import micro_batches, pad, stored_states
from lib.model.fast.attention import is_packed
from lib.model.fast.blocks import decoder_slice
from lib.model.forward import last_hidden_states, maybe_compiled
from lib.model.parts import decoder_of, first_adapted_layer
from lib.model.probes import entering_states, states_agree
from lib.model.windows import Documents, split_windows, window_lengths
from lib.storage import cached, content_hash, has_room_for, read_json

log = logging.getLogger(__name__)


def cache_lower_layers(
    model: nn.Module,
    splits: Mapping[str, Documents],
    *,
    compute_dtype: torch.dtype,
    fingerprint: str,
    token_budget: int,
) -> tuple[dict[str, list[np.ndarray]], dict[str, Cost]]:
    """Hidden states that enter the first adapted layer, of every token of each split's documents.

    Parameters
    ----------
    model
        A decoder with adapters (`add_lora`), with or without a head.
    fingerprint
        A hash of the weights, their precision and their attention. They decide the states, beside
        what this function sees.

    Returns
    -------
    states
        For each split, an array per document, (T, H), memory-mapped: float32, or the bits of
        bfloat16 as int16. Empty if caching is useless (adapters start at the first layer),
        impossible (the model is not packed, the disk is too full) or wrong (the upper layers do not
        reproduce the whole model on two documents). Training then runs all layers in every epoch.
    costs
        For each split, the cost of the pass that made its states.
    """
    backbone, first_layer = decoder_of(model), first_adapted_layer(model)
    # Useful, possible and exact?
    num_tokens = sum(len(d) for documents in splits.values() for d in documents)
    needed = num_tokens * backbone.config.hidden_size * backbone.dtype.itemsize
    suits = first_layer > 0 and is_packed(backbone) and has_room_for(needed)
    few = next(iter(splits.values()))[:2]
    if not (suits and _is_exact(backbone, few, compute_dtype)):
        return {}, dict.fromkeys(splits, NO_COST)
    # One pass per split, or what an earlier run has kept of it.
    # `model.load` made the backbone, so that its code decides the states too.
    code = computing_fingerprint("model.fast.cached_layers", "model.load")
    # The number of threads and the budget decide how sums are rounded.
    rules = [fingerprint, backbone.device.type, str(backbone.dtype), first_layer,
             torch.get_num_threads(), token_budget]  # fmt: skip
    states, costs = {}, {}
    for name, documents in splits.items():

        def write(folder: Path, name: str = name, documents: Documents = documents) -> None:
            log.info("layers 1 to %d read %s once", first_layer, name)
            _compute(folder, backbone, documents, compute_dtype, token_budget)

        key = [rules, content_hash(map(split_windows, documents))]
        folder = cached("lower", key, write, code=code)
        rows = np.load(folder / "states.npy", mmap_mode="r")
        states[name] = np.split(rows, np.cumsum([len(d) for d in documents]))[:-1]
        costs[name] = Cost(*read_json(folder / "cost.json"))
    return states, costs


@torch.no_grad()
def states_below(
    backbone: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor, compute_dtype: torch.dtype
) -> Tensor:
    """Hidden states that enter the first adapted layer, (S, H), of the S real tokens of (B, T)."""
    view = decoder_slice(backbone, range(first_adapted_layer(backbone)))
    states = last_hidden_states(view, input_ids, attention_mask, compute_dtype=compute_dtype)
    return states[attention_mask.bool()].to(backbone.dtype)


@torch.no_grad()
def _is_exact(backbone: PreTrainedModel, documents: Documents, compute_dtype: torch.dtype) -> bool:
    """True if the upper layers, on the states of the lower ones, reproduce the whole model.

    Some architectures scale embeddings before the first layer, and would scale cached states again.
    The last norm may hide that, so the states that enter the upper layers are compared as well.
    Other architectures have another name for the last norm, or read token ids in every layer.
    """
    ids, mask = (x.to(backbone.device) for x in pad(documents, backbone.config.pad_token_id))
    read = partial(last_hidden_states, backbone, ids, mask, compute_dtype=compute_dtype)
    with entering_states(backbone, first_adapted_layer(backbone)) as seen:
        whole = read()
        try:
            parts = read(cached=states_below(backbone, ids, mask, compute_dtype))
            exact = backbone.dtype == torch.float32
            near = states_agree(seen[-1], seen[0], exact=exact) and torch.allclose(
                parts, whole, rtol=0.05, atol=0.05 * float(whole.abs().mean())
            )
        except Exception:  # of whatever kind: the layers cannot be taken apart
            near = False
    if not near:
        log.info("lower layers are not cached: the upper layers alone do not reproduce this model")
    return near


def _compute(
    folder: Path,
    backbone: PreTrainedModel,
    documents: Documents,
    compute_dtype: torch.dtype,
    token_budget: int,
) -> None:
    """Write all documents' states, row after row, and the cost of the pass."""
    start, device = meter(backbone.device), backbone.device
    lengths = np.array([len(d) for d in documents])
    windows = [window_lengths(d) for d in documents]
    starts = np.cumsum([0, *lengths])
    kind = np.float32 if backbone.dtype == torch.float32 else np.int16
    shape = (int(starts[-1]), backbone.config.hidden_size)
    rows = np.lib.format.open_memmap(folder / "states.npy", "w+", dtype=kind, shape=shape)
    with maybe_compiled(backbone, shape[0]):
        for batch in micro_batches(windows, token_budget, packed=True):
            padded = pad([documents[i] for i in batch], backbone.config.pad_token_id)
            ids, mask = (x.to(device) for x in padded)
            states = stored_states(states_below(backbone, ids, mask, compute_dtype))
            ends = np.cumsum(lengths[batch])
            for i, part in zip(batch, np.split(states, ends[:-1]), strict=True):
                rows[starts[i] : starts[i + 1]] = part
    rows.flush()
    cost = json.dumps(list(meter(device) - start))
    (folder / "cost.json").write_text(cost, encoding="utf-8")
