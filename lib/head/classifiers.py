"""Classifiers on an embedding: linear, with a hidden layer, by cosine.

A head is features (B, D), a row of weights a label (C, D) and perhaps a bias (C,): logits =
features rows^T + bias.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from lib.config.choices import HEADS


class LinearHead(nn.Linear):
    """A weight for each dimension and label, in float32."""

    def __init__(self, hidden_size: int, num_labels: int, bias: bool) -> None:
        super().__init__(hidden_size, num_labels, bias=bias, dtype=torch.float32)

    def features(self, pooled: Tensor) -> Tensor:
        """(B, D) features of a (B, H) embedding: the embedding itself."""
        return pooled

    def rows(self) -> Tensor:
        """(C, D) weights."""
        return self.weight


class MLPHead(LinearHead):
    """A dense layer with tanh before the linear one, as RoBERTa's head (arXiv 1907.11692)."""

    def __init__(self, hidden_size: int, num_labels: int, bias: bool) -> None:
        super().__init__(hidden_size, num_labels, bias)
        self.dense = nn.Linear(hidden_size, hidden_size, dtype=torch.float32)

    def features(self, pooled: Tensor) -> Tensor:
        """(B, H) of a (B, H) embedding."""
        return torch.tanh(self.dense(pooled))


class CosineHead(LinearHead):
    """Scaled cosine of the embedding and a prototype a label (Baseline++ of arXiv 1904.04232).

    The scale is trained and starts at 16.
    """

    def __init__(self, hidden_size: int, num_labels: int, bias: bool) -> None:
        super().__init__(hidden_size, num_labels, bias)
        self.log_scale = nn.Parameter(torch.tensor(16.0).log())

    def features(self, pooled: Tensor) -> Tensor:
        """(B, H): the embedding at length `scale`."""
        return self.log_scale.exp() * functional.normalize(pooled, dim=1)

    def rows(self) -> Tensor:
        """(C, H) prototypes at unit length."""
        return functional.normalize(self.weight, dim=1)


KINDS = {"linear": LinearHead, "mlp": MLPHead, "cosine": CosineHead}


def build_head(kind: str, hidden_size: int, num_labels: int, *, bias: bool = True) -> LinearHead:
    """A head: "linear", "mlp" (`MLPHead`) or "cosine" (`CosineHead`), with or without a bias."""
    if kind not in HEADS:
        raise ValueError(f"head: {kind!r} is not known; use {', '.join(HEADS)}")
    return KINDS[kind](hidden_size, num_labels, bias)
