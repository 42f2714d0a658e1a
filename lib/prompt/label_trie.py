"""Label trie: answers as token ids, merged where they begin alike.

```
answers   g as .         root 0 - g 1 -+- as 2        tokens   -1  g  as  rain
          g rain .                     +- rain 3      parents  -1  0   1     1
                                                      depths    0  1   2     2
edges     (0, g) (1, as) (2, .) (1, rain) (3, .): node and next token; "g rain ." is 0, 3, 4
```
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor

from lib.errors import InputError


class Step(NamedTuple):
    """A token that may follow a node, and the node it leads to or, after an end, the label."""

    token: int
    node: int
    label: int  # -1 within a label


@dataclass(frozen=True)
class LabelTrie:
    """Label answers merged at common prefixes, as flat arrays.

    Node 0 is the root, the end of the prompt; nodes 1 ... M-1 hold one token each, parents before
    children. End tokens make no node: nothing follows them.
    """

    tokens: list[int]  # of each node; -1 of the root
    parents: list[int]  # of each node; -1 of the root
    depths: list[int]  # of each node; 0 of the root
    edges: list[tuple[int, int]]  # node and next token: E distinct pairs
    label_edges: list[list[int]]  # of each label: the edges whose log-probabilities add up

    @classmethod
    def build(cls, answers: Sequence[Sequence[int]], given: Sequence[int] | None = None) -> Self:
        """Trie over token ids of whole answers, each with its end token.

        The first `given[i]` tokens of answer i are no part of its score.

        Raises
        ------
        InputError
            Two answers have the same tokens, so no model can tell them apart.
        """
        if len({tuple(answer) for answer in answers}) < len(answers):
            raise InputError("two labels have the same tokens; give them different texts")
        tokens, parents, depths = [-1], [-1], [0]
        node_of: dict[tuple[int, int], int] = {}  # by its parent and its token
        edge_of: dict[tuple[int, int], int] = {}
        label_edges = []
        for answer, start in zip(answers, given or [0] * len(answers), strict=True):
            node, path = 0, []
            for depth, token in enumerate(answer, start=1):
                edge = (node, token)
                if depth > start:
                    path.append(edge_of.setdefault(edge, len(edge_of)))
                if depth == len(answer):  # the end token makes no node
                    break
                if edge not in node_of:
                    node_of[edge] = len(tokens)
                    tokens.append(token)
                    parents.append(node)
                    depths.append(depth)
                node = node_of[edge]
            label_edges.append(path)
        return cls(tokens, parents, depths, list(edge_of), label_edges)

    def path(self, node: int) -> list[int]:
        """Nodes on the way from the root, which is left out, to `node`, which is included."""
        nodes = []
        while node:
            nodes.append(node)
            node = self.parents[node]
        return nodes[::-1]

    def visibility(self) -> Tensor:
        """(M, M) bool: each node attends to itself and its ancestors."""
        visible = torch.eye(len(self.tokens), dtype=torch.bool)
        for node, parent in enumerate(self.parents[1:], start=1):
            visible[node] |= visible[parent]
        return visible

    def steps(self) -> list[list[Step]]:
        """Steps that may follow each node: a list per node."""
        pairs = zip(self.parents, self.tokens, strict=True)
        node_of = {pair: node for node, pair in enumerate(pairs)}
        label_of = {path[-1]: label for label, path in enumerate(self.label_edges)}
        steps: list[list[Step]] = [[] for _ in self.tokens]
        for edge, (node, token) in enumerate(self.edges):
            # A token may end one label and continue others: it then leads to both.
            if edge in label_of:
                steps[node].append(Step(token, node, label_of[edge]))
            if (node, token) in node_of:
                steps[node].append(Step(token, node_of[node, token], -1))
        return steps

    def chains(self) -> list[list[int]]:
        """Chain of each node: the node, and those that follow it without an alternative.

        One pass computes a chain. The root is computed with the prompt, so that its chain is the
        root alone.
        """
        steps, chains = self.steps(), []
        for node in range(len(self.tokens)):
            nodes = [node]
            while node and len(steps[nodes[-1]]) == 1 and steps[nodes[-1]][0].label < 0:
                nodes.append(steps[nodes[-1]][0].node)
            chains.append(nodes)
        return chains
