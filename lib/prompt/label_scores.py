"""Exact likelihoods of whole labels: every label's score behind a prompt, in one pass.

The labels are read as a tree (`lib.prompt.label_trie`), and a mask lets each of its tokens see its
own beginning alone. Layers without an attention mask (recurrent, convolutional) would read the tree
as one sequence. A probe finds models that have such layers (`reads_trees`); their labels have a
pass each.
"""

import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from lib.model.batches import join_states, micro_batches, pad
from lib.model.forward import (
    last_hidden_states,
    masked_states,
    next_token_logits,
    prefill,
    skips_padding,
)
from lib.model.parts import pretrained
from lib.model.probes import (
    SCORE_TOLERANCE,
    UNABLE,
    in_float32,
    made_up_tokens,
    probes_of,
    window_of,
)
from lib.prompt.label_trie import LabelTrie

log = logging.getLogger(__name__)

STATES_AT_ONCE = 64  # their logits over the whole vocabulary are held at once; our choice
Scored = Iterator[tuple[list[int], np.ndarray]]  # B indices of prompts, and (B, E) float32 of edges
Tree = tuple[Tensor, Tensor, Tensor, Tensor]  # input_ids, positions, visible, read: see `_tree`


class Reader(NamedTuple):
    """A causal model, the most tokens of one of its passes, and the dtype of their arithmetic."""

    model: PreTrainedModel
    token_budget: int
    compute_dtype: torch.dtype


@torch.inference_mode()
@torch.compiler.set_stance("force_eager")
def score_labels(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    *,
    given: Sequence[int] | None = None,
    lower: Sequence[np.ndarray] = (),
    token_budget: int,
    compute_dtype: torch.dtype,
) -> np.ndarray:
    """Log-probabilities, (N, C) float32, of each whole label as the answer to each prompt.

    log p(label | prompt) = sum over the label's tokens, its end token included, of
    log p(token | prompt, tokens before). With the end token, the probabilities of all possible
    texts sum to one, so that labels of any length compare without correction.

    Each document takes one forward pass: the label trie follows the prompt as a tree whose nodes
    see the prompt and their own ancestors (tree attention, arXiv 2305.09781, section 4.2). The
    tokens that all prompts begin with are computed once. If the model cannot read a tree
    (`reads_trees`), each pair of document and label takes a pass: equal values, slower.

    Parameters
    ----------
    prompts, answers
        Token ids of N prompts and of C answers, each answer ending with the end token.
    given
        Number of tokens at the beginning of each answer that are read but not scored.
    lower
        What `lib.prompt.cached_states.lower_states` has kept of these prompts and answers: the
        layers below the adapters are then left out.
    token_budget
        Most tokens of one forward pass, trie nodes included.

    Raises
    ------
    InputError
        Two answers have the same tokens.
    """
    model = pretrained(model).eval()
    trie = LabelTrie.build(answers, given)
    scores = np.empty((len(prompts), len(answers)), dtype=np.float32)
    if not prompts:
        return scores
    reader = Reader(model, token_budget, compute_dtype)
    if reads_trees(model, prompts, trie):
        scored = _score_together(reader, prompts, trie, lower)
    else:
        scored = _score_apart(reader, prompts, trie)
    for batch, edges in scored:
        for label, path in enumerate(trie.label_edges):
            scores[batch, label] = edges[:, path].sum(axis=1)
    return scores


