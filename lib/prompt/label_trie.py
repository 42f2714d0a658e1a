"""The label trie: answers as token ids, merged where they begin alike."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor


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

    def path(self, node: int) -> list[int]:
        """Nodes from behind the root to `node`, itself included; none for the root."""
        nodes = []
        while node:
            nodes.append(node)
            node = self.parents[node]
        return nodes[::-1]

    def visibility(self) -> Tensor:
        """(M, M) bool: which nodes each node attends to, itself and its ancestors."""
        visible = torch.eye(len(self.tokens), dtype=torch.bool)
        for node, parent in enumerate(self.parents[1:], start=1):
            visible[node] |= visible[parent]
        return visible
