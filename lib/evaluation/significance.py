"""Differences between arms: paired intervals, two tests, and Holm's adjustment over pairs."""

from collections.abc import Mapping
from itertools import combinations

import numpy as np
import pandas as pd
from scipy.sparse import csr_array
from scipy.stats import binom
from statsmodels.stats.multitest import multipletests

from lib.errors import ParamsError
from lib.evaluation.intervals import ALPHA, paired_interval, paired_spread
from lib.evaluation.jackknife import measure_arms
from lib.evaluation.metrics import sets_equal
from lib.evaluation.power import min_detectable
from lib.evaluation.resampling import AVERAGES, Preds, group_codes, randomization
from lib.evaluation.scores import Groups, Labels

COLUMNS = ("arm_a", "arm_b", "metric", "delta", "low", "high", "error",
           "p_mcnemar", "p_randomization", "test", "p_holm", "min_detectable")  # fmt: skip


def mcnemar(correct_a: np.ndarray, correct_b: np.ndarray) -> float:
    """Two-sided mid-p that a and b are right equally often, from the documents they differ on.

    It is McNemar's exact binomial test (1947) in which the observed outcome counts with half its
    probability (Lancaster 1961). Of equal arms, the exact test rejects far fewer than 5 % where few
    documents differ, and so does the chi-square test with a continuity correction; without the
    correction, that test rejects too many. The mid-p stays near its level and finds more
    (Fagerland, Lydersen & Laake 2013, BMC Medical Research Methodology 13:91). It agrees with the
    paired interval, in which the observed outcome counts likewise.

    `correct_a` and `correct_b` are (N,) bool, in the same order of documents.
    """
    only_a, only_b = int((correct_a & ~correct_b).sum()), int((~correct_a & correct_b).sum())
    if only_a == only_b:
        return 1.0
    fewer, both = min(only_a, only_b), only_a + only_b
    return float(2 * binom.cdf(fewer, both, 0.5) - binom.pmf(fewer, both, 0.5))


def compare_all(
    y_true: Labels,
    y_preds: Mapping[str, Preds],
    *,
    reference: str = "",
    groups: Groups = None,
    num_resamples: int = 5000,
) -> pd.DataFrame:
    """Pairs of arms: difference in F1 with its interval, two tests, and the detectable difference.

    Parameters
    ----------
    y_true, y_preds, groups
        See `f1_intervals`. McNemar takes an arm's first seed; a document is right if its whole
        label set is.
    reference
        The arm of `y_preds` with which alone every other is compared; "" for every pair.
    num_resamples
        Exchanges of the randomization test.

    Returns
    -------
    DataFrame
        `COLUMNS`; a pair has a row for each average, the `metric`. `delta` is F1 of `arm_a` minus
        that of `arm_b`, `error` its standard error, `low` and `high` its paired 95 % interval.
        `p_holm` adjusts, over the pairs of its average (Holm 1979), the p that `test` names. That
        is "mcnemar" for micro-F1 where every document has one label and one answer, both arms one
        seed and documents no groups, because there micro-F1 is the share of right documents. It is
        "randomization" elsewhere, where McNemar would answer another question. For
        `min_detectable` see `lib.evaluation.power`.

    Raises
    ------
    ParamsError
        The `reference` has not run.
    """
    if reference and reference not in y_preds:
        raise ParamsError(f"reference: {reference!r} has not run; runs: {', '.join(y_preds)}")
    others = [(arm, reference) for arm in y_preds if arm != reference]
    pairs = others if reference else list(combinations(y_preds, 2))
    y_true = csr_array(y_true)  # once: finding the labels in dense arrays takes longest
    y_preds = {arm: [csr_array(p) for p in y_pred] for arm, y_pred in y_preds.items()}
    arms = measure_arms(y_true, y_preds, groups=groups)
    p_values = randomization(y_true, y_preds, pairs, num_resamples=num_resamples, groups=groups)
    correct = {arm: sets_equal(y_true, preds[0]) for arm, preds in y_preds.items()}
    # arms whose micro-F1 is the share of right documents
    single = group_codes(groups) is None and _one_label(y_true)
    accuracy = {arm: single and len(p) == 1 and _one_label(p[0]) for arm, p in y_preds.items()}
    rows = []
    for (a, b), of_pair in zip(pairs, p_values, strict=True):
        p_mcnemar = mcnemar(correct[a], correct[b])
        for average, p in zip(AVERAGES, of_pair, strict=True):
            of_a, of_b = arms[a, average], arms[b, average]
            mid_p = average == "micro_f1" and accuracy[a] and accuracy[b]
            spread = paired_spread(of_a, of_b)
            delta = round(of_a.values.mean() - of_b.values.mean(), 12)  # rounding errors are less
            test, p_raw = ("mcnemar", p_mcnemar) if mid_p else ("randomization", p)
            found = min_detectable(of_a, of_b, spread, mid_p=mid_p)
            error = spread.error if spread else np.nan
            rows.append((a, b, average, delta, *paired_interval(spread), error, p_mcnemar, p,
                         test, p_raw, found))  # fmt: skip
    table = pd.DataFrame(rows, columns=list(COLUMNS)).astype({"p_holm": float})
    holm = table.groupby("metric")["p_holm"].transform(lambda p: multipletests(p, method="holm")[1])
    return table.assign(p_holm=holm)


def distinguishable(pairwise: pd.DataFrame | pd.Series) -> pd.Series | bool:
    """True where the paired 95 % interval excludes zero and Holm's p is below 0.05.

    `pairwise` is a table of `compare_all`, or one of its rows.
    """
    return (pairwise["low"] * pairwise["high"] > 0) & (pairwise["p_holm"] < ALPHA)


def _one_label(labels: csr_array) -> bool:
    return bool((labels.sum(axis=1) == 1).all())
