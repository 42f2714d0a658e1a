"""The best label by search over the label trie, where scoring every label would cost more."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain, islice, takewhile

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from lib.model.batches import micro_batches
from lib.model.parts import pretrained
from lib.model.probes import SCORE_TOLERANCE, in_float32, made_up_tokens, probes_of
from lib.prompt.branches import Answer, Branches, Recomputed
from lib.prompt.label_scores import prefill_shared, reads_trees, score_labels
from lib.prompt.label_trie import LabelTrie

# Beginnings that best-first search extends a round, before it knows that it needs them: so many, if
# they are at most so many nats behind the best one, half as probable (tests/benchmarks/NOTES.md).
FRONT, NEAR = 8, 0.7


@torch.inference_mode()
@torch.compiler.set_stance("force_eager")
def search_labels(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    label_texts: Sequence[Sequence[int]],
    *,
    greedy: bool,
    token_budget: int,
    compute_dtype: torch.dtype,
) -> np.ndarray:
    """Log-probabilities, (N, C) float32, of the labels that a search ends with; -inf elsewhere.

    Whatever is searched, nothing but a label can be answered. A prompt is computed once; each round
    then computes the tokens that the search asks for, up to where labels part next, behind their
    own ancestors (tree attention, as in `score_labels`). A model that cannot read trees computes
    prompt and answer so far anew in each round.

    Parameters
    ----------
    prompts, label_texts
        As in `score_labels`.
    greedy
        True: the most probable token wherever labels part. False: best-first search (uniform-cost
        search); each round extends the most probable beginning and what is nearly as probable
        (`FRONT`, `NEAR`). Probabilities only fall along a path, so the first whole label that comes
        to the front is the most probable of all: the argmax of `score_labels`, while what is less
        probable is never computed.
    token_budget
        About how many tokens a batch of prompts holds, those of answers included; a best-first
        search that goes back often holds more.
    """
    model = pretrained(model).eval()
    trie = LabelTrie.build(label_texts)
    scores = np.full((len(prompts), len(label_texts)), -np.inf, dtype=np.float32)
    if not prompts:
        return scores
    trees = reads_trees(model, prompts, trie)
    trees = trees and probes_of(model).ask("branches", lambda: _branches_exactly(model))
    prefix, rests = prefill_shared(model, prompts, compute_dtype) if trees else (None, prompts)
    # Each prompt has a column per extended beginning and round in the cache.
    added = (1 if greedy else FRONT) * max(trie.depths)
    for batch in micro_batches([added + len(rest) for rest in rests], token_budget):
        of_batch = [list(rests[i]) for i in batch]
        if trees:
            branches = Branches(model, of_batch, trie, prefix, compute_dtype)
        else:
            branches = Recomputed(model, of_batch, trie, token_budget, compute_dtype)
        found = _search(branches, trie, greedy)
        for i, answers in zip(batch, found, strict=True):
            for answer in answers:
                scores[i, answer.label] = answer.score
    return scores


@torch.no_grad()
@torch.compiler.set_stance("force_eager")
def _branches_exactly(model: PreTrainedModel) -> bool:
    """True if a search in the model's cache ends with the scores that whole labels have."""
    shared, *ends, first, second = made_up_tokens(model, 9, 2, 5, 3, 3)
    prompts = [shared + end for end in ends]
    answers = [first, second]
    with in_float32(model) as exact:
        dtype = torch.float32 if exact else model.dtype
        whole = score_labels(model, prompts, answers, token_budget=128, compute_dtype=dtype)
        try:
            prefix, rests = prefill_shared(model, prompts, dtype)
            trie = LabelTrie.build(answers)
            found = _search(Branches(model, rests, trie, prefix, dtype), trie, False)
        except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):
            return False
    off = [
        abs(answer.score - scores[answer.label])
        for answers_found, scores in zip(found, whole, strict=True)
        for answer in answers_found
    ]
    return max(off) <= SCORE_TOLERANCE[exact]


def _search(branches: Branches | Recomputed, trie: LabelTrie, greedy: bool) -> list[list[Answer]]:
    """The whole labels that the search for each of B prompts ends with, the best one among them."""
    children = _children(trie)
    chains = _chains(children)
    following = [  # tokens whose probability each node of the chain is asked for
        [*([trie.tokens[node]] for node in nodes[1:]), [token for token, *_ in children[nodes[-1]]]]
        for nodes in chains
    ]
    active = list(range(len(branches.rests)))
    pools: list[list[Answer]] = [[] for _ in active]  # what may still win, best first
    extended = [[Answer(0.0, 0, -1, ())] for _ in active]  # what the last pass has computed
    states = branches.start()
    while True:
        asked = [following[answer.node] for answers in extended for answer in answers]
        log_probs = iter(branches.log_probs(states, list(chain.from_iterable(asked))))
        for i, answers in zip(active, extended, strict=True):
            for answer in answers:
                nodes = chains[answer.node]
                *inside, ends = islice(log_probs, len(nodes))
                score = answer.score + sum(log_prob for (log_prob,) in inside)
                pools[i] += [
                    replace(answer, score=score + log_prob, node=node, label=label)
                    for log_prob, (_, node, label) in zip(ends, children[nodes[-1]], strict=True)
                ]
            pools[i] = sorted(pools[i], key=lambda answer: -answer.score)[: 1 if greedy else None]
        unfinished = [row for row, i in enumerate(active) if pools[i][0].label < 0]
        if not unfinished:
            return [[answer for answer in pool if answer.label >= 0] for pool in pools]
        branches.keep(unfinished)
        active = [active[row] for row in unfinished]
        chosen = []
        for i in active:
            front = pools[i][: 1 if greedy else FRONT]
            if not greedy:  # behind a whole label, none can be more probable than it
                near = [answer for answer in front if answer.score >= front[0].score - NEAR]
                front = list(takewhile(lambda answer: answer.label < 0, near))
            chosen.append([answer for answer in front if answer.label < 0])
            pools[i] = [answer for answer in front if answer.label >= 0] + pools[i][len(front) :]
        extended, states = branches.grow(chosen, chains)


def _children(trie: LabelTrie) -> list[list[tuple[int, int, int]]]:
    """What may follow each node: a token and where it leads, a node or, after an end, a label."""
    node_of = {
        (parent, token): node
        for node, (parent, token) in enumerate(zip(trie.parents, trie.tokens, strict=True))
    }
    label_of = {path[-1]: label for label, path in enumerate(trie.label_edges)}
    children: list[list[tuple[int, int, int]]] = [[] for _ in trie.tokens]
    for edge, (node, token) in enumerate(trie.edges):
        # A token that ends one label may also go on in others: then it leads to both.
        if edge in label_of:
            children[node].append((token, node, label_of[edge]))
        if (node, token) in node_of:
            children[node].append((token, node_of[node, token], -1))
    return children


def _chains(children: list[list[tuple[int, int, int]]]) -> list[list[int]]:
    """Each node, and those that follow it without an alternative: computed in one pass with it."""
    chains = []
    for node in range(len(children)):
        nodes = [node]
        # The root stands for the prompt, which is computed before the search.
        while node and len(children[nodes[-1]]) == 1 and children[nodes[-1]][0][2] < 0:
            nodes.append(children[nodes[-1]][0][1])
        chains.append(nodes)
    return chains
