"""Intervals of F1 and of paired differences, over test documents and training seeds.

An interval is that of the expected score on other test splits with equally many documents. With
several seeds it is over other seeds too. Macro-F1 counts a label without a test document as 0; so
does its expectation, which is below the macro-F1 of infinitely many documents where labels are
rare.

Documents
    Limits of a share (Clopper & Pearson 1934) of an effective number of documents (Korn & Graubard
    1998, Survey Methodology 24, p. 193), widened to the variance of the module `jackknife`. They
    hold at the ends of the scale too, with no or few errors. A difference is a share of gains minus
    a share of losses, and its limits are combined from theirs (Newcombe 1998, Statistics in
    Medicine 17, p. 2635; Zou & Donner 2008, same journal 27, p. 1693).
Groups
    Units are groups, left out as wholes, with Student's t for the normal (Cameron, Gelbach & Miller
    2008, Review of Economics and Statistics 90, p. 414): of G - 1 degrees of freedom, or of fewer
    where some groups decide more than others (`group_df`).
Seeds
    Seeds are too few to resample. F1 of seed s on the documents d is mean + D_d + U_s + I_sd, and
    the variance of the mean over S seeds is Var(D) + Var(U + I) / S, in which the interaction I of
    documents and seeds is counted once. The seeds of two arms count as independent, which makes
    intervals too wide rather than too narrow where arms share training documents. With one seed,
    the interval is that of the one trained model.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.special import betainc, betaincinv, stdtrit

from lib.evaluation.jackknife import SUPPORTED, Arm, measure_arms
from lib.evaluation.resampling import AVERAGES, Preds
from lib.evaluation.scores import Groups, Labels

ALPHA = 0.05
QUANTILES = (ALPHA / 2, 1 - ALPHA / 2)  # of resamples, for a 95 % interval
NORMAL = 1.959964  # quantile of the standard normal at 1 - ALPHA / 2


class Spread(NamedTuple):
    """A score or a difference in F1, and its variation over documents and over seeds."""

    value: float
    below: float  # standard errors over documents, one per side
    above: float
    shared: float  # share of the documents' variance that all seeds have in common
    seeds: np.ndarray  # (K,) variances of the mean over seeds, of the K arms that have several
    df_seeds: np.ndarray  # (K,) degrees of freedom of these variances

    @property
    def error(self) -> float:
        """Standard error over documents and seeds, the mean of both sides."""
        documents = self.shared * (self.below**2 + self.above**2) / 2
        return float(np.sqrt(documents + self.seeds.sum()))


def arm_interval(arm: Arm) -> tuple[float, float]:
    """The 95 % interval of one arm's mean F1, in [0, 1]; (0, 1) where nothing is known.

    Nothing is known of a single unit, or where no document has a label.
    """
    num_units, value = len(arm.pseudo), arm.values.mean()
    top = arm.weights.sum()  # macro-F1 stays below 1 where labels have no test document
    if num_units < 2 or top == 0:
        return 0.0, 1.0
    # limits of F1 as a share of its highest value
    share, count = min(value / top, 1.0), effective_count(arm.errors / top, arm.weights / top)
    low, high = share_limits(np.array(share), np.array(count))
    sides = np.array([share - low, high - share]) * top
    # narrower or wider, as the jackknife's variance is than that of such a share
    of_share = top**2 * share * (1 - share) / count
    variance = arm.pseudo.var(ddof=1) / num_units
    # documents right or wrong, whichever are fewer: the fewer, the less a smaller variance counts
    rarer = count * min(share, 1 - share)
    if variance < of_share:
        sides *= np.sqrt((rarer * variance / of_share + 1) / (rarer + 1))
    errors = few_groups(arm) * np.sqrt((sides / NORMAL) ** 2 + max(variance - of_share, 0))
    return _around(_spread(value, [arm], errors, variance), least=0.0)


def paired_interval(spread: Spread | None) -> tuple[float, float]:
    """The 95 % interval of F1(a) - F1(b), in [-1, 1]; see `paired_spread`."""
    return (-1.0, 1.0) if spread is None else _around(spread, least=-1.0)


def paired_spread(a: Arm, b: Arm) -> Spread | None:
    """F1(a) - F1(b) with its variation: gains, where b errs and a does not, minus losses.

    None where nothing is known: of a single unit, or if no document has a label. `a` and `b` are
    the same average of two arms on the same documents.
    """
    if len(a.pseudo) < 2 or not a.weights.any():
        return None
    # limits of the shares of gains and of losses, (2,) each
    change = b.errors - a.errors  # (N,)
    parts = [np.maximum(change, 0), np.maximum(-change, 0)]
    shares = np.array([part.sum() for part in parts])
    counts = np.array([effective_count(part, a.weights) for part in parts])
    low, high = share_limits(shares, counts)
    below, above = shares - low, high - shares
    # limits of their difference: gains and losses are correlated, as no document is both
    odds = shares / np.maximum(1 - shares, 1e-9)
    correlation = -np.sqrt(odds.prod())
    sides = [(below[0], above[1]), (above[0], below[1])]
    sides = np.array([np.sqrt(x * x + y * y - 2 * correlation * x * y) for x, y in sides])
    # wider, if the jackknife's variance is larger than that of two such shares
    variance = (a.pseudo - b.pseudo).var(ddof=1) / len(a.pseudo)
    of_shares = (shares * (1 - shares) / counts).sum() + 2 * shares.prod() / np.sqrt(counts.prod())
    errors = np.sqrt((sides / NORMAL) ** 2 + max(variance - of_shares, 0))
    errors = np.maximum(errors, few_groups(a, b) * math.sqrt(variance))
    return _spread(a.values.mean() - b.values.mean(), [a, b], errors, variance)


def few_groups(a: Arm, b: Arm | None = None) -> float:
    """Student's 0.975 quantile, of `group_df`, over the normal one; 1 where units are documents."""
    return float(stdtrit(group_df(a, b), 1 - ALPHA / 2)) / NORMAL if a.grouped else 1.0


