"""Exact likelihoods of whole labels: the label trie, and every label's score in one pass."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from lib.attention import is_packed
from lib.causal import causal_lm, next_token_logits
from lib.data import micro_batches
from lib.device import mixed_precision
from lib.layers import reading_only


@dataclass(frozen=True)
class LabelTrie:
    """Label answers merged at common prefixes, as flat arrays.

    Node 0 is the root, the end of the prompt; nodes 1 ... M-1 hold one token each, parents before
    children. End tokens make no node: nothing follows them.

    Attributes
    ----------
    tokens, parents, depths
        (M,) lists. The root has token -1, parent -1 and depth 0.
    edges
        (E, 2): node and next token; E is the number of distinct (prefix, token) pairs.
    label_edges
        For each label, the indices into `edges` whose log-probabilities add up to its score.
    """

    tokens: list[int]
    parents: list[int]
    depths: list[int]
    edges: list[tuple[int, int]]
    label_edges: list[list[int]]

    @classmethod
    def build(cls, answers: Sequence[Sequence[int]], given: Sequence[int] | None = None) -> Self:
        """Trie over token ids of whole answers, each with its end token.

        Parameters
        ----------
        given
            How many of an answer's first tokens are no part of its score; none, unless told.

        Raises
        ------
        ValueError
            Two answers have the same tokens, so no model can tell them apart.
        """
        if len({tuple(answer) for answer in answers}) < len(answers):
            raise ValueError("two labels have the same tokens; give them different texts")
        tokens, parents, depths = [-1], [-1], [0]
        node_of: dict[tuple[int, ...], int] = {(): 0}
        edge_of: dict[tuple[int, int], int] = {}
        label_edges = []
        for answer, start in zip(answers, given or [0] * len(answers), strict=True):
            path = []
            for depth, token in enumerate(answer):
                node = node_of[tuple(answer[:depth])]
                if depth >= start:
                    path.append(edge_of.setdefault((node, token), len(edge_of)))
                prefix = tuple(answer[: depth + 1])
                if depth + 1 < len(answer) and prefix not in node_of:
                    node_of[prefix] = len(tokens)
                    tokens.append(token)
                    parents.append(node)
                    depths.append(depth + 1)
            label_edges.append(path)
        return cls(tokens, parents, depths, list(edge_of), label_edges)

    def visibility(self) -> Tensor:
        """(M, M) bool: which nodes each node attends to, itself and its ancestors."""
        visible = torch.eye(len(self.tokens), dtype=torch.bool)
        for node, parent in enumerate(self.parents[1:], start=1):
            visible[node] |= visible[parent]
        return visible


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

    One forward pass a document: the label trie follows the prompt as a tree whose nodes see the
    prompt and their own ancestors (tree attention, arXiv 2305.09781, section 4.2), and what all
    prompts begin with is computed once. Logits are taken where something is scored only.

    Parameters
    ----------
    prompts, label_texts
        Token ids of N prompts and of C answers, each answer ending with the end token.
    given
        How many of each answer's first tokens are taken as read: what comes behind is scored.
    token_budget
        Most tokens of one forward pass, trie nodes included.
    """
    model = causal_lm(model).eval()
    trie = LabelTrie.build(label_texts, given)
    prefix, rests = prefill_shared(model, prompts, trie, compute_dtype)
    scores = np.empty((len(prompts), len(label_texts)), dtype=np.float32)
    for batch in micro_batches([len(rest) + len(trie.tokens) for rest in rests], token_budget):
        edges = _edge_log_probs(model, [rests[i] for i in batch], trie, prefix, compute_dtype)
        for label, path in enumerate(trie.label_edges):
            scores[batch, label] = edges[:, path].sum(dim=1).cpu().numpy()
    return scores


def prefill_shared(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    trie: LabelTrie,
    compute_dtype: torch.dtype,
) -> tuple[DynamicCache | None, list[list[int]]]:
    """Keys and values of what all prompts begin with, and the rest of each, at least one token.

    Only packed models (`lib.attention.use_packing`) can share them; None for others.

    Raises
    ------
    ValueError
        A prompt and an answer are longer than the model's sliding window: here every token of an
        answer sees the whole prompt.
    """
    if not prompts:
        return None, []
    longest = max(map(len, prompts)) + max(trie.depths)
    window = getattr(model.config.get_text_config(), "sliding_window", None)
    if window and longest > window:
        raise ValueError(
            f"prompt and answer of {longest:,} tokens are longer than the model's sliding window "
            f"of {window:,}; lower max_length or leave the labels out of the prompt"
        )
    first, last = min(prompts), max(prompts)
    limit = min(map(len, prompts)) - 1
    shared = next((i for i in range(limit) if first[i] != last[i]), limit)
    if not shared or not is_packed(model):
        return None, [list(prompt) for prompt in prompts]
    ids = torch.tensor([list(prompts[0][:shared])], device=model.device)
    with mixed_precision(model.device, compute_dtype):
        # With its mask, from which a model with a sliding window makes its own.
        output = model.model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=True)
    return output.past_key_values, [list(prompt[shared:]) for prompt in prompts]


def behind(prefix: DynamicCache | None) -> tuple[int, dict[str, DynamicCache]]:
    """Tokens of a shared beginning, and how a model's `forward` is told of it."""
    return (prefix.get_seq_length(), {"prefix": prefix}) if prefix is not None else (0, {})


def additive_mask(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, T, keys) bool as what transformers adds to attention scores, (B, 1, T, keys)."""
    mask = torch.zeros(visible.shape, dtype=dtype)
    return mask.masked_fill(~visible, torch.finfo(dtype).min)[:, None]


def _edge_log_probs(
    model: PreTrainedModel,
    rests: list[list[int]],
    trie: LabelTrie,
    prefix: DynamicCache | None,
    compute_dtype: torch.dtype,
) -> Tensor:
    """log p(token | node), (B, E) float32, of every edge of the trie behind each of B prompts."""
    num_shared, shared = behind(prefix)
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
    positions += num_shared

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
    device = model.device
    read = read.to(device)
    with mixed_precision(device, compute_dtype), reading_only(model.model, read):
        states = model.model(
            input_ids=input_ids.to(device),
            position_ids=positions.to(device),
            attention_mask=additive_mask(visible, model.dtype).to(device),
            use_cache=False,
            **shared,
        ).last_hidden_state
        states = states[read].unflatten(0, (size, -1))  # (B, S, H)
        logits = next_token_logits(model, states)  # (B, S, V)
    normaliser = torch.stack([row.float().logsumexp(-1) for row in logits])  # (B, S)
    return logits[:, at, token].float() - normaliser[:, at]
