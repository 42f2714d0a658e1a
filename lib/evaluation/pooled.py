"""Effects on many tasks, pooled: their mean, their spread, and what a new task may show."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import statsmodels.formula.api as smf
from scipy import optimize, stats

Z95 = stats.norm.ppf(0.975)
MIN_TASKS = 4  # of a slope (our choice)


@dataclass(frozen=True)
class Pooled:
    """Mean effect over tasks and its heterogeneity.

    Attributes
    ----------
    mean, low, high
        Mean of the effects' distribution and its 95 % interval.
    new_low, new_high
        95 % prediction interval: between these the effect on a new task of this kind is expected.
        NaN for fewer than three tasks.
    tau
        Standard deviation of true effects between tasks.
    i2
        Share of the observed variance that is between tasks, 0 to 1.
    q, p
        Cochran's Q and its p-value: are all true effects equal?
    num_tasks
        Tasks.
    """

    mean: float
    low: float
    high: float
    new_low: float
    new_high: float
    tau: float
    i2: float
    q: float
    p: float
    num_tasks: int


def per_task(cells: pd.DataFrame) -> pd.DataFrame:
    """One effect per task, the mean of its cells: `task effect error`.

    Cells of a task (sizes of model and of training) share test documents. Their errors are combined
    as if they did not: what they share then counts as spread between tasks, so that the interval of
    the mean keeps its level and that of a new task is rather too wide than too narrow.

    Parameters
    ----------
    cells
        `task effect error`, one row per cell; errors are standard errors.
    """
    by_task = cells.groupby("task", sort=False)
    errors = by_task["error"].agg(lambda of: np.sqrt((of**2).sum()) / len(of))
    return pd.DataFrame({"effect": by_task["effect"].mean(), "error": errors}).reset_index()


def pool(effects: Sequence[float], errors: Sequence[float]) -> Pooled:
    """The random-effects mean of effects with known standard errors, each (K,).

    Between-task variance by Paule and Mandel (1982); interval with Student's t of K - 1 degrees of
    freedom (Hartung and Knapp 2001; with this variance their factor is 1, or below where there is
    no heterogeneity, where 1 is kept); prediction interval of Higgins et al. (2009), K - 2.

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
    count = len(effects)

    def spread_of(tau2: float) -> tuple[float, float, float]:
        """Weighted mean, its standard error, and the weighted sum of squares about it."""
        weights = 1 / (errors**2 + tau2)
        mean = weights @ effects / weights.sum()
        return mean, weights.sum() ** -0.5, weights @ (effects - mean) ** 2

    # Paule and Mandel: the variance with which the sum of squares is what it should be. (The
    # iteration of statsmodels' combine_effects ends elsewhere in one of six simulated cases.)
    q = spread_of(0.0)[2]
    tau2 = 0.0
    if q > count - 1:
        widest = float(np.ptp(effects)) ** 2 * count
        tau2 = optimize.brentq(lambda x: spread_of(x)[2] - (count - 1), 0.0, widest)
    mean, error, _ = spread_of(tau2)
    reach = stats.t.ppf(0.975, count - 1) * error
    spread = stats.t.ppf(0.975, count - 2) * np.sqrt(tau2 + error**2) if count > 2 else np.nan
    return Pooled(
        mean=float(mean),
        low=float(mean - reach),
        high=float(mean + reach),
        new_low=float(mean - spread),
        new_high=float(mean + spread),
        tau=float(np.sqrt(tau2)),
        i2=max(0.0, 1 - (count - 1) / q) if q else 0.0,
        q=float(q),
        p=float(stats.chi2.sf(q, count - 1)),
        num_tasks=count,
    )