def group_df(a: Arm, b: Arm | None = None) -> float:
    """Degrees of freedom of the variance over groups, of an arm's F1 or of a difference.

    They are Satterthwaite's (1946): the number of equal groups whose variance would be as uncertain
    (Bell & McCaffrey 2002, Survey Methodology 28, p. 169; Carter, Schnepel & Steigerwald 2017,
    Review of Economics and Statistics 99, p. 698). A group of n documents with the weight w has the
    part w^2 (rho + (1 - rho) / n) in the variance (Imbens & Kolesár 2016, same review 98, p. 701).
    The intraclass correlation rho is the observed one, by which the variance over groups of m
    documents is that over documents times 1 + (m - 1) rho (Korn & Graubard 1998).

    At least 2, our choice: the quantile of 1 degree, 12.7, would be too wide for one group that
    decides alone, which is as far from the mean as its error says. At most G - 1.
    """
    if not a.weights.any():  # no document has a label
        return 1.0
    weights = a.weights / a.weights.sum()
    errors, pseudo = a.errors, a.pseudo
    if b is not None:
        errors, pseudo = errors - b.errors, pseudo - b.pseudo
    num_units, num_documents = len(pseudo), len(errors)
    # rho from the design effect; 1 where nothing was observed
    of_documents, rho = num_documents * errors.var(), 1.0
    size = num_documents * (weights**2).sum()  # m, of the groups that decide most
    if of_documents > 0 and size > 1:
        rho = np.clip((pseudo.var(ddof=1) / num_units / of_documents - 1) / (size - 1), 0, 1)
    parts = weights**2 * (rho + (1 - rho) / np.maximum(num_documents * weights, 1))
    return float(np.clip(parts.sum() ** 2 / (parts**2).sum(), 2, num_units - 1))


def stretch(arms: Sequence[Arm]) -> float:
    """The factor by which resamples of few groups have to vary more; 1 where units are documents.

    The variance of G resampled groups is (G - 1) / G of what it should be, and their distribution
    is normal rather than Student's t of `group_df`. The ratio of these quantiles is the mean over
    pairs of `arms`, which are one average of each arm. NaN for a single group.
    """
    num_units = len(arms[0].pseudo)
    if not arms[0].grouped:
        return 1.0
    if num_units < 2:
        return math.nan
    factors = [few_groups(a, b) for a, b in combinations(arms, 2)] or [few_groups(arms[0])]
    return float(np.mean(factors)) * math.sqrt(num_units / (num_units - 1))


def effective_count(costs: np.ndarray, weights: np.ndarray) -> float:
    """The number of equal documents whose errors have a sum as uncertain as that of `costs`.

    `costs`, (N,), are F1 lost or gained by each document, which amounts to k events of their
    typical size. 1 / (1 + k) unseen events are added, of the mean size of a unit by `weights`,
    (G,): our choice, so that the number is defined where nothing costs. It is N where each of N
    documents is a unit and costs 0 or 1 / N.
    """
    share = costs.sum()
    events = share**2 / (costs**2).sum() if share > 0 else 0
    unseen = 1 / (1 + events)
    return float((events + unseen) / (share + unseen * (weights**2).sum() / weights.sum()))


