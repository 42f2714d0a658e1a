"""Beginnings of answers behind prompts, and the hidden states at their ends.

`Branches` keeps prompts and branches in a cache of keys and values. `Recomputed` has no cache and
computes prompt and answer anew each time, for models whose layers cannot branch. Both serve
`lib.prompt.search`, which extends a beginning by a chain: a node of the label trie with those that
follow it without an alternative (`LabelTrie.chains`).
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import DynamicCache

from lib.model.batches import pad
from lib.model.forward import masked_states
from lib.prompt.label_scores import Reader, plain_states
from lib.prompt.label_trie import LabelTrie


@dataclass(frozen=True)
class Answer:
    """A beginning of an answer, or a whole one."""

    score: float  # log p(tokens so far | prompt)
    node: int  # of the trie, of the last token (of a whole answer, of the one before its end token)
    label: int  # index of the label if the answer is whole, its end token included; else -1
    # Columns of the cache that hold the tokens before `node`; once its chain is computed, also
    # those of the chain.
    columns: tuple[int, ...]


@dataclass
class Branches:
    """B prompts in the cache, and behind each of them the trie nodes computed so far."""

    reader: Reader
    rests: list[list[int]]  # token ids of each prompt behind the prefix
    trie: LabelTrie
    prefix: DynamicCache | None  # keys and values that all prompts begin with (`shared_prefix`)

    def __post_init__(self) -> None:
        self.cache = DynamicCache()
        self.input_ids, real = pad(self.rests, 0)
        self.prompt = real.bool()  # (B, keys): not padding
        self.lengths = real.sum(dim=1)

    def start(self) -> Tensor:
        """Hidden state at the end of each prompt, (B, H), after computing all prompts."""
        size, longest = self.input_ids.shape
        visible = torch.ones(size, longest, longest, dtype=torch.bool).tril()
        positions = torch.arange(longest).repeat(size, 1)
        ends = positions == self.lengths[:, None] - 1  # (B, T)
        return self._forward(self.input_ids, positions, visible, ends)

    def keep(self, rows: list[int]) -> None:
        """Drop all prompts but these rows."""
        if len(rows) < len(self.lengths):
            self.cache.batch_select_indices(torch.tensor(rows, device=self.reader.model.device))
            self.lengths, self.prompt = self.lengths[rows], self.prompt[rows]

    def grow(
        self, chosen: list[list[Answer]], chains: list[list[int]]
    ) -> tuple[list[list[Answer]], Tensor]:
        """Answers with their new columns, and the hidden states of their chains' nodes, (n, H).

        `chosen` has the answers to extend of each prompt, `chains` the chain of each trie node.

        ```
        cache    | prompt . . | nodes of earlier rounds |  this round: chain of a | chain of b |
        a sees   | prompt     | its own columns         |  itself                 |            |
        ```
        """
        first = self.cache.get_seq_length()
        width = max(sum(len(chains[answer.node]) for answer in answers) for answers in chosen)
        input_ids = torch.zeros(len(chosen), width, dtype=torch.long)
        positions = torch.zeros(len(chosen), width, dtype=torch.long)
        read = torch.zeros(len(chosen), width, dtype=torch.bool)
        visible = torch.zeros(len(chosen), width, first + width, dtype=torch.bool)
        visible[:, :, : self.prompt.shape[1]] = self.prompt[:, None]
        extended = []
        for row, answers in enumerate(chosen):
            grown, column = [], 0
            for answer in answers:
                # Each node of the chain gets the next column and sees those of its ancestors.
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

    def _forward(
        self, input_ids: Tensor, positions: Tensor, visible: Tensor, read: Tensor
    ) -> Tensor:
        """The n last hidden states that are read, (n, H), of (B, T); the cache grows by T."""
        model, _, compute_dtype = self.reader
        inputs = (x.to(model.device) for x in (input_ids, positions, visible, read))
        options = {"compute_dtype": compute_dtype, "prefix": self.prefix, "cache": self.cache}
        return masked_states(model, *inputs, **options)


@dataclass
class Recomputed:
    """B prompts without a cache; the methods return what those of `Branches` do."""

    reader: Reader
    rests: list[list[int]]
    trie: LabelTrie

    def start(self) -> Tensor:
        """Hidden state at the end of each prompt, (B, H)."""
        return plain_states(self.reader, self.rests, [[len(rest) - 1] for rest in self.rests])

    def keep(self, rows: list[int]) -> None:
        """Drop all prompts but these rows."""
        self.rests = [self.rests[row] for row in rows]

    def grow(
        self, chosen: list[list[Answer]], chains: list[list[int]]
    ) -> tuple[list[list[Answer]], Tensor]:
        """Answers as they were, and the hidden states of their chains' nodes, (n, H)."""
        rows, reads = [], []
        for rest, answers in zip(self.rests, chosen, strict=True):
            for answer in answers:
                nodes = [*self.trie.path(answer.node), *chains[answer.node][1:]]
                rows.append([*rest, *(self.trie.tokens[node] for node in nodes)])
                num_read = len(chains[answer.node])
                reads.append(list(range(len(rows[-1]) - num_read, len(rows[-1]))))
        return chosen, plain_states(self.reader, rows, reads)
