"""F1 over resampled documents: the bootstrap, and the swapping of two arms' answers.

An arm's predictions come stacked over its seeds. Only counts of each unit and label are kept,
sparse, and a resample is a row of weights: F1 of all resamples is then a few sparse products. A
unit is a document, or a whole group where documents of one group (of one author, one source) are
not independent: then groups are drawn, and change places, as wholes.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array, vstack

from lib.evaluation.scores import Labels

AVERAGES = ("micro_f1", "macro_f1")
BLOCK = 2**19  # numbers of a block of resamples: it stays in the processor's cache (chosen here)

Preds = np.ndarray | Sequence[Labels]  # (S, N, C) bool: dense, or S sparse (N, C)


def f1_by_seed(y_true: Labels, y_pred: Preds) -> np.ndarray:
    """F1 of each seed, (2, S) float64 in [0, 1]: a row for each of `AVERAGES`."""
    totals = [counts.sum(axis=1)[:, None] for counts in unit_counts(y_true, y_pred)]
    return np.stack([_f1(counts)[:, 0] for counts in totals], axis=1)


def f1(y_true: Labels, y_pred: Preds, average: str) -> float:
    """Mean over seeds of the F1 that `resample_f1` resamples, from (N, C) and (S, N, C) bool.

    Raises
    ------
    ValueError
        `average` is not one of `AVERAGES`.
    """
    if average not in AVERAGES:
        raise ValueError(f"average: {average!r} is not one of {', '.join(AVERAGES)}")
    return float(f1_by_seed(y_true, y_pred)[AVERAGES.index(average)].mean())


def group_codes(groups: Sequence[str] | np.ndarray | None) -> np.ndarray | None:
    """The group of each document as a number from 0, (N,); None where each stands alone."""
    if groups is None:
        return None
    names, codes = np.unique(np.asarray(groups), return_inverse=True)
    return codes if len(names) < len(codes) else None


def resample_f1(
    y_true: Labels,
    y_preds: Mapping[str, Preds],
    *,
    num_resamples: int,
    groups: Sequence[str] | np.ndarray | None = None,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """For each arm (2, S, R) float64: both averages of each seed on documents drawn anew.

    N of N documents, or G of G groups, with replacement (Efron & Tibshirani 1993, chapter 6;
    Davison & Hinkley 1997, section 3.8), the same for every arm and seed. In macro-F1 a label that
    a resample happens to miss is left out of that resample's mean, because a 0 for it would bias
    every resample downwards; a label that the whole test split lacks counts 0, as it does in the
    score itself.

    Parameters
    ----------
    y_true, y_preds
        (N, C) bool, and for each arm (S, N, C) bool, S of its own.
    groups
        (N,) of each document; None where documents are independent.
    """
    codes = group_codes(groups)
    counts = {arm: unit_counts(y_true, y_pred, codes) for arm, y_pred in y_preds.items()}
    truth = by_unit(by_label(y_true), codes)
    known = np.count_nonzero(truth.sum(axis=1))
    num_labels, num_units = truth.shape
    generator, shares = np.random.default_rng(seed), np.full(num_units, 1 / num_units)
    results = {arm: np.empty((2, len(of_seeds), num_resamples)) for arm, of_seeds in counts.items()}
    for block in _blocks(num_resamples, 2 * num_labels, num_units):
        weights = generator.multinomial(num_units, shares, size=block.stop - block.start)
        weights = np.ascontiguousarray(weights.T, dtype=np.float32)  # (G, R)
        drawn = np.maximum(np.count_nonzero(truth @ weights, axis=0), 1)  # (R,)
        for arm, of_seeds in counts.items():
            for s, of_units in enumerate(of_seeds):
                micro, macro = _f1(of_units @ weights)
                # a label without a drawn document has no true positive: it adds 0 to the mean
                results[arm][:, s, block] = micro, macro * known / drawn
    return results


def randomization(
    y_true: Labels,
    y_preds: Mapping[str, Preds],
    pairs: Sequence[tuple[str, str]],
    *,
    num_resamples: int,
    groups: Sequence[str] | np.ndarray | None = None,
    seed: int = 0,
) -> np.ndarray:
    """Two-sided p, (pairs, 2), that two arms' answers are exchangeable document by document.

    Approximate randomization (Noreen 1989; Yeh 2000, arXiv cs/0008005): both arms' answers to a
    document, or to all documents of a group, those of all seeds together, change places with
    probability 1/2. p = (1 + count) / (1 + R), count being how often F1, averaged over seeds, then
    differs at least as much as it does now. The same units change places in every pair. Where arms
    have different numbers of seeds, each is repeated up to their least common multiple, which
    leaves its mean as it is.

    The answers are those of the trained models at hand: other seeds are not asked about.
    """
    arms = {arm for pair in pairs for arm in pair}
    codes = group_codes(groups)
    counts = {arm: unit_counts(y_true, y_preds[arm], codes) for arm in arms}
    swaps = [_pairings(counts[a], counts[b]) for a, b in pairs]
    num_labels, num_units = by_unit(by_label(y_true), codes).shape
    none = np.zeros((num_units, 1), dtype=np.float32)
    observed = [np.abs(_mean_difference(swap, none)) for swap in swaps]  # (2, 1) each
    at_least = np.zeros((len(pairs), 2))
    generator = np.random.default_rng([seed, 1])
    for block in _blocks(num_resamples, 2 * num_labels, num_units):
        size = (num_units, block.stop - block.start)
        swapped = generator.integers(0, 2, size=size, dtype=np.int8).astype(np.float32)
        for i, swap in enumerate(swaps):
            differences = np.abs(_mean_difference(swap, swapped))  # (2, R)
            at_least[i] += (differences >= observed[i] - 1e-6).sum(axis=1)  # float32
    return (1 + at_least) / (1 + num_resamples)


class _Swap(NamedTuple):
    """Counts of a seed of each of two arms, and their change where a unit's answers swap."""

    of_a: np.ndarray  # (2 L, 1) over all documents, for the L labels in which the arms differ
    of_b: np.ndarray
    change: csr_array  # (2 L, G)
    elsewhere: np.ndarray  # (2,) sums over the other labels, in which both arms agree
    num_labels: int


