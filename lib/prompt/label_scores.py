"""Exact likelihoods of whole labels: the label trie, and every label's score in one pass.

Layers without a mask (recurrent, convolutional) read a tree as one sequence. Models that have some
are found by a probe (`reads_trees`), and each label is then scored in a pass of its own.
"""

import logging
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from lib.model.batches import micro_batches, pad
from lib.model.forward import (
    last_hidden_states,
    masked_states,
    next_token_logits,
    prefill,
    skips_padding,
)
from lib.model.parts import pretrained
from lib.model.probes import SCORE_TOLERANCE, in_float32, made_up_tokens, probes_of, window_of
from lib.prompt.label_trie import LabelTrie

log = logging.getLogger(__name__)

READ_AT_ONCE = 64  # states whose logits over the whole vocabulary are held at once (chosen here)


@torch.inference_mode()
@torch.compiler.set_stance("force_eager")
def score_labels(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    label_texts: Sequence[Sequence[int]],
    *,
    given: Sequence[int] | None = None,
    token_budget: int,
    compute_dtype: torch.dtype,
) -> np.ndarray:
    """Log-probabilities, (N, C) float32, of each whole label as the answer to each prompt.

    log p(label | prompt) = sum over the label's tokens, its end token included, of
    log p(token | prompt, tokens before): labels of any length compare without correction, and the
    scores of all texts, not only of labels, would sum to one.

    One forward pass per document: the label trie follows the prompt as a tree whose nodes see the
    prompt and their own ancestors (tree attention, arXiv 2305.09781, section 4.2), and what all
    prompts begin with is computed once. Logits are taken where something is scored only. Where a
    model cannot read a tree (`reads_trees`), or its sliding window is shorter than prompt and
    answer, there is a pass per document and label: equal values, slower.

    Parameters
    ----------
    prompts, label_texts
        Token ids of N prompts and of C answers, each answer ending with the end token.
    given
        How many of each answer's first tokens are taken as read: what comes behind is scored.
    token_budget
        Most tokens of one forward pass, trie nodes included.
    """
    model = pretrained(model).eval()
    trie = LabelTrie.build(label_texts, given)
    scores = np.empty((len(prompts), len(label_texts)), dtype=np.float32)
    if not prompts:
        return scores
    options = {"token_budget": token_budget, "compute_dtype": compute_dtype}
    score = _score_together if reads_trees(model, prompts, trie) else _score_apart
    for batch, edges in score(model, prompts, trie, **options):
        for label, path in enumerate(trie.label_edges):
            scores[batch, label] = edges[:, path].sum(axis=1)
    return scores


def reads_trees(model: PreTrainedModel, prompts: Sequence[Sequence[int]], trie: LabelTrie) -> bool:
    """True if branches behind these prompts are exact for the model; a probe tells, once.

    In a tree every token of an answer sees the whole prompt, so both have to fit a sliding window.
    """
    window = window_of(model)
    if window and max(map(len, prompts)) + max(trie.depths) > window:
        log.info("labels are scored one by one: prompts are longer than the window of %d", window)
        return False
    exact = probes_of(model).ask("trees", lambda: _reads_trees(model))
    if not exact:
        log.info("labels are scored one by one: %s cannot read them as a tree",
                 type(model).__name__)  # fmt: skip
    return exact


@torch.no_grad()
@torch.compiler.set_stance("force_eager")
def _reads_trees(model: PreTrainedModel) -> bool:
    """True if two prompts of unequal length score two branches as passes of their own do."""
    shared, *ends, first, second = made_up_tokens(model, 9, 2, 5, 3, 3)
    prompts = [shared + end for end in ends]
    trie = LabelTrie.build([first, second])
    options = {"token_budget": 128, "compute_dtype": torch.float32}
    with in_float32(model) as exact:
        options["compute_dtype"] = torch.float32 if exact else model.dtype
        try:
            together = _in_order(_score_together(model, prompts, trie, **options))
        except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):
            return False
        apart = _in_order(_score_apart(model, prompts, trie, **options))
    return bool(np.abs(together - apart).max() <= SCORE_TOLERANCE[exact])


Scored = Iterator[tuple[list[int], np.ndarray]]  # prompts by index, and (B, E) float32 of each edge


def _in_order(scored: Scored) -> np.ndarray:
    """(N, E) of all batches, in the order of prompts."""
    batches, edges = zip(*scored, strict=True)
    return np.concatenate(edges)[np.argsort(np.concatenate(batches))]


def _score_together(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    trie: LabelTrie,
    *,
    token_budget: int,
    compute_dtype: torch.dtype,
) -> Scored:
    """log p(token | node) of every edge behind each prompt, by a tree per prompt."""
    prefix, rests = prefill_shared(model, prompts, compute_dtype)
    for batch in micro_batches([len(rest) + len(trie.tokens) for rest in rests], token_budget):
        edges = _edge_log_probs(model, [rests[i] for i in batch], trie, prefix, compute_dtype)
        yield batch, edges.cpu().numpy()


