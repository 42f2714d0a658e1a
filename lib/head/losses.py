"""Losses of a head, for one label per document or for label sets."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lib.config.groups import HeadParams

MAX_SOFTMAX = 100_000  # labels that share one softmax, which cannot be computed in chunks
FOCAL_GAMMA = 2.0  # arXiv 1708.02002, section 4.1
ASYMMETRIC_GAMMA, ASYMMETRIC_MARGIN = 4.0, 0.05  # arXiv 2009.14119, section 3.1, for negatives


@dataclass(frozen=True)
class HeadLoss:
    """A loss of logits and targets, summed over documents (and over labels, for label sets).

    Attributes
    ----------
    kind
        One label per document (softmax): "cross_entropy"; "focal" (arXiv 1708.02002, equation 4,
        with p the softmax); "logit_adjusted" (arXiv 2007.07314, equation 10, tau = 1). Label sets
        (sigmoid): "cross_entropy", that is binary; "focal"; "asymmetric" (arXiv 2009.14119,
        equation 7; gamma 0 for positives); "logit_adjusted", with the log odds of each label added.
    num_labels
        C.
    weights
        (C,) float32, or None: of a document's label, or of a label's positives.
    prior
        (C,) float32, or None: added to logits by "logit_adjusted", in training alone.
    smoothing
        Label smoothing in [0, 1) (arXiv 1512.00567, section 7); a label of a set becomes
        1 - smoothing / 2, another one smoothing / 2.
    multi_label
        True if probabilities as targets are one sigmoid per label, False if one softmax.
    """

    kind: str
    num_labels: int
    weights: Tensor | None = None
    prior: Tensor | None = None
    smoothing: float = 0.0
    multi_label: bool = False

    @classmethod
    def build(
        cls, params: HeadParams, label_counts: np.ndarray, num_documents: int, *, multi_label: bool
    ) -> "HeadLoss":
        """The loss for a training split with (C,) documents of each label.

        Balanced class weights are N / (C n), as scikit-learn weighs classes, and for label sets
        (N - n) / n on positives, as `torch.nn.BCEWithLogitsLoss` advises.

        Raises
        ------
        ValueError
            Weights for a label without training documents, or more labels than one softmax takes.
        """
        kind, class_weights = params.loss, params.class_weights
        counts = torch.as_tensor(np.asarray(label_counts), dtype=torch.float32)
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
        return cls(kind, len(counts), weights, prior, params.label_smoothing, multi_label)

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
