"""Effects on many tasks, pooled: their mean, their spread, and what a new task may show."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import statsmodels.formula.api as smf
from scipy import optimize, stats
from scipy.special import ndtr

from lib.evaluation.intervals import NORMAL

MIN_TASKS = 4  # least number of tasks for a slope (our choice)
NUM_TAUS, NUM_ERRORS = 200, 50  # quantiles that stand for a distribution: limits are within 0.001


@dataclass(frozen=True)
class Pooled:
    """Mean effect over tasks, with its 95 % interval, and its heterogeneity.

    Between `new_low` and `new_high` the effect on a new task of this kind is expected (95 %
    prediction interval); they are NaN for fewer than three tasks.
    """

    mean: float
    low: float
    high: float
    new_low: float
    new_high: float
    tau: float  # standard deviation of true effects between tasks
    i2: float  # share of the observed variance that is between tasks, 0 to 1
    q: float  # Cochran's Q, which tests that all true effects are equal
    p: float  # its p-value
    num_tasks: int
    error: float  # standard error of the mean at `tau`


def per_task(cells: pd.DataFrame) -> pd.DataFrame:
    """One effect per task, the mean of its cells: `task effect error`.

    `cells` has the same columns; `error` is the standard error of `effect`. The cells of a task
    (sizes of model and of training) share test documents, but their errors are combined as if they
    were independent. The error that they share then counts as spread between tasks, so that the
    interval of the mean keeps its level and that of a new task is too wide rather than too narrow.
    """
    by_task = cells.groupby("task", sort=False)
    errors = by_task["error"].agg(lambda of: np.sqrt((of**2).sum()) / len(of))
    return pd.DataFrame({"effect": by_task["effect"].mean(), "error": errors}).reset_index()


def pool(effects: Sequence[float], errors: Sequence[float]) -> Pooled:
    """The random-effects mean of effects with known standard errors, each (K,).

    The between-task variance tau^2 is that of Paule and Mandel (1982); the mean and its error are
    those at this tau^2. Intervals do not take tau as known, because few tasks often show no spread
    where there is some. They are over all tau with which the effects are compatible, weighted by
    how credible each is: a confidence distribution (Nagashima, Noma & Furukawa 2019, Statistical
    Methods in Medical Research 28, p. 1689). It comes from the weighted sum of squares Q(tau^2),
    which is chi-squared with K - 1 degrees of freedom at the true tau^2 (Viechtbauer 2007,
    Statistics in Medicine 26, p. 37).

    Given tau, the mean is normal; for equally precise effects that differ much, its interval
    becomes Student's. A new effect is normal around the mean, whose error is taken as Student's t
    of K - 1 degrees of freedom, as by Nagashima et al.

    Raises
    ------
    ValueError
        There are fewer than two effects, or an error is not positive.
    """
    effects, errors = np.asarray(effects, dtype=float), np.asarray(errors, dtype=float)
    if len(effects) < 2:
        raise ValueError(f"{len(effects)} task: at least two are pooled")
    if not (errors > 0).all():
        raise ValueError("an effect's standard error is not positive")
    df = len(effects) - 1
    tau2 = _tau2_at(np.array([df]), effects, errors)
    mean, error, _ = _weighted(tau2, effects, errors)
    q = _weighted(np.zeros(1), effects, errors)[2].sum()
    low, high = _limits(*_mean_given_tau(effects, errors)[:2])
    new_low, new_high = _new_limits(effects, errors)
    return Pooled(
        mean=float(mean[0]),
        low=low,
        high=high,
        new_low=new_low,
        new_high=new_high,
        tau=float(np.sqrt(tau2[0])),
        i2=float(max(0.0, 1 - df / q)) if q else 0.0,
        q=float(q),
        p=float(stats.chi2.sf(q, df)),
        num_tasks=len(effects),
        error=float(error[0]),
    )


def _weighted(
    tau2: np.ndarray, effects: np.ndarray, errors: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weighted mean and its standard error at M values of tau^2, and squares about it, (K, M)."""
    weights = 1 / (errors[:, None] ** 2 + tau2)  # (K, M)
    mean = (weights * effects[:, None]).sum(axis=0) / weights.sum(axis=0)
    return mean, weights.sum(axis=0) ** -0.5, weights * (effects[:, None] - mean) ** 2


