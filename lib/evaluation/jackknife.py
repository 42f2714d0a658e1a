"""F1 with one unit of the test documents left out at a time: the jackknife.

A unit is a document, or a whole group of documents (see `resampling`). The variance over units left
out is, on average, never below that of F1 over other test splits, also for small splits (Efron &
Stein 1981, Annals of Statistics 9, p. 586). It can thus be relied on for macro-F1 where labels have
one or two documents, which resamples often miss. It also costs less than a single resample, as
leaving a unit out changes the F1 of its own labels alone.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array

from lib.evaluation.resampling import AVERAGES, Preds, by_label, by_unit, group_codes, unit_counts
from lib.evaluation.scores import Groups, Labels

SUPPORTED = "macro_f1_supported"  # macro-F1 over those labels that have a test document


class Arm(NamedTuple):
    """One average of an arm's F1, and the part of each of G units of N test documents in it.

    A pseudo-value is G F1 - (G - 1) F1 without the unit; the mean of pseudo-values varies as F1
    does (Efron & Tibshirani 1993, section 11.5). `errors` are the F1 that each document's errors
    cost; their sum is the highest possible F1 minus F1. `weights` are the F1 that each unit would
    cost if all of it were wrong; their sum is the highest possible F1.
    """

    values: np.ndarray  # (S,), F1 of each seed
    pseudo: np.ndarray  # (G,), mean over seeds
    interaction: float  # of units and seeds: its part of the variance of the mean over seeds
    errors: np.ndarray  # (N,), mean over seeds
    weights: np.ndarray  # (G,)
    grouped: bool  # True if units are groups of documents


def measure_arms(
    y_true: Labels, y_preds: Mapping[str, Preds], *, groups: Groups = None
) -> dict[tuple[str, str], Arm]:
    """An `Arm` for each arm and each of `AVERAGES` and `SUPPORTED`, by both names.

    For parameters see `lib.evaluation.intervals.f1_intervals`.
    """
    codes = group_codes(groups)
    truth = by_unit(by_label(y_true), codes)
    weights, present = _weights(truth), truth.sum(axis=1) > 0
    arms = {}
    for arm, y_pred in y_preds.items():
        counts = unit_counts(y_true, y_pred)
        seeds = [_leave_out(by_unit(of_seed, codes), truth) for of_seed in counts]
        values, pseudo = (np.stack(parts, axis=1) for parts in zip(*seeds, strict=True))
        errors = np.stack([_error_costs(of_seed, present) for of_seed in counts], axis=1)
        for i, name in enumerate((*AVERAGES, SUPPORTED)):
            interaction = _interaction(pseudo[i])
            means = pseudo[i].mean(axis=0), interaction, errors[i].mean(axis=0)
            arms[arm, name] = Arm(values[i], *means, weights[i], codes is not None)
    return arms


def _weights(truth: csr_array) -> np.ndarray:
    """The share of each average that a unit's true labels decide, (3, G), from counts (C, G)."""
    of_label = truth.sum(axis=1).astype(float)
    num_present = np.count_nonzero(of_label)
    micro = truth.sum(axis=0).astype(float) / max(of_label.sum(), 1)
    macro = truth.T @ (1 / np.maximum(of_label, 1))
    return np.stack([micro, macro / len(of_label), macro / max(num_present, 1)])


def _error_costs(counts: csr_array, present: np.ndarray) -> np.ndarray:
    """F1 lost by each document's false positives and negatives, (3, N), of one seed.

    1 - F1 of a label is (FP + FN) / (2 TP + FP + FN). A label that no document has loses nothing in
    macro-F1: it is 0 whatever is answered. `counts` (2 C, N) are of `unit_counts`; `present` (C,)
    bool are the labels that some document has.
    """
    num_labels = len(present)
    wrong = counts[num_labels:] - counts[:num_labels]  # (C, N)
    support = np.maximum(counts[num_labels:].sum(axis=1).astype(float), 1)
    micro = wrong.sum(axis=0) / max(counts[num_labels:].sum(), 1)
    macro = wrong.T @ (present / support)
    return np.stack([micro, macro / num_labels, macro / max(present.sum(), 1)])


def _leave_out(counts: csr_array, truth: csr_array) -> tuple[np.ndarray, np.ndarray]:
    """F1 (3,) and its pseudo-values (3, G) of one seed.

    `counts` (2 C, G) are of `unit_counts`; `truth` (C, G) counts a unit's documents with the label.
    """
    num_labels, num_units = truth.shape
    # F1 of each label, (C,)
    of_label = counts.sum(axis=1).astype(float)
    double_tp, support = of_label[:num_labels], np.maximum(of_label[num_labels:], 1)
    f1 = double_tp / support
    # the change of their sum without a unit, (G,), from the labels that the unit holds; one complex
    # array (real: 2 TP + FP + FN, imaginary: 2 TP) so that both counts have the same entries
    both = (counts[num_labels:] + 1j * counts[:num_labels]).tocoo()
    label, unit = both.coords
    left = (double_tp[label] - both.data.imag) / np.maximum(support[label] - both.data.real, 1)
    change = np.bincount(unit, f1[label] - left, num_units)
    # labels that only this unit has, (G,)
    of_truth = truth.sum(axis=1)
    num_present = max(np.count_nonzero(of_truth), 1)
    held = truth.tocoo()
    alone = np.bincount(held.coords[1], held.data == of_truth[held.coords[0]], num_units)
    # micro-F1 = all_tp / everything, without a unit (all_tp - tp) / others
    tp = counts[:num_labels].sum(axis=0).astype(float)
    all_tp, everything = double_tp.sum(), max(of_label[num_labels:].sum(), 1)
    others = everything - (counts.sum(axis=0) - tp)
    values = np.array([all_tp / everything, f1.mean(), f1.sum() / num_present])
    without = np.stack([
        (all_tp - tp) / np.maximum(others, 1),
        (f1.sum() - change) / num_labels,
        (f1.sum() - change) / np.maximum(num_present - alone, 1),
    ])  # fmt: skip
    return values, num_units * values[:, None] - (num_units - 1) * without


def _interaction(pseudo: np.ndarray) -> float:
    """The variance of the mean over seeds that is due to seeds differing by unit, from (S, G)."""
    num_seeds, num_units = pseudo.shape
    if num_seeds == 1 or num_units == 1:
        return 0.0
    apart = pseudo - pseudo.mean(axis=0)
    return float(apart.var(axis=1, ddof=1).sum() / (num_seeds - 1) / num_seeds / num_units)
