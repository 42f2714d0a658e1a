"""Losses of label sets, and best labels, among a hundred thousand labels: a chunk at a time.

Memory then never holds all (B, C) logits, probabilities and their gradients at once.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from lib.head.losses import HeadLoss

LABELS_AT_ONCE = 4096  # 1 MiB of logits for 64 documents; our choice


def chunked_loss(
    features: Tensor, rows: Tensor, bias: Tensor | None, targets: Tensor, loss: HeadLoss
) -> Tensor:
    """Loss of logits = features rows^T + bias, a float32 scalar, differentiable in all three.

    The loss of label sets and its gradient are computed `LABELS_AT_ONCE` labels at a time, and
    equal those of all at once. One softmax over all labels is not computed in chunks.

    Parameters
    ----------
    features, rows, bias
        (B, D), (C, D) and (C,) float32; the bias may be None.
    targets
        (B,) int64: one label per document. (B, K) int64: label sets, filled up with -1. (B, C)
        float32: probabilities of all labels. Only cross-entropy without class weights takes these,
        since it is linear in its targets.

    Raises
    ------
    ValueError
        Targets are probabilities, and the loss is another one or has class weights.
    """
    soft = targets.is_floating_point()
    if soft and (loss.kind != "cross_entropy" or loss.weights is not None):
        raise ValueError(
            f"loss: {loss.kind!r} with these class_weights takes labels alone; learn probabilities "
            'with "cross_entropy" and class_weights "none"'
        )
    if targets.ndim == 1 or (soft and not loss.multi_label):
        return loss.of_labels(functional.linear(features, rows, bias), targets)
    if loss.num_labels <= LABELS_AT_ONCE:
        logits, everything = functional.linear(features, rows, bias), slice(0, loss.num_labels)
        return loss.of_sets(logits, _multi_hot(targets, everything), everything)
    return _ChunkedLoss.apply(features, rows, bias, targets, loss)


class _ChunkedLoss(torch.autograd.Function):
    """Loss with its gradients, which the forward pass computes while it has a chunk's logits."""

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
) -> tuple[Tensor, Tensor, Tensor]:
    """The k largest logits of each document, their labels, and log(sum(exp(logits))) of all labels.

    They are (B, k) float32, (B, k) int64 and (B,) float32; the largest logit comes first. With
    fewer than k labels, all are returned. Inputs are as in `chunked_loss`.
    """
    total = features.new_full((len(features),), -torch.inf)
    best = features.new_empty(len(features), 0)
    where = torch.empty(len(features), 0, dtype=torch.int64, device=features.device)
    for labels in _chunks(len(rows)):
        logits = _logits(features, rows, bias, labels)  # (B, c)
        total = torch.logaddexp(total, logits.logsumexp(dim=1))
        ids = torch.arange(labels.start, labels.stop, device=features.device).expand_as(logits)
        best, where = torch.cat([best, logits], dim=1), torch.cat([where, ids], dim=1)
        best, order = best.topk(min(k, best.shape[1]), dim=1)
        where = where.gather(1, order)
    return best, where, total


def _logits(features: Tensor, rows: Tensor, bias: Tensor | None, labels: slice) -> Tensor:
    return functional.linear(features, rows[labels], None if bias is None else bias[labels])


def _chunks(num_labels: int) -> Iterator[slice]:
    for start in range(0, num_labels, LABELS_AT_ONCE):
        yield slice(start, min(start + LABELS_AT_ONCE, num_labels))


def _multi_hot(targets: Tensor, labels: slice) -> Tensor:
    """Targets of some labels, (B, c) float32, of (B, K) indices (see `chunked_loss`) or (B, C)."""
    if targets.is_floating_point():
        return targets[:, labels]
    inside = (targets >= labels.start) & (targets < labels.stop)
    width = labels.stop - labels.start
    columns = torch.where(inside, targets - labels.start, width)  # one column more for the others
    hot = torch.zeros(len(targets), width + 1, device=targets.device)
    return hot.scatter_(1, columns, 1.0)[:, :width]
