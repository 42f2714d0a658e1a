"""Classifiers on an embedding: linear, or with a hidden layer.

A classifier computes features (B, D) of embeddings (B, H), all float32. Its caller computes
logits = features weight^T + bias, with the classifier's (C, D) weight and perhaps a (C,) bias, so
that it may do so for some labels at a time (`lib.head.chunked`).
"""

import torch
from torch import Tensor, nn


class LinearHead(nn.Linear):
    """One weight per dimension and label, in float32."""

    def __init__(self, hidden_size: int, num_labels: int, bias: bool) -> None:
        super().__init__(hidden_size, num_labels, bias=bias, dtype=torch.float32)

    def features(self, pooled: Tensor) -> Tensor:
        """(B, D) features of a (B, H) embedding: the embedding itself."""
        return pooled


class MLPHead(LinearHead):
    """A dense layer with tanh before the linear one, as in RoBERTa's code (arXiv 1907.11692)."""

    def __init__(self, hidden_size: int, num_labels: int, bias: bool) -> None:
        super().__init__(hidden_size, num_labels, bias)
        self.dense = nn.Linear(hidden_size, hidden_size, dtype=torch.float32)

    def features(self, pooled: Tensor) -> Tensor:
        """(B, H) features of a (B, H) embedding: tanh of the dense layer."""
        return torch.tanh(self.dense(pooled))


KINDS = {"linear": LinearHead, "mlp": MLPHead}
