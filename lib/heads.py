"""Classifiers on an embedding and their losses, for two labels or for a hundred thousand.

A head is features (B, D), a row of weights a label (C, D) and perhaps a bias (C,): logits =
features rows^T + bias. Losses that are sums over labels are computed in chunks of labels, so that
no (B, C) logits, probabilities and gradients stand in memory at once.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from lib.params import HEADS, LOSSES

CHUNK = 4096  # labels computed at once: 1 MiB of logits for 64 documents (chosen here)
MAX_SOFTMAX = 100_000  # labels that share one softmax, which cannot be computed in chunks
FOCAL_GAMMA = 2.0  # arXiv 1708.02002, section 4.1
ASYMMETRIC_GAMMA, ASYMMETRIC_MARGIN = 4.0, 0.05  # arXiv 2009.14119, section 3.1, for negatives


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


@dataclass(frozen=True)
class HeadLoss:
    """A loss of logits and targets, summed over documents (and over labels, for label sets).

    Attributes
    ----------
    kind
        One label a document (softmax): "cross_entropy"; "focal" (arXiv 1708.02002, equation 4, with
        p the softmax); "logit_adjusted" (arXiv 2007.07314, equation 10, tau = 1). Label sets
        (sigmoid): "cross_entropy", that is binary; "focal"; "asymmetric" (arXiv 2009.14119,
        equation 7; gamma 0 for positives); "logit_adjusted", with the log odds of each label added.
    num_labels
        C.
    weights
        (C,) float32, or None. Of a document's label, or of a label's positives.
    prior
        (C,) float32, or None: what "logit_adjusted" adds to logits in training, and only there.
    smoothing
        Label smoothing in [0, 1) (arXiv 1512.00567, section 7); a label of a set becomes
        1 - smoothing / 2, another one smoothing / 2.
    multi_label
        What targets that are probabilities stand for: a sigmoid for each label, or one softmax.
    """

    kind: str
    num_labels: int
    weights: Tensor | None = None
    prior: Tensor | None = None
    smoothing: float = 0.0
    multi_label: bool = False

    @classmethod
    def build(
        cls,
        kind: str,
        label_counts: np.ndarray,
        num_documents: int,
        *,
        multi_label: bool,
        class_weights: str = "none",
        smoothing: float = 0.0,
    ) -> "HeadLoss":
        """The loss for a training split with (C,) documents of each label.

        Parameters
        ----------
        class_weights
            "none"; or "balanced": N / (C n) as scikit-learn weighs classes, and for label sets
            (N - n) / n on positives, as `torch.nn.BCEWithLogitsLoss` advises.

        Raises
        ------
        ValueError
            Unknown loss, a loss that does not fit, weights for a label without training documents,
            or more labels than one softmax takes.
        """
        counts = torch.as_tensor(np.asarray(label_counts), dtype=torch.float32)
        if kind not in LOSSES:
            raise ValueError(f"loss: {kind!r} is not known; use {', '.join(LOSSES)}")
        if kind == "asymmetric" and not multi_label:
            raise ValueError('loss: "asymmetric" is for label sets; write label_mode: "multi"')
        if not multi_label and len(counts) > MAX_SOFTMAX:
            raise ValueError(
                f"num_labels: one softmax over {len(counts):,} labels cannot be computed in "
                f'chunks, {MAX_SOFTMAX:,} is the most; with label_mode "multi" there is no limit'
            )
        weights = prior = None
        if class_weights == "balanced":
            if absent := (counts == 0).nonzero().flatten().tolist():
                raise ValueError(
                    f'class_weights: "balanced" has no weight for labels {absent[:5]}, which no '
                    "training document has; set min_support, or class_weights: none"
                )
            weights = num_documents / (len(counts) * counts)
            if multi_label:
                weights = (num_documents - counts) / counts
        if kind == "logit_adjusted":
            shares = (counts + 1) / (num_documents + 2)
            prior = torch.logit(shares) if multi_label else shares.log()
        return cls(kind, len(counts), weights, prior, smoothing, multi_label)

    def of_labels(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Loss of (B, C) logits and (B,) int64 labels or, for cross-entropy, (B, C) shares."""
        if self.prior is not None:
            logits = logits + self.prior.to(logits.device)
        weights = None if self.weights is None else self.weights.to(logits.device)
        if self.kind != "focal":
            return functional.cross_entropy(
                logits, targets, weight=weights, reduction="sum", label_smoothing=self.smoothing
            )
        options = {"reduction": "none", "label_smoothing": self.smoothing}
        losses = functional.cross_entropy(logits, targets, weight=weights, **options)
        p = logits.softmax(dim=1).gather(1, targets[:, None])[:, 0]
        return ((1 - p) ** FOCAL_GAMMA * losses).sum()

    def of_sets(self, logits: Tensor, multi_hot: Tensor, labels: slice) -> Tensor:
        """Loss of (B, c) logits and float32 targets of some of the labels."""
        if self.prior is not None:
            logits = logits + self.prior[labels].to(logits.device)
        truth = multi_hot * (1 - self.smoothing) + self.smoothing / 2
        if self.kind == "asymmetric":
            shifted = (logits.sigmoid() - ASYMMETRIC_MARGIN).clamp(min=0)
            positive = functional.logsigmoid(logits)
            negative = shifted**ASYMMETRIC_GAMMA * torch.log1p(-shifted)
            losses = -(truth * positive + (1 - truth) * negative)
        else:
            losses = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
        if self.kind == "focal":
            p = logits.sigmoid()
            losses = (multi_hot * (1 - p) + (1 - multi_hot) * p) ** FOCAL_GAMMA * losses
        if self.weights is not None:
            weights = self.weights[labels].to(logits.device)
            losses = losses * torch.where(multi_hot > 0, weights, 1.0)
        return losses.sum()


