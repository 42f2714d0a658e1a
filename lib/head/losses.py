"""Losses of a head, for one label per document or for label sets."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lib.config.groups import HeadParams
from lib.errors import ParamsError

MAX_SOFTMAX = 100_000  # labels of one softmax, which cannot be computed in chunks (our choice)
FOCAL_GAMMA = 2.0  # arXiv 1708.02002, section 4.1
ASYMMETRIC_GAMMA, ASYMMETRIC_MARGIN = 4.0, 0.05  # arXiv 2009.14119, section 3.1, for negatives


@dataclass(frozen=True)
class HeadLoss:
    """A loss of logits and targets, summed over documents (and over labels, for label sets).

    With smoothing, the target of a label in a set is 1 - smoothing / 2, that of any other label
    smoothing / 2. The prior is added in training alone, so that predictions are made without it.

    Raises
    ------
    ValueError
        There is no loss of this kind for such documents.
    """

    kind: str  # a name in `LOSS_FUNCTIONS`
    num_labels: int  # C
    # (C,) float32: a factor on the loss of a document by its label; of label sets, on the loss of
    # positives (documents that have the label).
    weights: Tensor | None = None
    prior: Tensor | None = None  # (C,) float32: added to logits by "logit_adjusted"
    smoothing: float = 0.0  # in [0, 1) (arXiv 1512.00567, section 7)
    multi_label: bool = False  # true for label sets: a sigmoid per label instead of one softmax

    def __post_init__(self) -> None:
        known = [k for k, f in LOSS_FUNCTIONS.items() if self.multi_label or f.of_labels]
        if self.kind not in known:
            raise ValueError(f"loss: {self.kind!r} is none of {', '.join(known)}")

    @classmethod
    def build(
        cls, params: HeadParams, label_counts: np.ndarray, num_documents: int, *, multi_label: bool
    ) -> "HeadLoss":
        """The loss for a training split of N documents, of which n, an entry of (C,), have a label.

        Balanced class weights are N / (C n), as scikit-learn weighs classes, and for label sets
        (N - n) / n on positives, as `torch.nn.BCEWithLogitsLoss` advises, with N - n at least 1: a
        weight of 0 would not train a label that every document has.

        Raises
        ------
        ParamsError
            "balanced" weights are asked for, and a label has no training document; or there are
            more labels than one softmax takes (`MAX_SOFTMAX`).
        """
        counts = torch.as_tensor(np.asarray(label_counts), dtype=torch.float32)
        if not multi_label and len(counts) > MAX_SOFTMAX:
            raise ParamsError(
                f"num_labels: one softmax over {len(counts):,} labels cannot be computed in "
                f'chunks, {MAX_SOFTMAX:,} is the most; with label_mode "multi" there is no limit'
            )
        weights = None
        if params.class_weights == "balanced":
            if absent := (counts == 0).nonzero().flatten().tolist():
                raise ParamsError(
                    f'class_weights: "balanced" has no weight for labels {absent[:5]}, which no '
                    "training document has; set min_support, or class_weights: none"
                )
            weights = num_documents / (len(counts) * counts)
            if multi_label:
                weights = (num_documents - counts).clamp(min=1) / counts
        shares = (counts + 1) / (num_documents + 2)
        prior = torch.logit(shares) if multi_label else shares.log()
        return cls(params.loss, len(counts), weights, prior, params.label_smoothing, multi_label)

    def of_labels(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Loss, a scalar, of (B, C) logits and (B,) int64 labels, or (B, C) probabilities."""
        if LOSS_FUNCTIONS[self.kind].adds_prior:
            logits = logits + self.prior.to(logits.device)
        weight = None if self.weights is None else self.weights.to(logits.device)
        options = {"weight": weight, "label_smoothing": self.smoothing}
        return LOSS_FUNCTIONS[self.kind].of_labels(logits, targets, **options)

    def of_sets(self, logits: Tensor, multi_hot: Tensor, labels: slice) -> Tensor:
        """Loss, a scalar, of (B, c) logits and float32 targets of the c labels in a slice of C."""
        if LOSS_FUNCTIONS[self.kind].adds_prior:
            logits = logits + self.prior[labels].to(logits.device)
        truth = multi_hot * (1 - self.smoothing) + self.smoothing / 2
        losses = LOSS_FUNCTIONS[self.kind].of_sets(logits, truth)
        if self.weights is not None:
            weights = self.weights[labels].to(logits.device)
            losses = losses * torch.where(multi_hot > 0, weights, 1.0)
        return losses.sum()


_softmax = partial(functional.cross_entropy, reduction="sum")
_sigmoid = partial(functional.binary_cross_entropy_with_logits, reduction="none")


def _softmax_focal(logits: Tensor, targets: Tensor, **options) -> Tensor:
    """Equation 4 of arXiv 1708.02002, with p the softmax."""
    losses = functional.cross_entropy(logits, targets, reduction="none", **options)
    p = logits.softmax(dim=1).gather(1, targets[:, None])[:, 0]
    return ((1 - p) ** FOCAL_GAMMA * losses).sum()


def _sigmoid_focal(logits: Tensor, truth: Tensor) -> Tensor:
    """Equation 4 of arXiv 1708.02002 per label, with p the sigmoid."""
    p = logits.sigmoid()
    miss = torch.where(truth > 0.5, 1 - p, p)  # smoothed targets stay on their side of 1/2
    return miss**FOCAL_GAMMA * _sigmoid(logits, truth)


def _asymmetric(logits: Tensor, truth: Tensor) -> Tensor:
    """Equation 7 of arXiv 2009.14119, per label; gamma is 0 for positives."""
    shifted = (logits.sigmoid() - ASYMMETRIC_MARGIN).clamp(min=0)
    negative = shifted**ASYMMETRIC_GAMMA * torch.log1p(-shifted)
    return -(truth * functional.logsigmoid(logits) + (1 - truth) * negative)


class _Functions(NamedTuple):
    of_labels: Callable[..., Tensor] | None  # one label per document, summed; None if there is none
    of_sets: Callable[[Tensor, Tensor], Tensor]  # (B, c) logits and targets to (B, c) losses
    adds_prior: bool = False  # to the logits: log shares of labels or, for label sets, log odds


LOSS_FUNCTIONS = {
    "cross_entropy": _Functions(_softmax, _sigmoid),
    "focal": _Functions(_softmax_focal, _sigmoid_focal),
    "asymmetric": _Functions(None, _asymmetric),
    # arXiv 2007.07314, equation 10, tau = 1
    "logit_adjusted": _Functions(_softmax, _sigmoid, adds_prior=True),
}
