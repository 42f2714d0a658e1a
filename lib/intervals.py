"""Intervals of F1 and of paired differences, over test documents and training seeds.

Test documents and training seeds are two sources of variation. Documents are resampled
(`lib.resampling`). Three seeds are too few to resample, a bootstrap of S values underestimates
their variance by the factor (S - 1) / S (Efron & Tibshirani 1993, chapter 5), so they enter as
the variance component that they are: F1 of seed s on the documents d is

    F_sd = mean + D_d + U_s + I_sd

with D and I seen in the bootstrap and U + I in how seeds differ. The variance of the mean over S
seeds is then Var(D) + Var(U + I) / S, in which the interaction I is counted once.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import t as student

from lib.resampling import AVERAGES, Labels, Preds, f1_by_seed, resample_f1

ALPHA = 0.05
POWER = 0.80


class Interval(NamedTuple):
    """A 95 % interval and what it was made from.

    Attributes
    ----------
    low, high, standard_error
        In F1.
    df
        Degrees of freedom of Student's t; infinite where documents alone vary.
    """

    low: float
    high: float
    standard_error: float
    df: float


class Arm(NamedTuple):
    """F1 of S seeds, (S,), and of each on R resamples, (S, R)."""

    values: np.ndarray
    samples: np.ndarray


def estimate_interval(arms: Sequence[Arm], num_documents: int) -> Interval:
    """The interval of one arm's mean F1, or of a sum of several: a difference is a + (-b).

    Student's t around the mean with Satterthwaite's degrees of freedom (Satterthwaite 1946,
    Biometrics 2, p. 110): V^2 / (sum of V_k^2 / df_k) over the variance of documents, with N - 1,
    and of each arm's seeds, with S - 1. Never narrower than documents alone would make it. Arms'
    seeds count as independent, which errs on the wide side where they share, say, their training
    documents. An arm with one seed stands for that trained model; if all do, the interval is the
    percentile interval over documents (Efron & Tibshirani 1993, section 13.3), moved by what the
    resamples' mean is off: with many rare labels, which resamples miss, their macro-F1 is too high.

    Parameters
    ----------
    arms
        For each arm (S,) F1 of its seeds and (S, R) of the same resamples, S of its own.
    """
    means = np.sum([arm.samples.mean(axis=0) for arm in arms], axis=0)  # (R,)
    both = means.var(ddof=1)  # Var(D) + Var(I) / S
    middle = sum(arm.values.mean() for arm in arms)
    several = [arm for arm in arms if len(arm.values) > 1]
    if not several:
        low, high = np.quantile(means, [ALPHA / 2, 1 - ALPHA / 2]) + middle - means.mean()
        return Interval(float(low), float(high), math.sqrt(both), math.inf)
    seeds = np.array([arm.values.var(ddof=1) / len(arm.values) for arm in several])
    documents = max(both - sum(_interaction(arm.samples) for arm in several), 0)
    variance = max(documents + seeds.sum(), both)
    spread = documents**2 / (num_documents - 1) if num_documents > 1 else 0
    spread += sum(v**2 / (len(arm.values) - 1) for v, arm in zip(seeds, several, strict=True))
    df = variance**2 / spread if spread > 0 else math.inf
    half = student.ppf(1 - ALPHA / 2, df) * math.sqrt(variance)
    return Interval(float(middle - half), float(middle + half), math.sqrt(variance), float(df))


def _interaction(samples: np.ndarray) -> float:
    """Var(I) / S from (S, R): how resampled seeds move apart from their mean."""
    num_seeds = len(samples)
    apart = samples - samples.mean(axis=0)
    return float(apart.var(axis=1, ddof=1).sum() / (num_seeds - 1) / num_seeds)


def min_detectable(interval: Interval, num_documents: int) -> float:
    """The smallest true difference in F1 that would be found with 80 % power at 5 %, two-sided.

    (t_0.975 + t_0.80) x standard error: 2.8 standard errors where documents alone vary (Bloom 1995,
    Evaluation Review 19, p. 547). Not below 3 / N, which even no differing document of N leaves
    possible (rule of three: Hanley & Lippman-Hand 1983). Holm's adjustment asks for more.
    """
    quantiles = student.ppf([1 - ALPHA / 2, POWER], interval.df).sum()
    return float(max(quantiles * interval.standard_error, 3 / num_documents))


def f1_intervals(
    y_true: Labels, y_preds: Mapping[str, Preds], *, num_resamples: int = 5000, seed: int = 0
) -> pd.DataFrame:
    """A row per arm: `arm num_seeds`, each average's mean over seeds, `_low` and `_high` in [0, 1].

    Parameters
    ----------
    y_true, y_preds
        (N, C) bool, and for each arm (S, N, C) bool; see `estimate_interval`.
    """
    arms = resampled_arms(y_true, y_preds, num_resamples=num_resamples, seed=seed)
    rows = []
    for arm in y_preds:
        row = {"arm": arm, "num_seeds": len(y_preds[arm])}
        for average in AVERAGES:
            interval = estimate_interval([arms[arm, average]], y_true.shape[0])
            row[average] = arms[arm, average].values.mean()
            low, high = np.clip(interval[:2], 0, 1)  # Student's t knows no bounds
            row |= {f"{average}_low": low, f"{average}_high": high}
        rows.append(row)
    return pd.DataFrame(rows)


def bootstrap_interval(
    y_true: Labels, y_pred: Preds, *, average: str, num_resamples: int = 5000, seed: int = 0
) -> tuple[float, float]:
    """95 % interval of the mean F1 of one arm, cut to [0, 1]; see `estimate_interval`."""
    arms = resampled_arms(y_true, {"": y_pred}, num_resamples=num_resamples, seed=seed)
    low, high = estimate_interval([arms["", average]], y_true.shape[0])[:2]
    return max(low, 0.0), min(high, 1.0)


def paired_bootstrap(
    y_true: Labels,
    y_pred_a: Preds,
    y_pred_b: Preds,
    *,
    average: str,
    num_resamples: int = 5000,
    seed: int = 0,
) -> tuple[float, float]:
    """95 % interval of F1(a) - F1(b) over the same resampled documents and their seeds."""
    y_preds = {"a": y_pred_a, "b": y_pred_b}
    arms = resampled_arms(y_true, y_preds, num_resamples=num_resamples, seed=seed)
    return paired_interval(arms["a", average], arms["b", average], y_true.shape[0])[:2]


def paired_interval(a: Arm, b: Arm, num_documents: int) -> Interval:
    """The interval of F1(a) - F1(b), from the same resamples."""
    return estimate_interval([a, Arm(-b.values, -b.samples)], num_documents)


def resampled_arms(
    y_true: Labels, y_preds: Mapping[str, Preds], *, num_resamples: int, seed: int
) -> dict[tuple[str, str], Arm]:
    """For each arm and average, F1 of its seeds and on resamples that are the same for all."""
    samples = resample_f1(y_true, y_preds, num_resamples=num_resamples, seed=seed)
    return {
        (arm, average): Arm(values, of_average)
        for arm, y_pred in y_preds.items()
        for average, values, of_average in zip(
            AVERAGES, f1_by_seed(y_true, y_pred), samples[arm], strict=True
        )
    }