def chunked_loss(
    features: Tensor, rows: Tensor, bias: Tensor | None, targets: Tensor, loss: HeadLoss
) -> Tensor:
    """The loss of logits = features rows^T + bias, differentiable in all three.

    Parameters
    ----------
    features, rows, bias
        (B, D), (C, D) and (C,) float32; the bias may be None.
    targets
        (B,) int64: a label each. (B, K) int64: label sets, filled up with -1; then the loss and its
        gradient are computed `CHUNK` labels at a time, and equal those of all at once. (B, C)
        float32: probabilities, in which cross-entropy without class weights is linear.

    Raises
    ------
    ValueError
        Probabilities for a loss that is made for labels.
    """
    soft = targets.is_floating_point()
    if soft and (loss.kind != "cross_entropy" or loss.weights is not None):
        raise ValueError(
            f"loss: {loss.kind!r} with these class_weights takes labels alone; learn probabilities "
            'with "cross_entropy" and class_weights "none"'
        )
    if targets.ndim == 1 or (soft and not loss.multi_label):
        return loss.of_labels(functional.linear(features, rows, bias), targets)
    if loss.num_labels <= CHUNK:
        logits, everything = functional.linear(features, rows, bias), slice(0, loss.num_labels)
        return loss.of_sets(logits, _multi_hot(targets, everything), everything)
    return _ChunkedLoss.apply(features, rows, bias, targets, loss)


class _ChunkedLoss(torch.autograd.Function):
    """Gradients are computed with the loss, a chunk at a time, as its logits are at hand then."""

    @staticmethod
    def forward(
        ctx, features: Tensor, rows: Tensor, bias: Tensor | None, targets: Tensor, loss: HeadLoss
    ) -> Tensor:
        total = features.new_zeros(())
        trains = any(ctx.needs_input_grad)
        inputs = (features, rows, bias)
        grads = [None if x is None or not trains else torch.zeros_like(x) for x in inputs]
        for labels in _chunks(loss.num_labels):
            logits = _logits(features, rows, bias, labels)  # (B, c)
            with torch.enable_grad():
                leaf = logits.detach().requires_grad_(trains)
                part = loss.of_sets(leaf, _multi_hot(targets, labels), labels)
            total += part.detach()
            if trains:
                (grad,) = torch.autograd.grad(part, leaf)
                grads[0].addmm_(grad, rows[labels])
                torch.mm(grad.T, features, out=grads[1][labels])
                if bias is not None:
                    grads[2][labels] = grad.sum(dim=0)
        ctx.grads = grads
        return total

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple:
        grads, ctx.grads = ctx.grads, None  # scaled in place: the rows' are as large as the head
        return *(None if grad is None else grad.mul_(scale) for grad in grads), None, None


@torch.no_grad()
def chunked_top(
    features: Tensor, rows: Tensor, bias: Tensor | None, k: int
) -> tuple[Tensor, Tensor]:
    """The k largest logits of each document and their labels, (B, k) float32 and int64, in order.

    Parameters
    ----------
    features, rows, bias
        As for `chunked_loss`.
    """
    best = features.new_empty(len(features), 0)
    where = torch.empty(len(features), 0, dtype=torch.int64, device=features.device)
    for labels in _chunks(len(rows)):
        logits = _logits(features, rows, bias, labels)  # (B, c)
        ids = torch.arange(labels.start, labels.stop, device=features.device).expand_as(logits)
        best, where = torch.cat([best, logits], dim=1), torch.cat([where, ids], dim=1)
        best, order = best.topk(min(k, best.shape[1]), dim=1)
        where = where.gather(1, order)
    return best, where


def _logits(features: Tensor, rows: Tensor, bias: Tensor | None, labels: slice) -> Tensor:
    return functional.linear(features, rows[labels], None if bias is None else bias[labels])


def _chunks(num_labels: int) -> Iterator[slice]:
    for start in range(0, num_labels, CHUNK):
        yield slice(start, min(start + CHUNK, num_labels))


def _multi_hot(targets: Tensor, labels: slice) -> Tensor:
    """(B, c) float32 of (B, K) label indices that are filled up with -1, or of (B, C) targets."""
    if targets.is_floating_point():
        return targets[:, labels]
    inside = (targets >= labels.start) & (targets < labels.stop)
    width = labels.stop - labels.start
    columns = torch.where(inside, targets - labels.start, width)  # one column more for the others
    hot = torch.zeros(len(targets), width + 1, device=targets.device)
    return hot.scatter_(1, columns, 1.0)[:, :width]