def _score_apart(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    trie: LabelTrie,
    *,
    token_budget: int,
    compute_dtype: torch.dtype,
) -> Scored:
    """As `_score_together`, by a plain pass per prompt and leaf of the trie.

    ```
    trie:  a - b        rows:  prompt a b
             \ c               prompt a c     each node is read once, in the first row that has it
    ```
    """
    leaves = sorted(set(range(len(trie.tokens))) - set(trie.parents))
    paths = [[0, *trie.path(leaf)] for leaf in leaves]
    asked = {node for node, _ in trie.edges}
    read_in: list[list[int]] = []  # for each path, the depths whose nodes are read there
    for path in paths:
        read_in.append([depth for depth, node in enumerate(path) if node in asked])
        asked -= set(path)
    order = [path[d] for path, depths in zip(paths, read_in, strict=True) for d in depths]
    row_of = {node: row for row, node in enumerate(order)}
    at = torch.tensor([row_of[node] for node, _ in trie.edges])
    token = torch.tensor([token for _, token in trie.edges])
    sizes = [len(paths) * len(prompt) + sum(map(len, paths)) for prompt in prompts]
    for batch in micro_batches(sizes, token_budget, packed=True):
        some = [prompts[i] for i in batch]
        rows = [[*p, *(trie.tokens[n] for n in path[1:])] for p in some for path in paths]
        reads = [[len(p) - 1 + depth for depth in depths] for p in some for depths in read_in]
        states = plain_states(model, rows, reads, token_budget, compute_dtype)
        edges = np.empty((len(batch), len(trie.edges)), dtype=np.float32)
        for k, of_prompt in enumerate(states.unflatten(0, (len(batch), -1))):
            for start in range(0, len(order), READ_AT_ONCE):
                some_states = of_prompt[start : start + READ_AT_ONCE]
                logits = next_token_logits(model, some_states, compute_dtype).float()
                here = (at >= start) & (at < start + len(logits))
                row = at[here] - start
                found = logits[row, token[here]] - logits.logsumexp(-1)[row]
                edges[k, here.numpy()] = found.cpu().numpy()
        yield batch, edges


def plain_states(
    model: PreTrainedModel,
    rows: Sequence[Sequence[int]],
    reads: Sequence[Sequence[int]],
    token_budget: int,
    compute_dtype: torch.dtype,
) -> Tensor:
    """Last hidden states, (n, H), at the positions that are read of each token row, row after row.

    Neither a cache nor a mask of ours takes part: what every decoder computes exactly.
    """
    states: list[Tensor] = [torch.empty(0)] * len(rows)
    lengths = [len(row) for row in rows]
    for batch in micro_batches(lengths, token_budget, packed=skips_padding(model)):
        ids, mask = (x.to(model.device) for x in pad([rows[k] for k in batch], 0))
        of_batch = last_hidden_states(model, ids, mask, compute_dtype=compute_dtype)
        for k, of_row in zip(batch, of_batch, strict=True):
            states[k] = of_row[list(reads[k])]
    return torch.cat(states)


def prefill_shared(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], compute_dtype: torch.dtype
) -> tuple[DynamicCache | None, list[list[int]]]:
    """Keys and values of what all prompts begin with, and the rest of each, at least one token.

    None where the model cannot share them (`lib.model.forward.prefill`).
    """
    first, last = min(prompts), max(prompts)
    limit = min(map(len, prompts)) - 1
    shared = next((i for i in range(limit) if first[i] != last[i]), limit)
    prefix = prefill(model, prompts[0][:shared], compute_dtype=compute_dtype)
    first = 0 if prefix is None else shared
    return prefix, [list(prompt[first:]) for prompt in prompts]


def _edge_log_probs(
    model: PreTrainedModel,
    rests: list[list[int]],
    trie: LabelTrie,
    prefix: DynamicCache | None,
    compute_dtype: torch.dtype,
) -> Tensor:
    """log p(token | node), (B, E) float32, of every edge of the trie behind each of B prompts."""
    longest, nodes, size = max(map(len, rests)), len(trie.tokens) - 1, len(rests)
    total = longest + nodes
    lengths = torch.tensor([len(r) for r in rests])
    input_ids = torch.zeros(size, total, dtype=torch.long)  # nothing real attends to padding
    for i, rest in enumerate(rests):
        input_ids[i, : len(rest)] = torch.tensor(rest)
    input_ids[:, longest:] = torch.tensor(trie.tokens[1:], dtype=torch.long)
    positions = torch.arange(total).repeat(size, 1)
    # A node of depth 1 stands right behind the prompt, over its padding.
    positions[:, longest:] = lengths[:, None] - 1 + torch.tensor(trie.depths[1:])

    visible = torch.zeros(size, total, total, dtype=torch.bool)
    visible[:, :longest, :longest] = torch.ones(longest, longest, dtype=torch.bool).tril()
    visible[:, longest:, :longest] = (torch.arange(longest) < lengths[:, None])[:, None]
    visible[:, longest:, longest:] = trie.visibility()[1:, 1:]
    at, token = torch.tensor(trie.edges).T
    scored, at = at.unique(return_inverse=True)  # S of the M nodes
    read = torch.zeros(size, total, dtype=torch.bool)
    read[:, longest - 1 + scored[scored > 0]] = True
    if scored[0] == 0:  # the root is the end of the prompt
        read[torch.arange(size), lengths - 1] = True
    inputs = (x.to(model.device) for x in (input_ids, positions, visible, read))
    states = masked_states(model, *inputs, compute_dtype=compute_dtype, prefix=prefix)
    states = states.unflatten(0, (size, -1))  # (B, S, H)
    logits = next_token_logits(model, states, compute_dtype)  # (B, S, V)
    normaliser = torch.stack([row.float().logsumexp(-1) for row in logits])  # (B, S)
    return logits[:, at, token].float() - normaliser[:, at]
