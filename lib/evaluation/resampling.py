"""F1 over resampled documents: the bootstrap, and two arms that exchange answers.

An arm's predictions are stacked over its S seeds. Only counts per unit and label are kept, sparse,
and a resample is a column of weights, so that F1 of all resamples is a few sparse products:

    counts (2 C, G)                      weights (G, R)         F1 of each resample
    rows 1 to C:     2 TP of a label     times each unit        micro = sum of the upper half
    rows C+1 to 2C:  2 TP + FP + FN      is drawn                       / sum of the lower half

A unit is a document, or a whole group where the documents of a group (of one author, one source)
are not independent: then groups are drawn and exchanged as wholes.

Exchange of answers. Let u be the counts of a seed of arm a, v those of b, both (2 C, G). Let s in
{0, 1}^G mark the units whose answers change places, and 1 be a vector of ones. Then the counts over
all units are
    of a:  u 1 + (v - u) s        of b:  v 1 - (v - u) s
so that the products u s and v s serve every pair that an arm is in. Labels whose row of v - u is 0
have the same counts for a and b whatever s is: they cancel in the difference of macro-F1, and only
their sums enter micro-F1.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import NamedTuple, TypeVar

import numpy as np
from scipy.sparse import csr_array, vstack

from lib.evaluation.scores import Groups, Labels

AVERAGES = ("micro_f1", "macro_f1")
SEED = 0  # of resamples: the same in every call
BLOCK = 2**19  # numbers per block of resamples, which then stays in the processor's cache

_T = TypeVar("_T")
Preds = np.ndarray | Sequence[Labels]  # (S, N, C) bool: dense, or S sparse (N, C)


def f1_by_seed(y_true: Labels, y_pred: Preds) -> np.ndarray:
    """F1 of each seed, (2, S) float in [0, 1]: a row for each of `AVERAGES`.

    `y_true` is (N, C) bool, `y_pred` (S, N, C) bool.
    """
    totals = [counts.sum(axis=1)[:, None] for counts in unit_counts(y_true, y_pred)]
    return np.stack([_f1(counts)[:, 0] for counts in totals], axis=1)


def group_codes(groups: Groups) -> np.ndarray | None:
    """The group of each document as a number from 0, (N,); None if each document is its own."""
    if groups is None:
        return None
    names, codes = np.unique(np.asarray(groups), return_inverse=True)
    return codes if len(names) < len(codes) else None


def resample_f1(
    y_true: Labels, y_preds: Mapping[str, Preds], *, num_resamples: int, groups: Groups = None
) -> dict[str, np.ndarray]:
    """F1 of each arm on documents drawn anew, (2, S, R) float64: `AVERAGES` by seed and resample.

    N of N documents, or G of G groups, are drawn with replacement (Efron & Tibshirani 1993, chapter
    6; Davison & Hinkley 1997, section 3.8), the same for every arm and seed. In macro-F1 a label
    that a resample happens to miss is left out of the mean over labels, because a 0 for it would
    bias every resample downwards. A label that the whole test split lacks counts 0, as in the score
    itself. For parameters see `lib.evaluation.intervals.f1_intervals`.
    """
    codes = group_codes(groups)
    # counts once; then blocks of resamples, each a product with weights
    counts = {arm: unit_counts(y_true, y_pred, codes) for arm, y_pred in y_preds.items()}
    truth = by_unit(by_label(y_true), codes)
    num_known = np.count_nonzero(truth.sum(axis=1))
    num_labels, num_units = truth.shape
    generator, shares = np.random.default_rng(SEED), np.full(num_units, 1 / num_units)
    results = {arm: np.empty((2, len(of_seeds), num_resamples)) for arm, of_seeds in counts.items()}
    for block in _blocks(num_resamples, 2 * num_labels, num_units):
        weights = generator.multinomial(num_units, shares, size=block.stop - block.start)
        weights = np.ascontiguousarray(weights.T, dtype=np.float32)  # (G, R)
        num_drawn = np.maximum(np.count_nonzero(truth @ weights, axis=0), 1)  # labels, (R,)
        for arm, of_seeds in counts.items():
            for s, of_units in enumerate(of_seeds):
                micro, macro = _f1(of_units @ weights)
                # a label without a drawn document has no true positive: it adds 0 to the mean
                results[arm][:, s, block] = micro, macro * num_known / num_drawn
    return results


def randomization(
    y_true: Labels,
    y_preds: Mapping[str, Preds],
    pairs: Sequence[tuple[str, str]],
    *,
    num_resamples: int,
    groups: Groups = None,
) -> np.ndarray:
    """Two-sided p, (pairs, 2), of the test that two arms' answers are exchangeable.

    A row per pair, a column for each of `AVERAGES`. Approximate randomization (Noreen 1989; Yeh
    2000, arXiv cs/0008005): both arms' answers to a document, or to all documents of a group,
    change places with probability 1/2, those of all seeds together. p = (1 + count) / (1 + R),
    where count is the number of the R exchanges, `num_resamples`, after which F1, averaged over
    seeds, differs at least as much as it does now. The same units change places in every pair.
    Where arms have different numbers of seeds, the seeds of each are repeated up to the least
    common multiple, which leaves means as they are.

    The test is about the trained models at hand, not about other seeds. For other parameters see
    `lib.evaluation.intervals.f1_intervals`.
    """
    if not pairs:
        return np.empty((0, 2))
    codes = group_codes(groups)
    counts = {arm: unit_counts(y_true, y_preds[arm], codes) for arm in {*chain(*pairs)}}
    exchanges = [[_exchange(u, v) for u, v in _paired(counts[a], counts[b])] for a, b in pairs]
    num_rows, num_units = counts[pairs[0][0]][0].shape

    def differences(exchanged: np.ndarray) -> np.ndarray:
        """Absolute differences in F1, (pairs, 2, R), after the exchange of units, (G, R) 0 or 1."""
        moved = {arm: [u @ exchanged for u in of_seeds] for arm, of_seeds in counts.items()}
        of_pairs = zip(exchanges, pairs, strict=True)
        return np.abs([_mean_difference(x, moved[a], moved[b]) for x, (a, b) in of_pairs])

    # the differences as they are, then after random exchanges, a block at a time
    observed, at_least = differences(np.zeros((num_units, 1), dtype=np.float32)), 0
    generator = np.random.default_rng([SEED, 1])
    for block in _blocks(num_resamples, num_rows, num_units):
        size = (num_units, block.stop - block.start)
        exchanged = generator.integers(0, 2, size=size, dtype=np.int8).astype(np.float32)
        at_least += (differences(exchanged) >= observed - 1e-6).sum(axis=2)  # rounding of float32
    return (1 + at_least) / (1 + num_resamples)


class _Exchange(NamedTuple):
    """Counts of one seed of each of two arms, over the L labels in which they differ."""

    of_a: np.ndarray  # u 1 of the module docstring, (2 L, 1)
    of_b: np.ndarray  # v 1
    rows: np.ndarray | slice  # rows of these labels in counts (2 C, ...)
    elsewhere: np.ndarray  # (2,) sums over the other labels: 2 TP, and 2 TP + FP + FN
    num_labels: int  # C


def _paired(of_a: Sequence[_T], of_b: Sequence[_T]) -> Iterator[tuple[_T, _T]]:
    """Seeds of two arms, each repeated up to the least common multiple of their numbers."""
    for k in range(math.lcm(len(of_a), len(of_b))):
        yield of_a[k % len(of_a)], of_b[k % len(of_b)]


def _exchange(counts_a: csr_array, counts_b: csr_array) -> _Exchange:
    """Both arms' counts of one seed over the labels in which they differ, and sums of the rest."""
    change = counts_b - counts_a
    change.eliminate_zeros()
    differs = (np.diff(change.indptr) > 0).reshape(2, -1).any(axis=0)  # (C,)
    rows = slice(None) if differs.all() else np.flatnonzero(np.tile(differs, 2))
    totals_a, totals_b = (c.sum(axis=1)[:, None].astype(np.float32) for c in (counts_a, counts_b))
    elsewhere = np.where(differs, 0, totals_a.reshape(2, -1)).sum(axis=1)
    return _Exchange(totals_a[rows], totals_b[rows], rows, elsewhere, len(differs))


