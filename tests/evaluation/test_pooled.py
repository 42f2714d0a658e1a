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
    standard_errors,
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
    reach = stats.t.ppf(0.975, 5) * 0.2060
    assert (pooled.low, pooled.high) == pytest.approx((-0.3811 - reach, -0.3811 + reach), abs=3e-4)
    spread = stats.t.ppf(0.975, 4) * np.hypot(0.3681, 0.2060)
    assert pooled.new_high - pooled.mean == pytest.approx(spread, abs=3e-4)


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
    assert pooled.high - pooled.mean == pytest.approx(stats.t.ppf(0.975, 3) * 0.01)


def test_intervals_hold_over_simulated_tasks():
    """Of 600 answers from ten tasks: the mean's interval and the one of a new task, 95 % each."""
    generator = np.random.default_rng(0)
    held = np.zeros(2)
    for _ in range(600):
        true, errors = generator.normal(0.02, 0.03, 11), generator.uniform(0.01, 0.03, 11)
        found = generator.normal(true, errors)
        pooled = pool(found[:10], errors[:10])
        held += pooled.low <= 0.02 <= pooled.high, pooled.new_low <= true[10] <= pooled.new_high
    assert (held / 600 > 0.92).all(), held / 600
    assert (held / 600 < 0.98).all(), held / 600


def test_two_tasks_predict_no_third():
    assert np.isnan(pool([0.1, 0.2], [0.1, 0.1]).new_low)


@pytest.mark.parametrize(("effects", "errors"), [([0.1], [0.1]), ([0.1, 0.2], [0.1, 0.0])])
def test_what_cannot_be_pooled_is_refused(effects, errors):
    with pytest.raises(ValueError, match=r"at least two|not positive"):
        pool(effects, errors)


def test_cells_of_a_task_are_one_task():
    cells = pd.DataFrame(
        {"task": ["a", "a", "b"], "effect": [0.1, 0.3, 0.0], "error": [0.1, 0.2, 0.1]}
    )
    table = per_task(cells)
    assert table["effect"].tolist() == pytest.approx([0.2, 0.0])
    assert table["error"].tolist() == pytest.approx([0.15, 0.1])
    assert standard_errors([-0.0392], [0.0392])[0] == pytest.approx(0.02, abs=1e-5)


def test_a_task_unlike_the_others_is_not_covered_by_them():
    tasks = pd.DataFrame({"task": list("abcdef"), "effect": [0.01, 0.02, 0.0, 0.01, 0.02, 0.5]})
    table = leave_one_out(tasks.assign(error=0.01)).set_index("task")
    assert table.index[~table["is_covered"]].tolist() == ["f"]
    assert table.loc["f", "mean"] == pytest.approx(0.012, abs=1e-3)
    assert table.loc["a", "mean"] > 0.1


def test_a_slope_is_found_and_what_does_not_vary_is_left_out():
    generator = np.random.default_rng(1)
    size = np.tile([0.0, 1.0, 2.0], 8)
    cells = pd.DataFrame({"task": np.repeat(list("abcdefgh"), 3), "size": size, "same": 1.0})
    cells["effect"] = 0.05 * size + generator.normal(0, 0.005, 24)
    table = regress(cells.assign(error=0.005), ["size", "same"])
    assert table["term"].tolist() == ["size"]
    assert table["low"].item() < 0.05 < table["high"].item()
    assert table["p"].item() < 1e-6


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
