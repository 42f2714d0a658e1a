"""The smallest true difference that four studies of five would find: 80 % power.

A study finds a difference if its paired 95 % interval excludes zero and its p is below 0.05
(`lib.evaluation.significance`). Constants without a source are our choices.
"""

import math
from functools import cache

import numpy as np
from scipy.optimize import brentq
from scipy.special import gammaln
from scipy.stats import binom, nct, poisson
from scipy.stats import t as student

from lib.evaluation.intervals import ALPHA, Spread, effective_count, group_df, half_width
from lib.evaluation.jackknife import Arm

POWER = 0.80
MAX_DIFFERING = 500  # documents on which two arms differ: more than the enumeration meets
MAX_ENUMERATED = 150.0  # sqrt(gains x losses) up to which power is enumerated
NORMAL_SUM = 2.8016  # sum of the normal quantiles at 0.975 and at 0.80 (Bloom 1995, p. 547)
Z_POWER = 0.8416  # the latter
NUM_DRAWS = 4000  # simulated studies with other seeds
LEAST_DF = 6  # of groups: with 2 to 4, 66 to 73 % of simulated studies found the difference, not 80


def min_detectable(a: Arm, b: Arm, spread: Spread | None, *, mid_p: bool) -> float:
    """The least true difference in F1 that is found with 80 % power; NaN if no possible one is.

    NaN as well where few groups decide (fewer degrees of freedom than `LEAST_DF`), as the variance
    of so few says little. Holm's adjustment, which is not in it, requires a larger difference.

    Documents
        Gains and losses (`paired_spread`) are Poisson counts of events, tested by McNemar. Their
        product is taken to stay as observed, as it does where an arm becomes better on every
        document alike. With few documents five or six gains and no loss are required, with many
        2.8 standard errors (Bloom 1995, Evaluation Review 19, p. 547).
    Groups
        The difference that both Student's t and the exchange of whole groups find.
    Seeds
        The 80 % quantile, over simulated studies, of the interval's half-width minus the
        difference's error.

    `spread` is `paired_spread` of `a` and `b`. `mid_p` is true if the test is the mid-p McNemar,
    false if it is one in which the observed outcome counts in full.
    """
    num_units = len(a.pseudo)
    if spread is None or (a.grouped and 2.0 ** (1 - num_units) > ALPHA):
        return math.nan  # so few groups have too few exchanges for a p below 0.05
    variance = float((a.pseudo - b.pseudo).var(ddof=1)) / num_units
    found = _of_documents(a, b, 0.0 if a.grouped else variance, mid_p=mid_p)
    if a.grouped:
        equal = a.weights.sum() ** 2 / (a.weights**2).sum()  # number of equal groups
        if (df := group_df(a, b)) < LEAST_DF:
            return math.nan
        needed = _standard_errors_of_groups(round(equal, 1), round(df, 1))
        found = max(found, math.sqrt(variance) * needed)
    if len(spread.seeds) and math.isfinite(found):
        found = _of_studies((found / NORMAL_SUM) ** 2, spread)
    return found if found <= a.weights.sum() else math.nan


def _of_documents(a: Arm, b: Arm, variance: float, *, mid_p: bool) -> float:
    """The difference that McNemar's test finds, at least about 2.8 roots of the `variance`."""
    # gains and losses as counts of events, each worth `event` in F1
    change = b.errors - a.errors  # (N,)
    event = 1 / effective_count(np.abs(change), a.weights)
    gains, losses = (np.maximum(x, 0).sum() / event for x in (change, -change))
    middle = math.sqrt((gains + 0.5) * (losses + 0.5))
    poisson_events = events = _events_needed(middle, mid_p)
    # changes of N documents vary less about their mean than Poisson counts do, so that fewer events
    # are enough: a fixed point, in five rounds
    for _ in range(5):
        both = math.hypot(events, 2 * middle)
        centred = math.sqrt(max(1 - events**2 * event / both, 0))
        events = poisson_events * (1 - Z_POWER / NORMAL_SUM * (1 - centred))
    return event * events * math.sqrt(max(variance / (event**2 * (gains + losses + 1)), 1))


