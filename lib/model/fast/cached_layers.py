"""What the layers below the first adapted one compute: once a document, not once an epoch.

Where adapters sit on the last layers alone, everything below them stays constant. Their output is
computed in one pass, kept on disk for every run that shares it, and training starts from there: the
same numbers for a part of the work.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from lib.machine import meter, mixed_precision
from lib.model.batches import micro_batches, pad
from lib.model.fast.attention import hidden_states, is_packed
from lib.model.fast.blocks import compiled_if_it_pays, only_layers
from lib.storage import cached, computing_fingerprint, content_hash, free_bytes, read_json

log = logging.getLogger(__name__)

Documents = Sequence[Sequence[int]]  # token ids

KEPT_SHARE = 0.5  # of the free disk that kept states may take


def lower_states(
    backbone: PreTrainedModel,
    splits: Mapping[str, Sequence[Sequence[int]]],
    *,
    first_layer: int,
    compute_dtype: torch.dtype,
    fingerprint: str,
    token_budget: int,
) -> tuple[dict[str, list[np.ndarray]], dict[str, np.ndarray]]:
    """Hidden states that enter the first adapted layer, of every token of every document.

    Parameters
    ----------
    backbone
        A decoder without its head, whose layers below `first_layer` do not train.
    splits
        Token ids of each split's documents.
    compute_dtype
        Of the arithmetic.
    fingerprint
        Of the weights, their precision and their attention: what else decides the states.
    token_budget
        Most tokens of a batch.

    Returns
    -------
    states
        For each split, for each document (T, H): float32, or bfloat16 seen as int16. Empty where
        there is nothing to gain (adapters from the first layer on, a model that is not packed), no
        room, or a model whose layers do more than pass states on, as two documents tell; then
        training runs every layer in every epoch.
    spent
        For each split, seconds and joules of the pass that made them, (2,) float64.
    """
    num_tokens = sum(len(d) for documents in splits.values() for d in documents)
    needed = num_tokens * backbone.config.hidden_size * backbone.dtype.itemsize
    suits = first_layer > 0 and is_packed(backbone) and needed <= KEPT_SHARE * free_bytes()
    few = next(iter(splits.values()))[:2]
    if not (suits and _is_exact(backbone, few, first_layer, compute_dtype)):
        return {}, dict.fromkeys(splits, np.zeros(2))
    code = computing_fingerprint("model.fast.cached_layers", "model.load")  # made the backbone
    rules = [fingerprint, backbone.device.type, str(backbone.dtype), first_layer,
             torch.get_num_threads(), token_budget]  # both decide how sums are rounded  # fmt: skip
    states, spent = {}, {}
    for name, documents in splits.items():

        def write(folder: Path, name: str = name, documents: Documents = documents) -> None:
            log.info("layers 1 to %d read %s once", first_layer, name)
            _compute(folder, backbone, documents, first_layer, compute_dtype, token_budget)

        key = [rules, content_hash(list(map(int, document)) for document in documents)]
        folder = cached("lower", key, write, code=code)
        rows = np.load(folder / "states.npy", mmap_mode="r")
        states[name] = np.split(rows, np.cumsum([len(d) for d in documents]))[:-1]
        spent[name] = np.array(read_json(folder / "cost.json"))
    return states, spent


@torch.no_grad()
def states_below(
    backbone: PreTrainedModel,
    input_ids: Tensor,
    attention_mask: Tensor,
    *,
    first_layer: int,
    compute_dtype: torch.dtype,
) -> Tensor:
    """What enters layer `first_layer`, (S, H), for S real tokens of right-padded (B, T) input."""
    view = only_layers(backbone, range(first_layer))
    with mixed_precision(input_ids.device, compute_dtype):
        (states,) = hidden_states(view, input_ids, attention_mask)
    return states[attention_mask.bool()].to(backbone.dtype)


@torch.no_grad()
def _is_exact(
    backbone: PreTrainedModel,
    documents: Sequence[Sequence[int]],
    first_layer: int,
    compute_dtype: torch.dtype,
) -> bool:
    """Whether the layers above, on what the layers below give, make the whole model's states.

    Some architectures scale embeddings on their way in, or call their last norm otherwise.
    """
    ids, mask = (x.to(backbone.device) for x in pad(documents, backbone.config.pad_token_id))
    options = {"first_layer": first_layer, "compute_dtype": compute_dtype}
    try:
        above = only_layers(backbone, range(first_layer, len(backbone.layers)))
        lower = states_below(backbone, ids, mask, **options)
        with mixed_precision(ids.device, compute_dtype):
            (whole,) = hidden_states(backbone, ids, mask)
            (parts,) = hidden_states(above, ids, mask, inputs_embeds=lower)
    except AttributeError:  # no `layers`
        return False
    near = torch.allclose(parts, whole, rtol=0.05, atol=0.05 * float(whole.abs().mean()))
    if not near:
        log.info("layers below the adapters run in every epoch: they cannot be taken apart")
    return near


def _compute(
    folder: Path,
    backbone: PreTrainedModel,
    documents: Sequence[Sequence[int]],
    first_layer: int,
    compute_dtype: torch.dtype,
    token_budget: int,
) -> None:
    start = meter(backbone.device)
    lengths = np.array([len(d) for d in documents])
    starts = np.cumsum([0, *lengths])
    kind = np.float32 if backbone.dtype == torch.float32 else np.int16
    shape = (int(starts[-1]), backbone.config.hidden_size)
    with compiled_if_it_pays(backbone, shape[0]):
        rows = np.lib.format.open_memmap(folder / "states.npy", "w+", dtype=kind, shape=shape)
        for batch in micro_batches(lengths.tolist(), token_budget, packed=True):
            ids, mask = pad([documents[i] for i in batch], backbone.config.pad_token_id)
            states = states_below(
                backbone,
                ids.to(backbone.device),
                mask.to(backbone.device),
                first_layer=first_layer,
                compute_dtype=compute_dtype,
            )
            states = states.cpu() if kind == np.float32 else states.cpu().view(torch.int16)
            for i, part in zip(batch, states.split(lengths[batch].tolist()), strict=True):
                rows[starts[i] : starts[i + 1]] = part.numpy()
        rows.flush()
    cost = json.dumps(list(meter(backbone.device) - start))  # seconds and joules
    (folder / "cost.json").write_text(cost, encoding="utf-8")
