"""Beginnings of answers behind prompts: how the states at their ends are computed.

`Branches` keeps prompts and branches in a cache; `Recomputed` has none and computes them anew, for
models whose layers cannot branch.
"""

from dataclasses import dataclass, replace
from itertools import chain, islice

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from lib.model.forward import masked_states, next_token_logits
from lib.prompt.label_scores import plain_states
from lib.prompt.label_trie import LabelTrie


@dataclass(frozen=True)
class Answer:
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


class Branches:
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
        self.prefix = prefix
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
        self, chosen: list[list[Answer]], chains: list[list[int]]
    ) -> tuple[list[list[Answer]], Tensor]:
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
        return _log_probs(self.model, states, tokens, self.compute_dtype)

    def _forward(
        self, input_ids: Tensor, positions: Tensor, visible: Tensor, read: Tensor
    ) -> Tensor:
        """The n last hidden states that are read, (n, H), of (B, T); the cache grows by T."""
        inputs = (x.to(self.model.device) for x in (input_ids, positions, visible, read))
        return masked_states(
            self.model,
            *inputs,
            compute_dtype=self.compute_dtype,
            prefix=self.prefix,
            cache=self.cache,
        )


class Recomputed:
    """B prompts without a cache: whatever is asked for, prompt and answer are computed anew."""

    def __init__(
        self,
        model: PreTrainedModel,
        rests: list[list[int]],
        trie: LabelTrie,
        token_budget: int,
        compute_dtype: torch.dtype,
    ) -> None:
        self.model, self.trie, self.rests = model, trie, rests
        self.token_budget, self.compute_dtype = token_budget, compute_dtype

    def start(self) -> Tensor:
        """The state, (B, H), at the end of each prompt."""
        return self._states(self.rests, [[len(rest) - 1] for rest in self.rests])

    def keep(self, rows: list[int]) -> None:
        """Forget the other prompts."""
        self.rests = [self.rests[row] for row in rows]

    def grow(
        self, chosen: list[list[Answer]], chains: list[list[int]]
    ) -> tuple[list[list[Answer]], Tensor]:
        """The answers, and the state of each node of the chains at their ends, as `Branches`."""
        rows, reads = [], []
        for rest, answers in zip(self.rests, chosen, strict=True):
            for answer in answers:
                nodes = [*self.trie.path(answer.node), *chains[answer.node][1:]]
                rows.append([*rest, *(self.trie.tokens[node] for node in nodes)])
                num_read = len(chains[answer.node])
                reads.append(list(range(len(rows[-1]) - num_read, len(rows[-1]))))
        return chosen, self._states(rows, reads)

    def log_probs(self, states: Tensor, tokens: list[list[int]]) -> list[list[float]]:
        """log p(token) of some next tokens behind each of n states, (n, H)."""
        return _log_probs(self.model, states, tokens, self.compute_dtype)

    def _states(self, rows: list[list[int]], reads: list[list[int]]) -> Tensor:
        return plain_states(self.model, rows, reads, self.token_budget, self.compute_dtype)


def _log_probs(
    model: PreTrainedModel, states: Tensor, tokens: list[list[int]], compute_dtype: torch.dtype
) -> list[list[float]]:
    """log p(token) of some next tokens behind each of n states, (n, H)."""
    logits = next_token_logits(model, states, compute_dtype).float()  # (n, V)
    counts = [len(asked) for asked in tokens]
    columns = torch.tensor(list(chain.from_iterable(tokens)), device=states.device)
    rows = torch.arange(len(tokens), device=states.device)
    rows = rows.repeat_interleave(torch.tensor(counts, device=states.device))
    found = iter((logits[rows, columns] - logits.logsumexp(-1)[rows]).tolist())
    return [list(islice(found, count)) for count in counts]