def _tau2_at(q: np.ndarray, effects: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """The tau^2, (M,), at which the weighted sum of squares is q, (M,); 0 where no tau^2 has it.

    Newton's steps (DerSimonian & Kacker 2007, Contemporary Clinical Trials 28, p. 105): the sum
    falls with tau^2 and is convex, so that steps never go too far.
    """
    tau2 = np.zeros(len(q))
    for _ in range(100):  # each at least about doubles a tau^2 that is far too small
        _, error, squares = _weighted(tau2, effects, errors)
        fall = (squares / (errors[:, None] ** 2 + tau2)).sum(axis=0)
        step = (squares.sum(axis=0) - q) / np.maximum(fall, 1e-300)
        tau2, before = np.maximum(tau2 + step, 0), tau2
        if (np.abs(tau2 - before) <= 1e-9 * (tau2 + error**2)).all():
            break
    return tau2


def _mean_given_tau(
    effects: np.ndarray, errors: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, its standard error and tau^2, (M,) each, at M equally credible values of tau."""
    q = stats.chi2.ppf((np.arange(NUM_TAUS) + 0.5) / NUM_TAUS, len(effects) - 1)
    tau2 = _tau2_at(q, effects, errors)
    mean, error, _ = _weighted(tau2, effects, errors)
    return mean, error, tau2


def _new_limits(
    effects: np.ndarray, errors: np.ndarray, own_error: float = 0.0
) -> tuple[float, float]:
    """95 % limits of a new effect as seen with its `own_error`; NaN from two effects."""
    df = len(effects) - 1
    if df < 2:
        return np.nan, np.nan
    mean, error, tau2 = _mean_given_tau(effects, errors)
    # Student's t is a normal whose variance is divided by chi-squared over df
    chi2 = stats.chi2.ppf((np.arange(NUM_ERRORS) + 0.5) / NUM_ERRORS, df)[:, None]
    spread = np.sqrt(error**2 * df / chi2 + tau2 + own_error**2)  # (NUM_ERRORS, M)
    return _limits(mean, spread)


def _limits(means: np.ndarray, spreads: np.ndarray) -> tuple[float, float]:
    """The 2.5 and 97.5 % quantiles of normal distributions mixed in equal parts."""

    def beyond(x: float, share: float) -> float:
        return float(ndtr((x - means) / spreads).mean() - share)

    def limit(z: float) -> float:
        # each distribution's own limit; the mixture's lies between the least and the largest
        ends, slack = means + z * spreads, 1e-6 * spreads.max()
        options = {"args": (ndtr(z),), "xtol": 1e-5 * spreads.min()}
        return float(optimize.brentq(beyond, ends.min() - slack, ends.max() + slack, **options))

    return limit(-NORMAL), limit(NORMAL)


def leave_one_out(tasks: pd.DataFrame) -> pd.DataFrame:
    """Each of at least four `tasks`, `task effect error`, against the pooled effect of all others.

    A row per task: `task effect`; `mean low high new_low new_high` of all others (`Pooled`); and
    `is_covered`, true if the effect is within their prediction interval, widened by the effect's
    own standard error.
    """
    rows = []
    for row in tasks.itertuples():
        effects, errors = tasks.drop(index=row.Index)[["effect", "error"]].to_numpy(float).T
        low, high = _new_limits(effects, errors, row.error)
        is_covered = low <= row.effect <= high
        rows.append({"task": row.task, "effect": row.effect, "is_covered": is_covered})
        rows[-1] |= vars(pool(effects, errors))
    limits = ["mean", "low", "high", "new_low", "new_high"]
    return pd.DataFrame(rows)[["task", "effect", *limits, "is_covered"]]


def regress(
    cells: pd.DataFrame, *, of_cells: Sequence[str], of_tasks: Sequence[str]
) -> pd.DataFrame:
    """Meta-regression of effects on properties of their cells, one at a time: tasks are few.

    A property of `of_cells` that varies within tasks has a slope in each such task; the result is
    the mean of these slopes, with the interval of Student's t over tasks. On any other property the
    means of K tasks are regressed, weighted as in `pool`, with Student's t of K - p degrees of
    freedom, where p is the number of coefficients (Knapp and Hartung 2003).

    Parameters
    ----------
    cells
        A row per cell: `task effect error` and a column per property.
    of_cells
        Names of properties that are numbers and may vary within a task.
    of_tasks
        Names of properties of whole tasks, numbers or categories; a task's first value counts.

    Returns
    -------
    DataFrame
        `term`, `slope` (per unit of a number; the difference of a category from the most frequent
        one), `low`, `high` (95 % interval), `p`, `num_tasks`. There is no row from fewer than
        `MIN_TASKS` tasks, nor for a category of fewer than three.
    """
    columns = ["term", "slope", "low", "high", "p", "num_tasks"]
    rows: list[tuple] = []
    for term in (*of_cells, *of_tasks):
        varies = cells.groupby("task")[term].transform("nunique") > 1
        within = term in of_cells and varies.any()
        rows += _within(cells[varies], term) if within else _between(cells, term)
    return pd.DataFrame(rows, columns=columns)


def _within(cells: pd.DataFrame, term: str) -> list[tuple]:
    """The mean of the tasks' own slopes as a row of `regress`; no row for too few tasks."""
    by_task = cells.astype({term: float}).groupby("task")
    slopes = [np.polyfit(task[term], task["effect"], 1)[0] for _, task in by_task]
    if len(slopes) < MIN_TASKS:
        return []
    mean, error = np.mean(slopes), stats.sem(slopes)
    low, high = mean + np.array([-1, 1]) * stats.t.ppf(0.975, len(slopes) - 1) * error
    return [(term, mean, low, high, stats.ttest_1samp(slopes, 0).pvalue, len(slopes))]


def _between(cells: pd.DataFrame, term: str) -> list[tuple]:
    """Slopes over the means of tasks as rows of `regress`; none for too few tasks."""
    tasks = per_task(cells).set_index("task")
    tasks[term] = cells.groupby("task", sort=False)[term].first()
    values = term
    if not pd.api.types.is_numeric_dtype(tasks[term]):
        counts = tasks[term].value_counts()
        tasks = tasks[tasks[term].isin(counts[counts >= 3].index)]
        values = f"C({term}, Treatment({counts.index[0]!r}))"
    if len(tasks) < MIN_TASKS or tasks[term].nunique() < 2:
        return []
    effects, errors = tasks[["effect", "error"]].to_numpy(float).T
    tau2 = _tau2_at(np.array([len(tasks) - 1]), effects, errors)[0]  # as in `pool`
    fit = smf.wls(f"effect ~ {values}", tasks, weights=1 / (tasks["error"] ** 2 + tau2)).fit()
    limits = fit.conf_int()
    return [
        (name.replace(values, term).replace("[T.", " ").rstrip("]"), fit.params[name],
         *limits.loc[name], fit.pvalues[name], len(tasks))
        for name in fit.params.index[1:]
    ]  # fmt: skip


def compare_ranks(scores: pd.DataFrame) -> tuple[pd.Series, float, float]:
    """Mean rank of each arm over tasks, Friedman's p, and Nemenyi's critical difference.

    Two arms whose mean ranks are closer than the critical difference are not distinguishable over
    these tasks (Demšar 2006, JMLR 7). Rank 1 is the highest score; ties share the mean rank; arms
    are sorted by rank. `scores` has a row per task, at least two, and a column per arm, at least
    three, without missing values.
    """
    tasks, arms = scores.shape
    scores = scores.round(12)  # arms that are level but for rounding share a rank
    ranks = scores.rank(axis=1, ascending=False).mean().sort_values(kind="stable")
    p = 1.0  # if all arms are level on every task, for which the test is not defined
    if scores.nunique(axis=1).gt(1).any():
        p = float(stats.friedmanchisquare(*scores.T.to_numpy()).pvalue)
    quantile = stats.studentized_range.ppf(0.95, arms, np.inf) / np.sqrt(2)
    return ranks, p, float(quantile * np.sqrt(arms * (arms + 1) / (6 * tasks)))
