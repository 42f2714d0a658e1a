"""The best label by search over the label trie, where scoring every label would cost more."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice, takewhile

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from lib.causal import causal_lm, next_token_logits
from lib.data import micro_batches
from lib.decoding import LabelTrie, additive_mask, behind, prefill_shared
from lib.device import mixed_precision
from lib.layers import reading_only

# Beginnings that best-first search extends a round, before it knows that it needs them: so many, if
# they are at most so many nats behind the best one, half as probable (tests/benchmarks/NOTES.md).
FRONT, NEAR = 8, 0.7


@dataclass(frozen=True)
class _Answer:
    """A beginning of an answer, or a whole one.

    Attributes
    ----------
    score
        log p(tokens so far | prompt).
    node
        Of the trie; its last token, unless the answer is whole.
    label
        Which one the answer is once whole, end token included; -1 before.
    columns
        Where in the cache the tokens before `node` stand; once it is computed, those of its chain
        too.
    """

    score: float
    node: int
    label: int
    columns: tuple[int, ...]


@torch.inference_mode()
@torch.compiler.set_stance("force_eager")
def search_labels(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    label_texts: Sequence[Sequence[int]],
    *,
    num_beams: int | None,
    token_budget: int,
    compute_dtype: torch.dtype,
) -> np.ndarray:
    """Log-probabilities, (N, C) float32, of the labels that a search ends with; -inf elsewhere.

    Whatever is searched, nothing but a label can be answered. A prompt is computed once; each round
    then computes the tokens that the search asks for, up to where labels part next, behind their
    own ancestors (tree attention, as in `score_labels`).

    Parameters
    ----------
    prompts, label_texts
        As in `score_labels`.
    num_beams
        1: greedy, the most probable token wherever labels part. k: beam search, the k most
        probable beginnings are kept each round. None: best-first search (uniform-cost search);
        each round extends the most probable beginning and what is nearly as probable (`FRONT`,
        `NEAR`). Probabilities only fall along a path, so the first whole label that comes to the
        front is the most probable of all: the argmax of `score_labels`, while what is less
        probable is never computed.
    token_budget
        About how many tokens a batch of prompts holds, those of beams included; a best-first
        search that goes back often holds more.
    """
    if num_beams is not None and num_beams < 1:
        raise ValueError(f"num_beams: {num_beams} is not positive")
    model = causal_lm(model).eval()
    trie = LabelTrie.build(label_texts)
    prefix, rests = prefill_shared(model, prompts, trie, compute_dtype)
    scores = np.full((len(prompts), len(label_texts)), -np.inf, dtype=np.float32)
    # Each prompt has a column a beam and round in the cache.
    added = (num_beams or FRONT) * max(trie.depths)
    for batch in micro_batches([added + len(rest) for rest in rests], token_budget):
        found = _search(model, [rests[i] for i in batch], trie, prefix, num_beams, compute_dtype)
        for i, answers in zip(batch, found, strict=True):
            for answer in answers:
                scores[i, answer.label] = answer.score
    return scores


def _search(
    model: PreTrainedModel,
    rests: list[list[int]],
    trie: LabelTrie,
    prefix: DynamicCache | None,
    num_beams: int | None,
    compute_dtype: torch.dtype,
) -> list[list[_Answer]]:
    """The whole labels that the search for each of B prompts ends with, the best one among them."""
    children = _children(trie)
    chains = _chains(children)
    following = [  # tokens whose probability each node of the chain is asked for
        [*([trie.tokens[node]] for node in nodes[1:]), [token for token, *_ in children[nodes[-1]]]]
        for nodes in chains
    ]
    branches = _Branches(model, rests, trie, prefix, compute_dtype)
    active = list(range(len(rests)))
    pools: list[list[_Answer]] = [[] for _ in rests]  # what may still win, best first
    extended = [[_Answer(0.0, 0, -1, ())] for _ in rests]  # what the last pass has computed
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
            pools[i] = sorted(pools[i], key=lambda answer: -answer.score)[:num_beams]
        unfinished = [row for row, i in enumerate(active) if pools[i][0].label < 0]
        if not unfinished:
            return [[answer for answer in pool if answer.label >= 0] for pool in pools]
        branches.keep(unfinished)
        active = [active[row] for row in unfinished]
        chosen = []
        for i in active:
            front = pools[i][: num_beams or FRONT]
            if num_beams is None:  # behind a whole label, none can be more probable than it
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


class _Branches:
    """B prompts in the cache, and behind each of them the trie nodes computed so far."""

    def __init__(
        self,
        model: PreTrainedModel,
        rests: list[list[int]],
        trie: LabelTrie,
        prefix: DynamicCache | None,
        compute_dtype: torch.dtype,
    ) -> None:
        self.model, self.trie, self.compute_dtype = model, trie, compute_dtype
        self.rests, self.cache = rests, DynamicCache()
        self.num_shared, self.shared = behind(prefix)
        self.lengths = torch.tensor([len(rest) for rest in rests])
        keys = torch.arange(max(map(len, rests)))
        self.prompt = keys < self.lengths[:, None]  # (B, keys): not padding

    def start(self) -> Tensor:
        """Compute the prompts; the state, (B, H), at the end of each."""
        size, longest = len(self.rests), int(self.lengths.max())
        input_ids = torch.zeros(size, longest, dtype=torch.long)
        for row, rest in enumerate(self.rests):
            input_ids[row, : len(rest)] = torch.tensor(rest)
        visible = torch.ones(size, longest, longest, dtype=torch.bool).tril()
        ends = torch.arange(longest) == self.lengths[:, None] - 1  # (B, T)
        return self._forward(input_ids, torch.arange(longest).repeat(size, 1), visible, ends)

    def keep(self, rows: list[int]) -> None:
        """Forget the other prompts."""
        if len(rows) < len(self.lengths):
            self.cache.batch_select_indices(torch.tensor(rows, device=self.model.device))
            self.lengths, self.prompt = self.lengths[rows], self.prompt[rows]

    def grow(
        self, chosen: list[list[_Answer]], chains: list[list[int]]
    ) -> tuple[list[list[_Answer]], Tensor]:
        """Compute the chains at the ends of answers; the answers, and the state of each node."""
        first = self.cache.get_seq_length()
        width = max(sum(len(chains[answer.node]) for answer in answers) for answers in chosen)
        input_ids = torch.zeros(len(chosen), width, dtype=torch.long)
        positions = torch.zeros(len(chosen), width, dtype=torch.long)
        visible = torch.zeros(len(chosen), width, first + width, dtype=torch.bool)
        visible[:, :, : self.prompt.shape[1]] = self.prompt[:, None]
        read = torch.zeros(len(chosen), width, dtype=torch.bool)
        extended = []
        for row, answers in enumerate(chosen):
            grown, column = [], 0
            for answer in answers:
                columns = list(answer.columns)
                for node in chains[answer.node]:
                    columns.append(first + column)
                    input_ids[row, column] = self.trie.tokens[node]
                    positions[row, column] = self.lengths[row] - 1 + self.trie.depths[node]
                    visible[row, column, columns] = True
                    read[row, column] = True
                    column += 1
                grown.append(replace(answer, columns=tuple(columns)))
            extended.append(grown)
        return extended, self._forward(input_ids, positions, visible, read)

    def log_probs(self, states: Tensor, tokens: list[list[int]]) -> list[list[float]]:
        """log p(token) of some next tokens behind each of n states, (n, H)."""
        with mixed_precision(self.model.device, self.compute_dtype):
            logits = next_token_logits(self.model, states).float()  # (n, V)
        counts = [len(asked) for asked in tokens]
        columns = torch.tensor(list(chain.from_iterable(tokens)), device=states.device)
        rows = torch.arange(len(tokens), device=states.device)
        rows = rows.repeat_interleave(torch.tensor(counts, device=states.device))
        found = iter((logits[rows, columns] - logits.logsumexp(-1)[rows]).tolist())
        return [list(islice(found, count)) for count in counts]

    def _forward(
        self, input_ids: Tensor, positions: Tensor, visible: Tensor, read: Tensor
    ) -> Tensor:
        """The n last hidden states that are read, (n, H), of (B, T); the cache grows by T."""
        device, read = self.model.device, read.to(self.model.device)
        decoder = self.model.model
        with mixed_precision(device, self.compute_dtype), reading_only(decoder, read):
            states = decoder(
                input_ids=input_ids.to(device),
                position_ids=(self.num_shared + positions).to(device),
                attention_mask=additive_mask(visible, self.model.dtype).to(device),
                past_key_values=self.cache,
                use_cache=True,
                **self.shared,
            ).last_hidden_state
        return states[read]
