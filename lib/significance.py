"""What is certain: bootstrap intervals, paired differences, McNemar's test, Holm's adjustment.

Everything is computed from (N, C) bool predictions on the same N documents. An arm's predictions
come stacked over its seeds, (S, N, C): F1 is then the mean over seeds, and both documents and seeds
are resampled.
"""

from collections.abc import Mapping
from itertools import combinations

import numpy as np
import pandas as pd
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests

AVERAGES = ("micro_f1", "macro_f1")


def bootstrap_f1(
    y_true: np.ndarray,
    y_pred: np.ndarray,
    *,
    average: str,
    num_resamples: int = 5000,
    seed: int = 0,
) -> np.ndarray:
    """F1 of samples of documents and seeds with replacement, (R,) float64 in [0, 1].

    The same `seed` draws the same documents, and the same of as many seeds, so two arms' results
    are paired. With one seed, documents alone vary; with a few, their spread is underestimated.

    Parameters
    ----------
    y_true, y_pred
        (N, C) and (S, N, C) bool.
    average
        "micro_f1" or "macro_f1". In macro-F1 a label that a resample happens to miss is left out of
        that resample's mean, because a 0 for it would bias every resample downwards; a label that
        the whole test split lacks counts 0, as it does in the score itself.
    """
    if average not in AVERAGES:
        raise ValueError(f"average: {average!r} is not one of {', '.join(AVERAGES)}")
    counts = _document_counts(y_true, y_pred)  # 2 x (S, N, C): 2 TP, and 2 TP + FP + FN
    if average == "micro_f1":
        counts = [c.sum(axis=2, keepdims=True) for c in counts]
    known = y_true.any(axis=0)  # (C,)
    generator, of_seeds = np.random.default_rng(seed), np.random.default_rng([seed, 1])
    num_seeds = len(y_pred)
    num_documents, results = len(y_true), []
    for start in range(0, num_resamples, 500):  # 500 x N weights at a time
        size = min(500, num_resamples - start)
        weights = generator.multinomial(
            num_documents, np.full(num_documents, 1 / num_documents), size=size
        ).astype(np.float32)  # (R, N)
        shares = of_seeds.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size=size)
        shares = shares.T / num_seeds  # (S, R)
        double_tp, support = (weights @ c for c in counts)  # (S, R, C), or (S, R, 1) for micro
        f1 = double_tp / np.maximum(support, 1)
        if average == "micro_f1":
            results.append((f1[:, :, 0] * shares).sum(axis=0))
        else:  # a label without a drawn document has no true positive: it adds 0 to the sum
            drawn = np.maximum((weights @ y_true.astype(np.float32) > 0).sum(axis=1), 1)  # (R,)
            results.append((f1.sum(axis=2) / drawn * known.mean() * shares).sum(axis=0))
    return np.concatenate(results).astype(np.float64)


def _document_counts(y_true: np.ndarray, y_pred: np.ndarray) -> list[np.ndarray]:
    double_tp = 2.0 * (y_true & y_pred)
    return [double_tp.astype(np.float32), (y_true.astype(np.float32) + y_pred)]


def bootstrap_interval(
    y_true: np.ndarray,
    y_pred: np.ndarray,
    *,
    average: str,
    num_resamples: int = 5000,
    seed: int = 0,
) -> tuple[float, float]:
    """95 % percentile interval of F1 (Efron & Tibshirani 1993, 13.3); see `bootstrap_f1`."""
    samples = bootstrap_f1(y_true, y_pred, average=average, num_resamples=num_resamples, seed=seed)
    low, high = np.quantile(samples, [0.025, 0.975])
    return float(low), float(high)


def paired_bootstrap(
    y_true: np.ndarray,
    y_pred_a: np.ndarray,
    y_pred_b: np.ndarray,
    *,
    average: str,
    num_resamples: int = 5000,
    seed: int = 0,
) -> tuple[float, float]:
    """95 % percentile interval of F1(a) - F1(b) over the same resampled documents."""
    options = {"average": average, "num_resamples": num_resamples, "seed": seed}
    samples = bootstrap_f1(y_true, y_pred_a, **options) - bootstrap_f1(y_true, y_pred_b, **options)
    low, high = np.quantile(samples, [0.025, 0.975])
    return float(low), float(high)


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
    y_true: np.ndarray,
    y_preds: Mapping[str, np.ndarray],
    *,
    reference: str = "",
    num_resamples: int = 5000,
    seed: int = 0,
) -> pd.DataFrame:
    """Pairs of arms: paired F1 difference with interval, McNemar's p and Holm's adjusted p.

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
        `arm_a arm_b metric delta low high p_mcnemar p_holm`; a pair has a row for each average.
        Holm (1979) over all pairs.
    """
    samples = {
        (arm, average): bootstrap_f1(
            y_true, y_pred, average=average, num_resamples=num_resamples, seed=seed
        )
        for arm, y_pred in y_preds.items()
        for average in AVERAGES
    }
    correct = {arm: (y_pred[0] == y_true).all(axis=1) for arm, y_pred in y_preds.items()}
    rows = []
    pairs = [(arm, reference) for arm in y_preds if arm != reference]
    for a, b in pairs if reference else combinations(y_preds, 2):
        p = mcnemar(correct[a], correct[b])
        for average in AVERAGES:
            difference = samples[a, average] - samples[b, average]
            low, high = np.quantile(difference, [0.025, 0.975])
            delta = f1(y_true, y_preds[a], average) - f1(y_true, y_preds[b], average)
            rows.append((a, b, average, delta, low, high, p))
    columns = ["arm_a", "arm_b", "metric", "delta", "low", "high", "p_mcnemar"]
    table = pd.DataFrame(rows, columns=columns)
    if len(table):
        by_pair = table["metric"] == AVERAGES[0]
        adjusted = multipletests(table.loc[by_pair, "p_mcnemar"], method="holm")[1]
        table["p_holm"] = np.repeat(adjusted, len(AVERAGES))
    else:
        table["p_holm"] = []
    return table


