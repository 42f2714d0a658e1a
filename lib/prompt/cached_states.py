"""Hidden states of prompts and labels below the adapters, cached: a pass per run, not per epoch.

A prompt is scored on the same validation documents after every epoch of every candidate. Where
adapters are on the last layers alone, everything below them stays constant:

```
prompt, labels -> [ layer 1 ... layer k ] -> (B, T, H) -> [ layer k + 1 ... last layer ] -> scores
                     once, on disk                           after every epoch
```
"""

import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from lib.config.arms import InstructionParams
from lib.fingerprints import computing_fingerprint
from lib.model.batches import stored_states
from lib.model.forward import masked_states_below, skips_padding
from lib.model.parts import decoder_of, first_adapted_layer, pretrained
from lib.model.probes import SCORE_TOLERANCE, entering_states, states_agree
from lib.model.windows import split_windows
from lib.prompt.label_scores import Reader, reads_trees, score_labels, trees_behind
from lib.prompt.label_trie import LabelTrie
from lib.storage import cached, content_hash, has_room_for, read_json

log = logging.getLogger(__name__)

SCORED = ("score", "score_length", "score_prior")  # decodings that score every label


@torch.inference_mode()
@torch.compiler.set_stance("force_eager")
def lower_states(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    params: InstructionParams,
    decoding: Mapping[str, Any],
    *,
    fingerprint: str,
) -> list[np.ndarray]:
    """Hidden states that enter the first adapted layer when `decode_labels` scores these prompts.

    `decoding` has the other arguments of `decode_labels`. `fingerprint` is a hash of the weights:
    prompts, parameters, `decoding` and weights decide the states.

    Returns
    -------
    list
        An array per micro-batch, (B, T, H), memory-mapped: float32, or the bits of bfloat16 as
        int16. Empty if caching is useless (not every label is scored, nothing trains, adapters
        start at the first layer, or another process evaluates), impossible (the model reads no
        trees, the disk is too full) or wrong (two prompts get other scores). Every pass then runs
        all layers.
    """
    if params.multi_label or not params.num_epochs or params.decoding not in SCORED:
        return []
    if dist.is_initialized() and dist.get_rank() > 0:
        return []
    model, first_layer = pretrained(model).eval(), first_adapted_layer(model)
    decoder, rows = decoder_of(model), [row for p in prompts for row in split_windows(p)]
    answers = [decoding["template"].answer_ids(text) for text in decoding["label_space"].texts]
    trie = LabelTrie.build(answers)
    num_states = sum(map(len, rows)) + len(rows) * len(trie.tokens)
    needed = num_states * decoder.config.hidden_size * decoder.dtype.itemsize
    suits = first_layer and rows and skips_padding(model)
    if not (suits and has_room_for(needed) and reads_trees(model, rows, trie)):
        return []
    reader = Reader(model, decoding["token_budget"], decoding["compute_dtype"])
    if not _is_exact(reader, rows[:2], answers, trie):
        return []

    def write(folder: Path) -> None:
        log.info("layers 1 to %d read %s prompts and their labels once",
                 first_layer, f"{len(rows):,}")  # fmt: skip
        shapes = []
        with (folder / "states.bin").open("wb") as file:
            for states in _passes(reader, rows, trie):
                file.write(states.tobytes())
                shapes.append(states.shape)
        (folder / "shapes.json").write_text(json.dumps(shapes), encoding="utf-8")

    # The number of threads and the budget decide how sums are rounded.
    rules = [fingerprint, params.quantization, decoder.device.type, str(decoder.dtype),
             str(reader.compute_dtype), first_layer,
             torch.get_num_threads(), reader.token_budget]  # fmt: skip
    key = [rules, content_hash(rows), content_hash(answers)]
    # `model.load` made the model, so that its code decides the states too.
    code = computing_fingerprint("prompt.cached_states", "model.load")
    folder = cached("lower", key, write, code=code)
    kind = np.float32 if decoder.dtype == torch.float32 else np.int16
    states = np.memmap(folder / "states.bin", dtype=kind, mode="r")
    shapes = read_json(folder / "shapes.json")
    parts = np.split(states, np.cumsum([math.prod(shape) for shape in shapes])[:-1])
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def _passes(
    reader: Reader, prompts: Sequence[Sequence[int]], trie: LabelTrie
) -> Iterator[np.ndarray]:
    """States of each micro-batch, (B, T, H), as they are stored."""
    for _, prefix, (*inputs, _) in trees_behind(reader, prompts, trie):
        options = {"compute_dtype": reader.compute_dtype, "prefix": prefix}
        yield stored_states(masked_states_below(reader.model, *inputs, **options))


def _is_exact(
    reader: Reader,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    trie: LabelTrie,
) -> bool:
    """True if the upper layers, on the states of the lower ones, score as the whole model does.

    The states that enter the upper layers are compared as well. A model that scales embeddings
    would scale cached states again, which the last norm may hide.
    """
    decoder, first_layer = decoder_of(reader.model), first_adapted_layer(reader.model)
    exact = decoder.dtype == torch.float32
    score = partial(score_labels, prompts=prompts, answers=answers, **reader._asdict())
    with entering_states(decoder, first_layer) as of_whole:
        whole = score()
    try:
        lower = list(_passes(reader, prompts, trie))
        with entering_states(decoder, first_layer) as of_parts:
            parts = score(lower=lower)
        near = np.abs(parts - whole).max() <= SCORE_TOLERANCE[exact] and all(
            states_agree(*both, exact=exact) for both in zip(of_parts, of_whole, strict=True)
        )
    except Exception:  # of whatever kind: the layers cannot be taken apart
        near = False
    if not near:
        log.info("lower layers are not cached: the upper layers alone do not score as this model")
    return bool(near)