def reads_trees(model: PreTrainedModel, prompts: Sequence[Sequence[int]], trie: LabelTrie) -> bool:
    """True if branches behind these prompts are exact for the model, by a probe made once.

    In a tree every token of an answer sees the whole prompt, so that prompt and answer have to fit
    into a sliding window together.
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
    """True if two branches behind two prompts of unequal length score as in passes of their own."""
    shared, *ends, first, second = made_up_tokens(model, 9, 2, 5, 3, 3)
    prompts = [shared + end for end in ends]
    trie = LabelTrie.build([first, second])
    with in_float32(model) as exact:
        reader = Reader(model, 128, torch.float32 if exact else model.dtype)
        try:
            together = _in_order(_score_together(reader, prompts, trie))
        except UNABLE:
            return False
        apart = _in_order(_score_apart(reader, prompts, trie))
    return bool(np.abs(together - apart).max() <= SCORE_TOLERANCE[exact])


def _in_order(scored: Scored) -> np.ndarray:
    """Scores of all batches, (N, E), in the order of prompts."""
    batches, edges = zip(*scored, strict=True)
    return np.concatenate(edges)[np.argsort(np.concatenate(batches))]


def _score_together(
    reader: Reader,
    prompts: Sequence[Sequence[int]],
    trie: LabelTrie,
    lower: Sequence[np.ndarray] = (),
) -> Scored:
    """log p(token | node) of every edge behind each prompt, by a tree per prompt."""
    for number, (batch, prefix, tree) in enumerate(trees_behind(reader, prompts, trie)):
        below = join_states([lower[number]]).to(reader.model.device) if len(lower) else None
        yield batch, _edge_log_probs(reader, tree, trie, prefix, below).cpu().numpy()


def _score_apart(reader: Reader, prompts: Sequence[Sequence[int]], trie: LabelTrie) -> Scored:
    """Scores as by `_score_together`, with a plain pass per prompt and leaf of the trie.

    ```
    trie  a -+- b      rows  prompt a b      each node is read in the first row that has it:
             +- c            prompt a c      the root, a and b in the first, c in the second
    ```
    """
    leaves = sorted(set(range(len(trie.tokens))) - set(trie.parents))
    paths = [[0, *trie.path(leaf)] for leaf in leaves]
    # Depths of each path at which a node is read, and the edges of each node in that order.
    edges_of = defaultdict(list)
    for column, (node, _) in enumerate(trie.edges):
        edges_of[node].append(column)
    unread, depths_read, columns = set(edges_of), [], []
    for path in paths:
        depths_read.append([depth for depth, node in enumerate(path) if node in unread])
        columns += [edges_of[path[depth]] for depth in depths_read[-1]]
        unread -= set(path)
    tokens = [[trie.edges[column][1] for column in of_node] for of_node in columns]
    order = list(chain.from_iterable(columns))

    sizes = [len(paths) * len(prompt) + sum(map(len, paths)) for prompt in prompts]
    for batch in micro_batches(sizes, reader.token_budget, packed=True):
        some = [prompts[i] for i in batch]
        rows = [[*p, *(trie.tokens[n] for n in path[1:])] for p in some for path in paths]
        reads = [[len(p) - 1 + depth for depth in depths] for p in some for depths in depths_read]
        states = plain_states(reader, rows, reads)
        edges = np.empty((len(batch), len(order)), dtype=np.float32)
        for row, of_prompt in enumerate(states.unflatten(0, (len(batch), -1))):
            of_nodes = next_log_probs(reader, of_prompt, tokens)
            edges[row, order] = list(chain.from_iterable(of_nodes))
        yield batch, edges


def next_log_probs(
    reader: Reader, states: Tensor, tokens: Sequence[Sequence[int]]
) -> list[list[float]]:
    """log p(token) of each of `tokens[i]` behind the i-th of n last hidden states, (n, H)."""
    found: list[float] = []
    for start in range(0, len(tokens), STATES_AT_ONCE):
        some = tokens[start : start + STATES_AT_ONCE]
        of_some = states[start : start + STATES_AT_ONCE]
        logits = next_token_logits(reader.model, of_some, reader.compute_dtype).float()  # (64, V)
        columns = torch.tensor(list(chain.from_iterable(some)), device=states.device)
        counts = torch.tensor([len(ids) for ids in some], device=states.device)
        rows = torch.arange(len(some), device=states.device).repeat_interleave(counts)
        found += (logits[rows, columns] - logits.logsumexp(-1)[rows]).tolist()
    following = iter(found)
    return [list(islice(following, len(ids))) for ids in tokens]


def plain_states(
    reader: Reader, rows: Sequence[Sequence[int]], reads: Sequence[Sequence[int]]
) -> Tensor:
    """Last hidden states, (n, H), at the positions `reads[i]` of each row of tokens, row by row.

    Neither a cache nor a mask of ours takes part, so that the states are exact for every decoder.
    """
    model, token_budget, compute_dtype = reader
    states: list[Tensor] = [torch.empty(0)] * len(rows)
    lengths = list(map(len, rows))
    for batch in micro_batches(lengths, token_budget, packed=skips_padding(model)):
        ids, mask = (x.to(model.device) for x in pad([rows[k] for k in batch], 0))
        of_batch = last_hidden_states(model, ids, mask, compute_dtype=compute_dtype)
        for k, of_row in zip(batch, of_batch, strict=True):
            states[k] = of_row[list(reads[k])]
    return torch.cat(states)


def shared_prefix(
    reader: Reader, prompts: Sequence[Sequence[int]]
) -> tuple[DynamicCache | None, list[list[int]]]:
    """Cache of the tokens that all prompts begin with, and the rest of each prompt, never empty.

    The cache is None if there are none, or if the model cannot share one (`prefill`); the rests are
    then the whole prompts.
    """
    lowest, highest = min(prompts), max(prompts)
    limit = min(map(len, prompts)) - 1
    shared = next((i for i in range(limit) if lowest[i] != highest[i]), limit)
    prefix = prefill(reader.model, prompts[0][:shared], compute_dtype=reader.compute_dtype)
    start = 0 if prefix is None else shared
    return prefix, [list(prompt[start:]) for prompt in prompts]


def trees_behind(
    reader: Reader, prompts: Sequence[Sequence[int]], trie: LabelTrie
) -> Iterator[tuple[list[int], DynamicCache | None, Tree]]:
    """Micro-batches of prompts: their indices, the cache of `shared_prefix`, and the trees."""
    prefix, rests = shared_prefix(reader, prompts)
    lengths = [len(rest) + len(trie.tokens) for rest in rests]
    for batch in micro_batches(lengths, reader.token_budget):
        tree = _tree([rests[i] for i in batch], trie)
        yield batch, prefix, tuple(x.to(reader.model.device) for x in tree)


def _tree(rests: list[list[int]], trie: LabelTrie) -> Tree:
    """The trie behind each of B prompts: ids and positions (B, T), visible (B, T, T), read (B, T).

    ```
    a row       | rest of the prompt | padding | nodes of the trie |    T = longest + nodes
    positions     0 ... n-1            any       n-1 + depth
    a prompt's token sees the tokens before it
    a node sees | all of the prompt  | nothing | its ancestors     |
    ```
    """
    # Tokens: the prompts, padded to one length, and behind each the nodes of the trie but the root,
    # which is the end of the prompt.
    prompts, real = pad(rests, 0)
    nodes = torch.tensor(trie.tokens[1:], dtype=torch.long)
    input_ids = torch.cat([prompts, nodes.expand(len(rests), -1)], dim=1)
    (size, total), longest, lengths = input_ids.shape, prompts.shape[1], real.sum(dim=1)

    # Positions: a node of depth 1 is right behind the prompt, over its padding.
    positions = torch.arange(total).repeat(size, 1)
    positions[:, longest:] = lengths[:, None] - 1 + torch.tensor(trie.depths[1:])

    # Visibility: prompt to prompt, nodes to prompt, nodes to nodes; nothing real sees padding.
    visible = torch.zeros(size, total, total, dtype=torch.bool)
    visible[:, :longest, :longest] = torch.ones(longest, longest, dtype=torch.bool).tril()
    visible[:, longest:, :longest] = real.bool()[:, None]
    visible[:, longest:, longest:] = trie.visibility()[1:, 1:]

    # States that are read: those of the S nodes, of M, behind which a token is scored.
    scored = torch.tensor(sorted({node for node, _ in trie.edges}))
    read = torch.zeros(size, total, dtype=torch.bool)
    read[:, longest - 1 + scored[scored > 0]] = True
    if scored[0] == 0:
        read[torch.arange(size), lengths - 1] = True
    return input_ids, positions, visible, read


def _edge_log_probs(
    reader: Reader, tree: Tree, trie: LabelTrie, prefix: DynamicCache | None, lower: Tensor | None
) -> Tensor:
    """log p(token | node), (B, E) float32, of every edge of the trie behind each of B prompts."""
    model, _, compute_dtype = reader
    at, token = torch.tensor(trie.edges).T
    at = at.unique(return_inverse=True)[1]  # the index of each edge's node among the S states
    states = masked_states(model, *tree, compute_dtype=compute_dtype, prefix=prefix, lower=lower)
    states = states.unflatten(0, (len(tree[0]), -1))  # (B, S, H)
    logits = next_token_logits(model, states, compute_dtype)  # (B, S, V)
    normaliser = torch.stack([row.float().logsumexp(-1) for row in logits])  # (B, S)
    return logits[:, at, token].float() - normaliser[:, at]