def f1(y_true: np.ndarray, y_pred: np.ndarray, average: str) -> float:
    """Mean over seeds of the F1 that `bootstrap_f1` resamples, from (N, C) and (S, N, C) bool."""
    double_tp, support = (c.sum(axis=1) for c in _document_counts(y_true, y_pred))  # (S, C)
    if average == "micro_f1":
        double_tp, support = (
            double_tp.sum(axis=1, keepdims=True),
            support.sum(axis=1, keepdims=True),
        )
    return float((double_tp / np.maximum(support, 1)).mean())


def conclude(comparison: pd.DataFrame, pairwise: pd.DataFrame, *, alpha: float = 0.05) -> str:
    """A paragraph, in Markdown, of what the numbers allow to say about micro-F1, and what not.

    Arms are called distinguishable when their paired interval excludes zero and Holm's p is below
    `alpha`, and not distinguishable otherwise.

    Parameters
    ----------
    comparison
        A row per arm: `arm num_seeds micro_f1 micro_f1_low micro_f1_high`.
    pairwise
        As `compare_all` returns it.
    """
    ranked = comparison.sort_values("micro_f1", ascending=False, kind="stable").reset_index()
    best = ranked.iloc[0]
    sentences = [
        f"**{best.arm}** has the highest micro-F1, {best.micro_f1:.3f} "
        f"(95 % interval {best.micro_f1_low:.3f} to {best.micro_f1_high:.3f})."
    ]
    worse, tied = [], []
    for arm in ranked.arm[1:]:
        delta, certain = _difference(pairwise, best.arm, arm, alpha)
        (worse if certain else tied).append(f"{arm} ({delta:+.3f})")
    if worse:
        sentences.append(
            f"It is distinguishably better (paired 95 % interval without zero, Holm-adjusted "
            f"p < {alpha:g}) than {_join(worse)}."
        )
    if tied:
        sentences.append(f"It is **not distinguishable** from {_join(tied)} on these documents.")
    if {"embedding", "instruction"} <= set(ranked.arm):
        delta, certain = _difference(pairwise, "embedding", "instruction", alpha)
        row = _pair(pairwise, "embedding", "instruction")
        verdict = (
            f"{'the head' if delta > 0 else 'the prompt'} is better"
            if certain
            else "neither is shown to be better"
        )
        sentences.append(
            f"Head against prompt: {verdict} (embedding minus instruction {delta:+.3f}, "
            f"{min(row.low, row.high):+.3f} to {max(row.low, row.high):+.3f}, Holm-adjusted "
            f"McNemar {format_p(row.p_holm)})."
        )
    fewest = int(comparison.num_seeds.min())
    if fewest == 1:
        sentences.append(
            "With 1 seed an arm, the intervals cover the choice of test documents, not the luck of "
            "training: other seeds may reorder arms that are close."
        )
    else:
        sentences.append(
            f"The intervals cover the choice of test documents and of {fewest} seeds; so few "
            "underestimate how much seeds differ."
        )
    sentences.append(
        "Nothing here tells how the order changes with more documents, other labels or models."
    )
    return " ".join(sentences)


def conclude_effects(pairwise: pd.DataFrame, reference: str) -> str:
    """A paragraph, in Markdown, on which arms differ from the reference in micro-F1.

    Parameters
    ----------
    pairwise
        As `compare_all` returns it with a `reference`.
    """
    micro = pairwise[pairwise.metric == "micro_f1"].sort_values("delta", ascending=False)
    sentences = []
    for verb, chosen in (
        ("above", micro[micro.low > 0]),
        ("below", micro[micro.high < 0].iloc[::-1]),
    ):
        if len(chosen):
            arms = [f"{row.arm_a} ({row.delta:+.3f})" for row in chosen.itertuples()]
            sentences.append(f"In micro-F1, {verb} **{reference}**: {_join(arms)}.")
    unclear = micro[(micro.low <= 0) & (micro.high >= 0)]
    if len(unclear):
        sentences.append(
            f"The paired 95 % interval of {_join(list(unclear.arm_a))} includes zero: not "
            f"distinguishable from {reference} here."
        )
    firm = list(micro[micro.p_holm < 0.05].arm_a) or ["none"]
    sentences.append(
        f"Intervals are not adjusted: of {len(micro)} changes without any effect, about "
        f"{0.05 * len(micro):.1f} would be expected to exclude zero. Holm-adjusted McNemar p, on "
        f"the first seed alone, is below 0.05 for {_join(firm)}."
    )
    return " ".join(sentences)


def format_p(p: float) -> str:
    """ "p = 0.012", or "p < 0.001" where more digits would pretend to precision."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def _pair(pairwise: pd.DataFrame, a: str, b: str) -> pd.Series:
    """The pair's micro-F1 row, turned so that its differences read a minus b."""
    micro = pairwise[pairwise.metric == "micro_f1"]
    for x, y, sign in ((a, b, 1), (b, a, -1)):
        row = micro[(micro.arm_a == x) & (micro.arm_b == y)]
        if len(row):
            turned = row.iloc[0].copy()
            turned[["delta", "low", "high"]] *= sign
            return turned
    raise ValueError(f"pairwise has no row for {a!r} and {b!r}")


def _difference(pairwise: pd.DataFrame, a: str, b: str, alpha: float) -> tuple[float, bool]:
    row = _pair(pairwise, a, b)
    return float(row.delta), bool(row.low * row.high > 0 and row.p_holm < alpha)


def _join(items: list[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
