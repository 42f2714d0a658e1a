"""Which differences are certain: paired intervals, two tests, and Holm's adjustment over pairs."""

from collections.abc import Mapping
from itertools import combinations

import numpy as np
import pandas as pd
from scipy.sparse import csr_array
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests

from lib.intervals import (
    ALPHA,
    bootstrap_interval,
    min_detectable,
    paired_bootstrap,
    paired_interval,
    resampled_arms,
)
from lib.resampling import AVERAGES, Labels, Preds, by_label, f1, randomization
from lib.wording import format_p

__all__ = [
    "AVERAGES",
    "bootstrap_interval",
    "compare_all",
    "distinguishable",
    "f1",
    "format_p",
    "mcnemar",
    "paired_bootstrap",
]


def mcnemar(correct_a: np.ndarray, correct_b: np.ndarray) -> float:
    """Two-sided p that a and b are right equally often, from the documents on which they differ.

    Exact binomial with fewer than 25 such documents, chi-square with continuity correction
    otherwise (McNemar 1947; Edwards 1948); statsmodels does the counting.

    Parameters
    ----------
    correct_a, correct_b
        (N,) bool, in the same order of documents.
    """
    only_a, only_b = int((correct_a & ~correct_b).sum()), int((~correct_a & correct_b).sum())
    if only_a + only_b == 0:
        return 1.0
    table = [[0, only_a], [only_b, 0]]  # the concordant cells do not enter
    return float(statsmodels_mcnemar(table, exact=only_a + only_b < 25).pvalue)


def compare_all(
    y_true: Labels,
    y_preds: Mapping[str, Preds],
    *,
    reference: str = "",
    num_resamples: int = 5000,
    seed: int = 0,
) -> pd.DataFrame:
    """Pairs of arms: paired F1 difference with its interval, tests, and what could be found at all.

    Parameters
    ----------
    y_true
        (N, C) bool.
    y_preds
        For each arm (S, N, C) bool. McNemar takes the arm's first seed; a document is right when
        its whole label set is.
    reference
        Compare every other arm with this one alone; "" for every pair.

    Returns
    -------
    DataFrame
        `arm_a arm_b metric delta low high p_mcnemar p_randomization test p_holm min_detectable`; a
        pair has a row for each average. `p_holm` adjusts, over the pairs of its average (Holm
        1979), the p that `test` names: "mcnemar" for micro-F1 where every document has one label
        and one answer and both arms one seed, because there micro-F1 is the share of right
        documents; "randomization" elsewhere, where McNemar would answer another question.
    """
    others = [(arm, reference) for arm in y_preds if arm != reference]
    pairs = others if reference else list(combinations(y_preds, 2))
    options = {"num_resamples": num_resamples, "seed": seed}
    y_true = csr_array(y_true)  # once: finding the labels in dense arrays takes longest
    y_preds = {arm: [csr_array(p) for p in y_pred] for arm, y_pred in y_preds.items()}
    arms = resampled_arms(y_true, y_preds, **options)
    p_values = randomization(y_true, y_preds, pairs, **options)
    correct = {arm: _correct(y_true, preds[0]) for arm, preds in y_preds.items()}
    counted = {arm: len(p) == 1 and _one_label(y_true, p[0]) for arm, p in y_preds.items()}
    rows = []
    for (a, b), of_pair in zip(pairs, p_values, strict=True):
        p_mcnemar = mcnemar(correct[a], correct[b])
        for average, p in zip(AVERAGES, of_pair, strict=True):
            delta = arms[a, average].values.mean() - arms[b, average].values.mean()
            interval = paired_interval(arms[a, average], arms[b, average], y_true.shape[0])
            plain = average == "micro_f1" and counted[a] and counted[b]
            rows.append((a, b, average, delta, interval.low, interval.high, p_mcnemar, p,
                         "mcnemar" if plain else "randomization",
                         min_detectable(interval, y_true.shape[0])))  # fmt: skip
    columns = ["arm_a", "arm_b", "metric", "delta", "low", "high", "p_mcnemar"]
    columns += ["p_randomization", "test", "min_detectable"]
    return _adjusted(pd.DataFrame(rows, columns=columns))


def _adjusted(table: pd.DataFrame) -> pd.DataFrame:
    raw = table["p_mcnemar"].where(table["test"] == "mcnemar", table["p_randomization"])
    table.insert(len(table.columns) - 1, "p_holm", raw.astype(float))
    for _, rows in table.groupby("metric").groups.items():
        table.loc[rows, "p_holm"] = multipletests(raw[rows], method="holm")[1]
    return table


def distinguishable(pairwise: pd.DataFrame | pd.Series) -> pd.Series | bool:
    """Whether a row's arms differ: its 95 % interval excludes zero and Holm's p is below 0.05."""
    return (pairwise["low"] * pairwise["high"] > 0) & (pairwise["p_holm"] < ALPHA)


def _correct(y_true: Labels, y_pred: Labels) -> np.ndarray:
    """(N,) bool: the whole label set is right."""
    return abs(by_label(y_true) - by_label(y_pred)).sum(axis=0) == 0


def _one_label(*labels: Labels) -> bool:
    return all(bool((by_label(one).sum(axis=0) == 1).all()) for one in labels)
