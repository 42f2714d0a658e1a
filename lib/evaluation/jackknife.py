"""F1 with one unit of the test documents left out at a time: the jackknife.

A unit is a document, or a whole group of them (see `resampling`). The variance over units left
out is, on average, never below that of F1 over other test splits, and not only for large ones
(Efron & Stein 1981, Annals of Statistics 9, p. 586): it holds for macro-F1 with labels of one or
two documents, which resamples miss. It also costs less than a single resample: a unit changes the
F1 of those labels alone that it holds.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array

from lib.evaluation.resampling import (
    AVERAGES,
    Preds,
    by_label,
    by_unit,
    group_codes,
    unit_counts,
)
from lib.evaluation.scores import Labels

SUPPORTED = "macro_f1_supported"  # macro-F1 over those labels that have a test document


class Arm(NamedTuple):
    """One average of an arm's F1, and what each of G units of test documents has to do with it.

    Attributes
    ----------
    values
        F1 of each seed, (S,).
    pseudo
        G F1 - (G - 1) F1 without the unit, mean over seeds, (G,): their mean varies as F1 does
        (Efron & Tibshirani 1993, section 11.5).
    interaction
        The variance of the mean over seeds that comes from seeds differing by unit.
    errors
        What each document's errors cost, mean over seeds, (N,); they sum to `weights.sum()` - F1.
    weights
        What a unit costs that is wrong as a whole, (G,); their sum is the highest F1 possible.
    grouped
        Whether units are groups of documents.
    """

    values: np.ndarray
    pseudo: np.ndarray
    interaction: float
    errors: np.ndarray
    weights: np.ndarray
    grouped: bool


def measure_arms(
    y_true: Labels,
    y_preds: Mapping[str, Preds],
    *,
    groups: Sequence[str] | np.ndarray | None = None,
) -> dict[tuple[str, str], Arm]:
    """For each arm and each of micro-, macro- and supported macro-F1 what its intervals rest on.

    Parameters
    ----------
    y_true, y_preds
        (N, C) bool, and for each arm (S, N, C) bool, S of its own.
    groups
        (N,) of each document; None where documents are independent.
    """
    codes = group_codes(groups)
    truth = by_unit(by_label(y_true), codes)
    names, weights = (*AVERAGES, SUPPORTED), _weights(truth)
    known = truth.sum(axis=1) > 0
    arms = {}
    for arm, y_pred in y_preds.items():
        counts = unit_counts(y_true, y_pred)
        seeds = [_leave_out(by_unit(of_seed, codes), truth) for of_seed in counts]
        values, pseudo = (np.stack(parts, axis=1) for parts in zip(*seeds, strict=True))
        errors = np.stack([_error_costs(of_seed, known) for of_seed in counts], axis=1)
        for i, name in enumerate(names):
            interaction = _interaction(pseudo[i])
            means = pseudo[i].mean(axis=0), interaction, errors[i].mean(axis=0)
            arms[arm, name] = Arm(values[i], *means, weights[i], codes is not None)
    return arms


def _weights(truth: csr_array) -> np.ndarray:
    """(3, G): the share of each average that a unit's true labels decide, from (C, G) counts."""
    of_label = truth.sum(axis=1).astype(float)
    known = np.count_nonzero(of_label)
    micro = truth.sum(axis=0).astype(float) / max(of_label.sum(), 1)
    macro = truth.T @ (1 / np.maximum(of_label, 1))
    return np.stack([micro, macro / len(of_label), macro / max(known, 1)])


def _error_costs(counts: csr_array, known: np.ndarray) -> np.ndarray:
    """Cost of each document's false positives and negatives, (3, N), of one seed.

    1 - F1 of a label is (FP + FN) / (2 TP + FP + FN). A label that no document has costs nothing
    in macro-F1: it is 0 whatever is answered.

    Parameters
    ----------
    counts, known
        (2 C, N) of `unit_counts`, and (C,) bool, the labels that some document has.
    """
    num_labels = len(known)
    wrong = counts[num_labels:] - counts[:num_labels]  # (C, N)
    support = np.maximum(counts[num_labels:].sum(axis=1).astype(float), 1)
    micro = wrong.sum(axis=0) / max(counts[num_labels:].sum(), 1)
    macro = wrong.T @ (known / support)
    return np.stack([micro, macro / num_labels, macro / max(known.sum(), 1)])


def _leave_out(counts: csr_array, truth: csr_array) -> tuple[np.ndarray, np.ndarray]:
    """F1 (3,) and its pseudo-values (3, G) of one seed.

    Parameters
    ----------
    counts
        (2 C, G) of `unit_counts`.
    truth
        (C, G) how many of a unit's documents have the label.
    """
    num_labels, num_units = truth.shape
    # real: 2 TP + FP + FN, imaginary: 2 TP, so that both are known wherever one is
    both = (counts[num_labels:] + 1j * counts[:num_labels]).tocoo()
    label, unit = both.coords
    of_label = counts.sum(axis=1).astype(float)
    double_tp, support = of_label[:num_labels], np.maximum(of_label[num_labels:], 1)
    of_truth = truth.sum(axis=1)
    f1 = double_tp / support  # (C,)
    left = (double_tp[label] - both.data.imag) / np.maximum(support[label] - both.data.real, 1)
    change = np.bincount(unit, f1[label] - left, num_units)
    alone = truth.tocoo()
    alone = np.bincount(alone.coords[1], alone.data == of_truth[alone.coords[0]], num_units)
    of_unit = counts.sum(axis=0)  # 4 TP + FP + FN
    tp = counts[:num_labels].sum(axis=0).astype(float)
    all_tp, everything = double_tp.sum(), max(of_label[num_labels:].sum(), 1)
    others = everything - (of_unit - tp)
    num_known = max(np.count_nonzero(of_truth), 1)
    values = np.array([all_tp / everything, f1.mean(), f1.sum() / num_known])
    without = np.stack([
        (all_tp - tp) / np.maximum(others, 1),
        (f1.sum() - change) / num_labels,
        (f1.sum() - change) / np.maximum(num_known - alone, 1),
    ])  # fmt: skip
    return values, num_units * values[:, None] - (num_units - 1) * without


def _interaction(pseudo: np.ndarray) -> float:
    """Variance of the mean over seeds, from (S, G), due to seeds moving apart by unit."""
    num_seeds, num_units = pseudo.shape
    if num_seeds == 1 or num_units == 1:
        return 0.0
    apart = pseudo - pseudo.mean(axis=0)
    return float(apart.var(axis=1, ddof=1).sum() / (num_seeds - 1) / num_seeds / num_units)
