"""Pooled effects: published tables, simulated tasks, ranks."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lib.evaluation.pooled import (
    compare_ranks,
    leave_one_out,
    per_task,
    pool,
    regress,
)


def log_odds_ratios(events, totals, control_events, control_totals):
    a, n, c, m = map(np.array, (events, totals, control_events, control_totals))
    b, d = n - a, m - c
    return np.log(a * d / (b * c)), np.sqrt(1 / a + 1 / b + 1 / c + 1 / d)


def test_the_mean_and_its_spread_are_those_of_a_published_table():
    """CLASP trials, Paule-Mandel: DerSimonian and Kacker 2007, tables 3 and 4."""
    effects, errors = log_odds_ratios(
        [5, 5, 12, 69, 9, 313], [156, 303, 565, 1570, 103, 4659],
        [8, 17, 9, 94, 11, 352], [74, 303, 477, 1565, 105, 4650],
    )  # fmt: skip
    pooled = pool(effects, errors)
    assert pooled.tau == pytest.approx(0.3681, abs=1e-4)
    assert pooled.mean == pytest.approx(-0.3811, abs=1e-4)
    assert pooled.error == pytest.approx(0.2060, abs=1e-4)


def test_heterogeneity_is_that_of_a_published_table():
    """BCG trials, relative risks: Q = 152.2330 and I2 = 92.12 % (metafor and Stata's metan)."""
    a, b, c, d = np.array([
        (4, 119, 11, 128), (6, 300, 29, 274), (3, 228, 11, 209), (62, 13536, 248, 12619),
        (33, 5036, 47, 5761), (180, 1361, 372, 1079), (8, 2537, 10, 619),
        (505, 87886, 499, 87892), (29, 7470, 45, 7232), (17, 1699, 65, 1600),
        (186, 50448, 141, 27197), (5, 2493, 3, 2338), (27, 16886, 29, 17825),
    ]).T  # fmt: skip
    effects = np.log(a / (a + b) / (c / (c + d)))
    pooled = pool(effects, np.sqrt(1 / a - 1 / (a + b) + 1 / c - 1 / (c + d)))
    assert pooled.q == pytest.approx(152.2330, abs=1e-4)
    assert pooled.i2 == pytest.approx(0.9212, abs=1e-4)
    assert pooled.p < 1e-4


def test_equal_effects_have_no_spread_and_keep_their_errors():
    pooled = pool([0.1, 0.1, 0.1, 0.1], [0.02] * 4)
    assert (pooled.mean, pooled.tau, pooled.i2) == pytest.approx((0.1, 0, 0))
    assert pooled.high - pooled.mean == pytest.approx(stats.norm.ppf(0.975) * 0.01)
    assert pooled.new_high - pooled.mean == pytest.approx(stats.t.ppf(0.975, 3) * 0.01, rel=0.01)


@pytest.mark.parametrize("number", [2, 3, 12])
def test_equally_precise_effects_that_differ_much_have_students_intervals(number):
    effects = np.random.default_rng(0).normal(0, 1, number)
    pooled = pool(effects, [1e-3] * number)
    limits = stats.t.interval(0.95, number - 1, effects.mean(), stats.sem(effects))
    assert (pooled.low, pooled.high) == pytest.approx(limits, rel=0.01)


def test_intervals_hold_over_simulated_tasks():
    """Of 300 answers from ten tasks: the mean's interval and the one of a new task, 95 % each."""
    generator = np.random.default_rng(0)
    held = np.zeros(2)
    for _ in range(300):
        true, errors = generator.normal(0.02, 0.03, 11), generator.uniform(0.01, 0.03, 11)
        found = generator.normal(true, errors)
        pooled = pool(found[:10], errors[:10])
        held += pooled.low <= 0.02 <= pooled.high, pooled.new_low <= true[10] <= pooled.new_high
    assert (held / 300 > 0.92).all(), held / 300
    assert (held / 300 < 0.985).all(), held / 300


ERRORS = {
    "of real studies": np.resize([0.006, 0.021, 0.016, 0.009, 0.013], 8),
    "one small": np.array([0.004, *[0.04] * 4]),
}


@pytest.mark.parametrize(("kind", "tau"), [("of real studies", 0.01), ("one small", 0.02)])
def test_a_spread_that_few_tasks_may_not_show_is_allowed_for(kind, tau):
    """With tau as if known, the intervals held in 0.73 to 0.95 of such answers."""
    generator, errors = np.random.default_rng(3), ERRORS[kind]
    held = np.zeros(2)
    for _ in range(150):
        true = generator.normal(0.01, tau, len(errors) + 1)
        pooled = pool(generator.normal(true[:-1], errors), errors)
        held += pooled.low <= 0.01 <= pooled.high, pooled.new_low <= true[-1] <= pooled.new_high
    assert (held / 150 > 0.91).all(), held / 150


def test_limits_are_those_of_a_finer_distribution(monkeypatch):
    effects, errors = [0.02, -0.01, 0.05, 0.03, 0.0], [0.004, *[0.04] * 4]
    pooled = pool(effects, errors)
    monkeypatch.setattr("lib.evaluation.pooled.NUM_TAUS", 4000)
    monkeypatch.setattr("lib.evaluation.pooled.NUM_ERRORS", 1000)
    finer = pool(effects, errors)
    for name in ("low", "high", "new_low", "new_high"):
        assert getattr(pooled, name) == pytest.approx(getattr(finer, name), abs=5e-4)


def test_two_tasks_predict_no_third():
    assert np.isnan(pool([0.1, 0.2], [0.1, 0.1]).new_low)


@pytest.mark.parametrize(("effects", "errors"), [([0.1], [0.1]), ([0.1, 0.2], [0.1, 0.0])])
def test_what_cannot_be_pooled_is_refused(effects, errors):
    with pytest.raises(ValueError, match=r"at least two|not positive"):
        pool(effects, errors)


def test_cells_of_a_task_are_one_task():
    cells = pd.DataFrame(
        {"task": ["a", "a", "b"], "effect": [0.1, 0.3, 0.0], "error": [0.3, 0.4, 0.1]}
    )
    table = per_task(cells)
    assert table["effect"].tolist() == pytest.approx([0.2, 0.0])
    assert table["error"].tolist() == pytest.approx([0.25, 0.1])


@pytest.mark.parametrize("shared", [0.0, 0.5, 1.0])
def test_intervals_hold_whatever_the_cells_of_a_task_share(shared):
    """Twelve tasks of six cells; `shared` is the correlation of their errors."""
    generator = np.random.default_rng(2)
    held = np.zeros(2)
    for _ in range(200):
        true = generator.normal(0.02, 0.03, 13)
        common = generator.normal(0, 0.03, (12, 1)) * np.sqrt(shared)
        own = generator.normal(0, 0.03, (12, 6)) * np.sqrt(1 - shared)
        cells = pd.DataFrame(
            {"task": np.repeat(range(12), 6), "effect": (true[:12, None] + common + own).ravel()}
        )
        tasks = per_task(cells.assign(error=0.03))
        pooled = pool(tasks["effect"], tasks["error"])
        held += pooled.low <= 0.02 <= pooled.high, pooled.new_low <= true[12] <= pooled.new_high
    assert (held / 200 > 0.92).all(), held / 200


def test_a_task_unlike_the_others_is_not_covered_by_them():
    tasks = pd.DataFrame({"task": list("abcdef"), "effect": [0.01, 0.02, 0.0, 0.01, 0.02, 0.5]})
    table = leave_one_out(tasks.assign(error=0.01)).set_index("task")
    assert table.index[~table["is_covered"]].tolist() == ["f"]
    assert table.loc["f", "mean"] == pytest.approx(0.012, abs=1e-3)
    assert table.loc["a", "mean"] > 0.1


def test_arms_that_are_level_on_every_task_are_not_told_apart():
    ranks, p, _ = compare_ranks(pd.DataFrame(np.ones((4, 3)), columns=list("abc")))
    assert (ranks.tolist(), p) == ([2.0] * 3, 1.0)
    rounded = [np.mean([0.1, 0.2, 0.3]), np.mean([0.3, 0.2, 0.1]), 0.1]
    ranks, _, _ = compare_ranks(pd.DataFrame([rounded] * 4, columns=list("abc")))
    assert ranks.to_dict() == {"a": 1.5, "b": 1.5, "c": 3.0}


PROPERTIES = {"of_cells": ["size"], "of_tasks": ["labels", "kind"]}


def made(tasks, generator):
    """Cells of three sizes without any slope: tasks of three kinds, which differ by chance."""
    true = np.repeat(generator.normal(0, 0.03, tasks), 3)
    cells = pd.DataFrame({"task": np.repeat(range(tasks), 3), "size": [0.0, 1.0, 2.0] * tasks})
    cells["labels"] = np.repeat(generator.normal(size=tasks), 3)
    cells["kind"] = np.repeat(np.resize(["a", "a", "b", "b", "c"], tasks), 3)
    return cells.assign(effect=true + generator.normal(0, 0.01, 3 * tasks), error=0.01)


def test_slopes_are_found_within_and_between_tasks():
    generator = np.random.default_rng(1)
    cells = made(12, generator)
    cells["effect"] += 0.05 * cells["size"] + 0.2 * cells["labels"]
    table = regress(
        cells.assign(same=1.0), of_cells=["size", "same"], of_tasks=["labels", "kind"]
    ).set_index("term")
    assert table.index.tolist() == ["size", "labels", "kind b"]  # c has two tasks alone
    assert table.loc["size", "slope"] == pytest.approx(0.05, abs=0.01)
    assert (table.loc[["size", "labels"], "p"] < 0.05).all()
    assert table["num_tasks"].tolist() == [12, 12, 10]
    cells = made(12, generator)
    cells["effect"] += 0.3 * (cells["kind"] == "b")
    assert regress(cells, of_cells=[], of_tasks=["kind"])["p"].item() < 1e-3


def test_slopes_that_are_none_are_seldom_found():
    generator, found, tried = np.random.default_rng(0), 0, 0
    for _ in range(60):
        table = regress(made(13, generator), **PROPERTIES)
        found, tried = found + (table["p"] < 0.05).sum(), tried + len(table)
    assert found / tried < 0.09


def test_few_tasks_have_no_slope():
    assert regress(made(3, np.random.default_rng(0)), **PROPERTIES).empty
    assert regress(made(1, np.random.default_rng(0)), **PROPERTIES).empty


def test_a_property_of_tasks_that_varies_in_one_of_them_is_that_of_its_first_cell():
    """Two readings of the same documents count as one task, and are of two kinds."""
    cells = made(12, np.random.default_rng(1))
    cells["effect"] += 0.3 * (cells["kind"] == "b") + 0.2 * cells["labels"]
    expected = regress(cells, **PROPERTIES)
    cells.loc[2, ["kind", "labels"]] = ["whole", 3.0]
    pd.testing.assert_frame_equal(regress(cells, **PROPERTIES), expected)


def test_ranks_and_their_critical_difference_are_those_of_the_literature():
    """Demšar 2006, table 6: AUC of C4.5 with and without two parameters tuned, 14 data sets."""
    names = ("C4.5", "C4.5+m", "C4.5+cf", "C4.5+m+cf")
    rows = """
        .763 .768 .771 .798   .599 .591 .590 .569   .954 .971 .968 .967   .628 .661 .654 .657
        .882 .888 .886 .898   .936 .931 .916 .931   .661 .668 .609 .685   .583 .583 .563 .625
        .775 .838 .866 .875   1.0 1.0 1.0 1.0       .940 .962 .965 .962   .619 .666 .614 .669
        .972 .981 .9751 .975  .957 .978 .946 .970
    """
    scores = pd.DataFrame(np.array(rows.split(), dtype=float).reshape(14, 4), columns=names)
    ranks, p, critical = compare_ranks(scores)
    assert ranks.round(3).to_dict() == {
        "C4.5+m+cf": 1.964, "C4.5+m": 2.0, "C4.5+cf": 2.893, "C4.5": 3.143
    }  # fmt: skip
    assert p == pytest.approx(stats.friedmanchisquare(*scores.T.to_numpy()).pvalue)
    assert critical == pytest.approx(1.25, abs=0.01)