def _of_studies(documents: float, spread: Spread) -> float:
    """The difference found in four of five studies with other seeds.

    `documents` is the variance over documents. Standard deviations over seeds are too low on
    average by the factor c4 (Cureton 1968, American Statistician 22(1), p. 22), while the quantile
    is convex in them. Variances are divided by c4, which is our choice: in simulations with two to
    five seeds it yields a power of 80 %.
    """
    df, seeds = spread.df_seeds, spread.seeds
    c4 = np.sqrt(2 / df) * np.exp(gammaln((df + 1) / 2) - gammaln(df / 2))
    seeds, documents = seeds / c4, documents * spread.shared
    total = documents + seeds.sum()
    chi_squared, normal = _draws(tuple(df))
    seen = seeds[:, None] * chi_squared / df[:, None]
    half = half_width(np.full(NUM_DRAWS, documents), seen, df)
    errors = math.sqrt(total) * normal
    return float(np.quantile(half - errors, POWER))


@cache
def _draws(df: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Draws for simulated studies: chi-squared (K, NUM_DRAWS), and standard normal (NUM_DRAWS,).

    `df` are the degrees of freedom of K arms. The same draws in every call make results repeatable.
    """
    generator = np.random.default_rng(0)
    chi_squared = generator.chisquare(df, (NUM_DRAWS, len(df))).T
    return chi_squared, generator.standard_normal(NUM_DRAWS)


@cache
def _standard_errors_of_groups(num_groups: float, df: float) -> float:
    """The difference, in standard errors, that both Student's t and the exchange of groups find.

    For Student's t it is the parameter of the noncentral t with `df` (`intervals.group_df`). For
    the exchange of G whole groups it is the D that solves D = z_0.975 sqrt(1 + D^2 / G) + z_0.80:
    exchanged groups vary around zero rather than around their mean. Infinite where so few groups
    decide that no D is enough.
    """
    least = student.ppf(1 - ALPHA / 2, df)
    by_t = brentq(lambda x: nct.sf(least, df, x) - POWER, 1, 20)
    quantile = NORMAL_SUM - Z_POWER

    def lacking(errors: float) -> float:
        return quantile * math.sqrt(1 + errors**2 / num_groups) + Z_POWER - errors

    exchanged = brentq(lacking, 1, 99) if lacking(99) < 0 else math.inf
    return float(max(by_t, exchanged))


def _events_needed(middle: float, mid_p: bool) -> float:
    """Gains minus losses, expected, found with 80 % power; `middle` is sqrt(gains x losses)."""
    if middle > MAX_ENUMERATED:
        squared = NORMAL_SUM**2  # events = 2.8 sqrt(gains + losses), solved
        return math.sqrt(squared * (squared + math.hypot(squared, 4 * middle)) / 2)
    logs, events = _table(mid_p)
    return float(np.interp(math.log(middle), logs, events))


@cache
def _table(mid_p: bool) -> tuple[np.ndarray, np.ndarray]:
    """Logarithms of 20 values of sqrt(gains x losses), and the events that are found there."""
    middles = np.geomspace(0.5, MAX_ENUMERATED, 20)
    return np.log(middles), np.array([_solve(middle, mid_p) for middle in middles])


def _solve(middle: float, mid_p: bool) -> float:
    """The same as `_events_needed`, by bisection over exact probabilities."""
    low, high = 0.0, 20 + 6 * math.sqrt(middle)
    for _ in range(16):  # halvings
        events = (low + high) / 2
        both = math.hypot(events, 2 * middle)  # gains + losses expected
        counts = np.arange(int(max(0, both - 6 * math.sqrt(both))), int(both + 6 * both**0.5) + 8)
        # power at each number of differing documents, then over their Poisson distribution
        least = _least_difference(mid_p)[counts]
        gain = (1 + events / both) / 2
        hit = binom.sf((counts + least) // 2 - 1, counts, gain)
        hit = hit + binom.cdf((counts - least) // 2, counts, gain)
        found = (poisson.pmf(counts, both) * hit).sum()
        low, high = (low, events) if found > POWER else (events, high)
    return high


@cache
def _least_difference(mid_p: bool) -> np.ndarray:
    """The least gains minus losses at which p is below 0.05, for 0 to `MAX_DIFFERING` differing.

    Where no difference is enough, it is 2 more than there are differing documents.
    """
    counts = np.arange(MAX_DIFFERING + 1)
    losses = np.arange(MAX_DIFFERING // 2)[:, None]
    tail = binom.cdf(losses, counts, 0.5)
    tail -= 0.5 * binom.pmf(losses, counts, 0.5) if mid_p else 0
    enough = (2 * tail < ALPHA) & (2 * losses < counts)
    fewer = np.where(enough, losses, -1).max(axis=0)  # the most losses that are still few enough
    return np.where(fewer >= 0, counts - 2 * fewer, counts + 2)
