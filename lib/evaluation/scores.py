"""Scores of documents by labels: of every label or, where there are very many, of the best ones.

Other code takes either form by the methods of `Scores`. The truth has two forms as well, dense and
sparse, which `data.labels` makes.

    all labels (C = 4)              the K = 2 best of C = 50,000
    values  .1 .7 .0 .2             values  .7 .2
    labels  None                    labels  31,007  4
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from scipy.sparse import csr_array
from scipy.special import expit, softmax

Labels = np.ndarray | csr_array  # (N, C) bool, multi-hot; sparse where there are very many labels
Groups = Sequence[str] | np.ndarray | None  # (N,) each document's group; None: all independent


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of N documents by C labels, the higher the likelier: logits, probabilities, margins.

    `np.asarray` returns them as (N, C) and raises `ValueError` if labels were left out.

    Attributes
    ----------
    values, labels
        (N, K) float and (N, K) int: scores and labels of the K best of each document, in any order.
        Where `labels` is None, `values` is (N, C), in the order of the labels.
    num_labels
        C; it need not be given if `labels` is None.
    """

    values: np.ndarray
    labels: np.ndarray | None = None
    num_labels: int = 0

    def __post_init__(self) -> None:
        if self.labels is None:
            object.__setattr__(self, "num_labels", self.values.shape[1])

    def __len__(self) -> int:
        return len(self.values)

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        if self.labels is not None:
            raise ValueError(
                f"scores: of {self.num_labels:,} labels only the best {self.values.shape[1]} are "
                "kept per document; use `values` and `labels`"
            )
        return np.array(self.values, dtype=dtype, copy=copy)

    @property
    def shape(self) -> tuple[int, int]:
        """Documents and labels, (N, C)."""
        return len(self), self.num_labels

    @property
    def columns(self) -> np.ndarray:
        """The label of each value, (N, K) int."""
        if self.labels is None:
            return np.broadcast_to(np.arange(self.num_labels), self.values.shape)
        return self.labels

    def softmax(self) -> Self:
        """Probabilities, float32, over the K labels kept, from logits or log-likelihoods."""
        return replace(self, values=softmax(self.values, axis=1).astype(np.float32))

    def sigmoid(self) -> Self:
        """Probabilities of each label on its own, float32, from logits."""
        return replace(self, values=expit(self.values).astype(np.float32))

    def best(self) -> np.ndarray:
        """The label with the highest score, (N,) int."""
        return self.columns[np.arange(len(self)), self.values.argmax(axis=1)]

    def labels_above(self, threshold: float, *, may_be_empty: bool = False) -> Labels:
        """Label sets, (N, C) bool: every label that scores at least the threshold, and the best.

        Where a set `may_be_empty` (`LabelSpace.may_be_empty`), the best label is in it only if it
        reaches the threshold. Otherwise an infinite threshold leaves the best label alone.
        """
        chosen = self.values >= threshold
        if not may_be_empty:
            chosen[np.arange(len(self)), self.values.argmax(axis=1)] = True
        if self.labels is None:
            return chosen
        starts = np.concatenate([[0], chosen.sum(axis=1).cumsum()])
        indices = self.labels[chosen]
        return csr_array((np.ones(len(indices), dtype=bool), indices, starts), shape=self.shape)

    def ranked(self, y_true: Labels, k: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The k highest scores of each document, falling, and bool: True where the label is true.

        Both are (N, k), or (N, K) without `k`; equal scores stay in order. `y_true` is (N, C) bool.
        """
        order = np.argsort(-self.values, axis=1, kind="stable")[:, :k]
        columns = np.take_along_axis(self.columns, order, axis=1)
        rows = np.repeat(np.arange(len(self)), columns.shape[1])
        hits = np.asarray(y_true[rows, columns.ravel()]).reshape(columns.shape).astype(bool)
        return np.take_along_axis(self.values, order, axis=1), hits

    def to_rows(self) -> dict[str, list[np.ndarray]]:
        """Columns of a table: `scores`, (K,) float32 per document, and `score_labels` if K < C."""
        rows = {"scores": list(np.asarray(self.values, dtype=np.float32))}
        if self.labels is not None:
            rows["score_labels"] = list(self.labels.astype(np.int32))
        return rows

    @classmethod
    def from_rows(cls, rows: Mapping[str, Sequence[np.ndarray]], num_labels: int) -> Self:
        """Scores from a table with the columns that `to_rows` returns."""
        labels = np.stack(list(rows["score_labels"])) if "score_labels" in rows else None
        return cls(np.stack(list(rows["scores"])), labels, num_labels)