def leave_one_out(tasks: pd.DataFrame) -> pd.DataFrame:
    """Each task against the pooled effect of all others.

    Parameters
    ----------
    tasks
        `task effect error`, at least four rows.

    Returns
    -------
    DataFrame
        `task effect`; of all others `mean low high new_low new_high`; `is_covered`, true if the
        effect is within the prediction interval, widened by the effect's own standard error.
    """
    rows = []
    for i, row in enumerate(tasks.itertuples()):
        others = tasks.drop(index=tasks.index[i])
        pooled = pool(others["effect"], others["error"])
        half = (pooled.new_high - pooled.new_low) / 2
        reach = np.hypot(half, Z95 * row.error)
        rows.append(
            {
                "task": row.task,
                "effect": row.effect,
                "mean": pooled.mean,
                "low": pooled.low,
                "high": pooled.high,
                "new_low": pooled.new_low,
                "new_high": pooled.new_high,
                "is_covered": abs(row.effect - pooled.mean) <= reach,
            }
        )
    return pd.DataFrame(rows)


def regress(
    cells: pd.DataFrame, *, of_cells: Sequence[str], of_tasks: Sequence[str]
) -> pd.DataFrame:
    """Meta-regression of effects on properties of their cells, one at a time: tasks are few.

    A size that varies within tasks has a slope in each of these; the mean is taken with Student's t
    over tasks. All else is regressed over the tasks' means, weighted as in `pool`, with Student's t
    of K - p degrees of freedom (Knapp and Hartung 2003).

    Parameters
    ----------
    cells
        `task effect error` and a column per property.
    of_cells
        Properties that are numbers and may vary within a task.
    of_tasks
        Properties of whole tasks, numbers or categories; the first value of a task counts.

    Returns
    -------
    DataFrame
        `term`, `slope` (per unit of a number; of a category against the most frequent one), `low`,
        `high`, `p`, `num_tasks`. Terms that vary over fewer than `MIN_TASKS` tasks, and categories
        of fewer than three tasks, have no row.
    """
    columns = ["term", "slope", "low", "high", "p", "num_tasks"]
    rows: list[tuple] = []
    for term in (*of_cells, *of_tasks):
        varies = cells.groupby("task")[term].transform("nunique") > 1
        within = term in of_cells and varies.any()
        rows += _within(cells[varies], term) if within else _between(cells, term)
    return pd.DataFrame(rows, columns=columns)


def _within(cells: pd.DataFrame, term: str) -> list[tuple]:
    """The mean of the tasks' own slopes."""
    slopes = [
        np.polyfit(task[term].astype(float), task["effect"], 1)[0]
        for _, task in cells.groupby("task")
    ]
    if len(slopes) < MIN_TASKS:
        return []
    mean, error = np.mean(slopes), stats.sem(slopes)
    low, high = mean + np.array([-1, 1]) * stats.t.ppf(0.975, len(slopes) - 1) * error
    return [(term, mean, low, high, stats.ttest_1samp(slopes, 0).pvalue, len(slopes))]


def _between(cells: pd.DataFrame, term: str) -> list[tuple]:
    """Slopes over the means of tasks."""
    tasks = per_task(cells).set_index("task")
    tasks[term] = cells.groupby("task", sort=False)[term].first()
    values = term
    if not pd.api.types.is_numeric_dtype(tasks[term]):
        counts = tasks[term].value_counts()
        tasks = tasks[tasks[term].isin(counts[counts >= 3].index)]
        values = f"C({term}, Treatment({counts.index[0]!r}))"
    if len(tasks) < MIN_TASKS or tasks[term].nunique() < 2:
        return []
    tau2 = pool(tasks["effect"], tasks["error"]).tau ** 2
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
    these tasks (Demšar 2006, JMLR 7).

    Parameters
    ----------
    scores
        A row per task, a column per arm, without gaps; at least two tasks and three arms.

    Returns
    -------
    ranks, p, critical
        Rank 1 is the best, the best first; ties share the mean rank.
    """
    tasks, arms = scores.shape
    ranks = scores.rank(axis=1, ascending=False).mean().sort_values(kind="stable")
    p = 1.0  # where all arms are level on every task
    if scores.nunique(axis=1).gt(1).any():
        p = float(stats.friedmanchisquare(*scores.T.to_numpy()).pvalue)
    quantile = stats.studentized_range.ppf(0.95, arms, np.inf) / np.sqrt(2)
    return ranks, p, float(quantile * np.sqrt(arms * (arms + 1) / (6 * tasks)))