def _pairings(of_a: Sequence[csr_array], of_b: Sequence[csr_array]) -> list[_Swap]:
    num_pairings = math.lcm(len(of_a), len(of_b))
    return [_swap(of_a[k % len(of_a)], of_b[k % len(of_b)]) for k in range(num_pairings)]


def _swap(counts_a: csr_array, counts_b: csr_array) -> _Swap:
    change = counts_b - counts_a
    change.eliminate_zeros()
    differ = (np.diff(change.indptr) > 0).reshape(2, -1).any(axis=0)  # (C,)
    rows = np.flatnonzero(np.tile(differ, 2))
    totals_a, totals_b = (c.sum(axis=1)[:, None].astype(np.float32) for c in (counts_a, counts_b))
    elsewhere = np.where(differ, 0, totals_a.reshape(2, -1)).sum(axis=1)
    return _Swap(totals_a[rows], totals_b[rows], change[rows], elsewhere, len(differ))


def _mean_difference(swaps: Sequence[_Swap], swapped: np.ndarray) -> np.ndarray:
    """Both averages of a minus b, (2, R), where (G, R) of 0 and 1 says which answers swap."""
    total = np.zeros((2, swapped.shape[1]))
    for swap in swaps:
        if len(swap.of_a) == 0:
            continue
        change = swap.change @ swapped
        options = {"elsewhere": swap.elsewhere, "num_labels": swap.num_labels}
        total += _f1(swap.of_a + change, **options) - _f1(swap.of_b - change, **options)
    return total / len(swaps)


def _f1(
    counts: np.ndarray, *, elsewhere: Sequence[float] = (0, 0), num_labels: int = 0
) -> np.ndarray:
    """Micro- and macro-F1, (2, R), from (2 C, R): 2 TP of each label, then 2 TP + FP + FN."""
    double_tp, support = np.split(counts, 2)
    of_all = support.sum(axis=0) + elsewhere[1]
    micro = (double_tp.sum(axis=0) + elsewhere[0]) / np.maximum(of_all, 1)
    macro = (double_tp / np.maximum(support, 1)).sum(axis=0) / (num_labels or len(support))
    return np.stack([micro, macro])


def unit_counts(y_true: Labels, y_pred: Preds, codes: np.ndarray | None = None) -> list[csr_array]:
    """For each seed (2 C, G) float32: 2 TP of each label and unit, then 2 TP + FP + FN.

    Parameters
    ----------
    codes
        See `group_codes`; None, and G = N, where each document is a unit.
    """
    truth = by_label(y_true)
    preds = [by_label(of_seed) for of_seed in y_pred]
    counts = [vstack([2 * truth.multiply(p), truth + p], format="csr") for p in preds]
    return [by_unit(of_seed, codes) for of_seed in counts]


def by_unit(of_documents: csr_array, codes: np.ndarray | None) -> csr_array:
    """(M, N) as (M, G): the sum over each group's documents, whose `group_codes` are given."""
    if codes is None:
        return of_documents
    ones = np.ones(len(codes), dtype=np.float32)
    return of_documents @ csr_array((ones, (np.arange(len(codes)), codes)))


def by_label(labels: Labels) -> csr_array:
    """(N, C) bool, dense or sparse, as (C, N) float32."""
    return csr_array(csr_array(labels).T, dtype=np.float32)


def _blocks(num_resamples: int, *rows: int) -> Iterator[slice]:
    size = int(np.clip(BLOCK // max(rows), 16, 1000))
    for start in range(0, num_resamples, size):
        yield slice(start, min(start + size, num_resamples))