def _mean_difference(
    exchanges: Sequence[_Exchange], moved_a: Sequence[np.ndarray], moved_b: Sequence[np.ndarray]
) -> np.ndarray:
    """Both averages of a minus b, (2, R), after exchanges.

    `moved_a` and `moved_b` are the products u s and v s of each seed, (2 C, R).
    """
    total = np.zeros((2, moved_a[0].shape[1]))
    for x, (of_a, of_b) in zip(exchanges, _paired(moved_a, moved_b), strict=True):
        if len(x.of_a) == 0:
            continue
        change = of_b[x.rows] - of_a[x.rows]
        options = {"elsewhere": x.elsewhere, "num_labels": x.num_labels}
        total += _f1(x.of_a + change, **options) - _f1(x.of_b - change, **options)
    return total / len(exchanges)


def _f1(
    counts: np.ndarray, *, elsewhere: Sequence[float] = (0, 0), num_labels: int = 0
) -> np.ndarray:
    """Micro- and macro-F1, (2, R), of counts (2 C, R).

    If counts lack some of `num_labels` labels, `elsewhere` has the sums over those (`_Exchange`),
    and macro-F1 lacks their parts.
    """
    double_tp, support = counts[: len(counts) // 2], counts[len(counts) // 2 :]
    of_all = support.sum(axis=0) + elsewhere[1]
    micro = (double_tp.sum(axis=0) + elsewhere[0]) / np.maximum(of_all, 1)
    macro = (double_tp / np.maximum(support, 1)).sum(axis=0) / (num_labels or len(support))
    return np.stack([micro, macro])


def unit_counts(y_true: Labels, y_pred: Preds, codes: np.ndarray | None = None) -> list[csr_array]:
    """Counts of each seed, sparse (2 C, G) float32: rows of 2 TP by label, then of 2 TP + FP + FN.

    `codes` are those of `group_codes`; with None, each document is a unit and G = N.
    """
    truth = by_label(y_true)
    preds = [by_label(of_seed) for of_seed in y_pred]
    counts = [vstack([2 * truth.multiply(p), truth + p], format="csr") for p in preds]
    return [by_unit(of_seed, codes) for of_seed in counts]


def by_unit(of_documents: csr_array, codes: np.ndarray | None) -> csr_array:
    """Sums over each group's documents, (M, G), from (M, N); `codes` are those of `group_codes`.

    Without codes, the input: each document is a unit.
    """
    if codes is None:
        return of_documents
    ones = np.ones(len(codes), dtype=np.float32)
    return of_documents @ csr_array((ones, (np.arange(len(codes)), codes)))


def by_label(labels: Labels) -> csr_array:
    """Labels (N, C) bool, dense or sparse, transposed: sparse (C, N) float32."""
    return csr_array(csr_array(labels).T, dtype=np.float32)


def _blocks(num_resamples: int, *rows: int) -> Iterator[slice]:
    """Slices of resamples in which an array of so many rows has about `BLOCK` numbers."""
    size = int(np.clip(BLOCK // max(rows), 16, 1000))
    for start in range(0, num_resamples, size):
        yield slice(start, min(start + size, num_resamples))