def share_limits(share: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper 95 % limits of shares in [0, 1] of effective counts, in the arrays' shape.

    At a limit, a share at least as extreme as the observed one has a probability of 2.5 %, in which
    the observed share itself counts with the weight w. That is 1 at the ends of the scale (Clopper
    & Pearson 1934; 3.7 / N is the upper limit of a share that N documents do not show) and 1/2 in
    the middle (mid-p: Lancaster 1961). For x documents from the nearer end, w = 1/2 + 1/2 / (1 + x
    / 3) is our choice: by enumeration, limits contain 94 to 97 % of shares in the middle, and 94 to
    99.8 % at the ends.
    """
    # the upper limit is the lower one of 1 - share
    both = np.stack([share, np.maximum(1 - share, 0)])
    seen, unseen = both * count, both[::-1] * count
    weight = 0.5 + 0.5 / (1 + np.minimum(seen, unseen) / 3)
    # the limit lies between those with w = 1 and w = 0
    tiny, quantile = 1e-9, np.full_like(seen, ALPHA / 2)
    low = betaincinv(np.maximum(seen, tiny), unseen + 1, quantile)
    high = betaincinv(seen + 1, np.maximum(unseen, tiny), quantile)
    for _ in range(20):  # halvings
        middle = (low + high) / 2
        at_least = betainc(np.maximum(seen, tiny), unseen + 1, middle)
        more = betainc(seen + 1, np.maximum(unseen, tiny), middle)
        outside = weight * at_least + (1 - weight) * more < ALPHA / 2
        low, high = np.where(outside, middle, low), np.where(outside, high, middle)
    low = np.where(seen > 0, low, 0.0)
    return low[0], 1 - low[1]


def _spread(value: float, arms: Sequence[Arm], errors: np.ndarray, variance: float) -> Spread:
    """The spread of one or two arms, from the errors per side and the variance over documents."""
    several = [arm for arm in arms if len(arm.values) > 1]
    seeds = np.array([arm.values.var(ddof=1) / len(arm.values) for arm in several])
    interaction = sum(arm.interaction for arm in several)
    shared = max(1 - interaction / variance, 0) if variance > 0 else 1.0
    df_seeds = np.array([len(arm.values) - 1 for arm in several])
    return Spread(float(value), *map(float, errors), shared, seeds, df_seeds)


def _around(spread: Spread, *, least: float) -> tuple[float, float]:
    """The 95 % interval of a spread, never narrower than that over documents alone."""
    errors = np.array([spread.below, spread.above])
    both = [half_width(spread.shared * x**2, spread.seeds, spread.df_seeds) for x in errors]
    below, above = np.maximum(NORMAL * errors, both).tolist()
    return max(spread.value - below, least), min(spread.value + above, 1.0)


def half_width(documents: np.ndarray, seeds: np.ndarray, df: np.ndarray) -> np.ndarray:
    """Half the width of a 95 % interval, (...), from variances over documents and over seeds.

    `documents` are (...) variances, `seeds` (K, ...) variances of the means over seeds of K arms,
    and `df`, (K,), the degrees of freedom of the latter.

    Student's t with Satterthwaite's degrees of freedom (1946, Biometrics 2, p. 110) is too narrow
    where most of the variance has one degree of freedom; Cochran's t (1964, Biometrics 20, p. 191),
    each part's quantile weighted by its variance, is too wide where it has many. Cochran's has the
    weight 1 / sqrt(df of the seeds) here, which is our choice: simulated, it covers 94 to 97 % with
    three to five seeds and 94 to 98 % with two, whatever the share of documents.
    """
    if not len(seeds):
        return NORMAL * np.sqrt(documents)
    of_seeds, level = seeds.sum(axis=0), 1 - ALPHA / 2
    total = np.maximum(documents + of_seeds, 1e-30)
    squares = np.maximum(np.tensordot(1 / df, seeds**2, axes=1), 1e-60)
    df_of_seeds = np.clip(of_seeds**2 / squares, df.min(), df.sum())
    satterthwaite = stdtrit(np.minimum(total**2 / squares, 1e9), level)
    cochran = (documents * NORMAL + of_seeds * stdtrit(df_of_seeds, level)) / total
    quantile = satterthwaite + (cochran - satterthwaite) / np.sqrt(df_of_seeds)
    return quantile * np.sqrt(total)


def f1_intervals(
    y_true: Labels, y_preds: Mapping[str, Preds], *, groups: Groups = None
) -> pd.DataFrame:
    """A row per arm: `arm num_seeds`, and each average with the ends of its interval, in [0, 1].

    The averages are `micro_f1`, `macro_f1`, in which a label without a test document counts 0, and
    `macro_f1_supported`, over the other labels alone. Each is a mean over seeds. Columns with
    `_low` and `_high` behind its name are the ends of the 95 % interval that the module describes.

    Parameters
    ----------
    y_true, y_preds
        (N, C) bool, and for each arm (S, N, C) bool; arms may differ in S, the number of seeds.
    groups
        (N,) the group of each document; None where documents are independent.
    """
    arms = measure_arms(y_true, y_preds, groups=groups)
    rows = []
    for arm in y_preds:
        row = {"arm": arm, "num_seeds": len(y_preds[arm])}
        for average in (*AVERAGES, SUPPORTED):
            low, high = arm_interval(arms[arm, average])
            row[average] = arms[arm, average].values.mean()
            row |= {f"{average}_low": low, f"{average}_high": high}
        rows.append(row)
    return pd.DataFrame(rows)
