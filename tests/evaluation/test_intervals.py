"""Intervals: the jackknife against leaving out by hand, ends of the scale, groups and seeds."""

import numpy as np
import pytest
from scipy.stats import beta, binom, norm
from scipy.stats import t as student
from sklearn.metrics import f1_score

from lib.evaluation.intervals import (
    arm_interval,
    f1_intervals,
    group_df,
    half_width,
    paired_interval,
    paired_spread,
    share_limits,
)
from lib.evaluation.jackknife import SUPPORTED, measure_arms
from lib.evaluation.resampling import AVERAGES
from lib.evaluation.significance import compare_all


def one_hot(index, num_labels=4):
    return np.eye(num_labels, dtype=bool)[index]


def right_and_wrong(num_right, num_wrong):
    """Truth and answers of one label a document; wrong ones take label 1 for 0."""
    truth = one_hot(np.zeros(num_right + num_wrong, dtype=int), 2)
    return truth, one_hot(np.repeat([0, 1], [num_right, num_wrong]), 2)[None]


def supported(truth, preds):
    return f1_score(truth, preds, average="macro", labels=np.flatnonzero(truth.any(axis=0)))


SCORES = {
    "micro_f1": lambda truth, preds: f1_score(truth, preds, average="micro"),
    "macro_f1": lambda truth, preds: f1_score(truth, preds, average="macro", zero_division=0),
    SUPPORTED: supported,
}


@pytest.mark.parametrize("groups", [None, np.arange(30) % 12])
@pytest.mark.parametrize("name", SCORES)
def test_pseudo_values_are_those_of_scikit_learns_f1_without_each_unit(name, groups):
    generator = np.random.default_rng(0)
    truth = generator.random((30, 8)) < [0.5, 0.3, 0.2, 0.1, 0.05, 0.03, 0.03, 0]
    preds = truth ^ (generator.random((2, 30, 8)) < 0.1)
    arm = measure_arms(truth, {"a": preds}, groups=groups)["a", name]
    units = np.arange(30) if groups is None else groups
    score, number = SCORES[name], len(set(units))
    np.testing.assert_allclose(arm.values, [score(truth, p) for p in preds], atol=1e-6)
    expected = [
        [number * score(truth, p) - (number - 1) * score(truth[units != u], p[units != u])
         for u in range(number)]
        for p in preds
    ]  # fmt: skip
    np.testing.assert_allclose(arm.pseudo, np.mean(expected, axis=0), atol=1e-5)
    assert arm.errors.sum() == pytest.approx(arm.weights.sum() - arm.values.mean(), abs=1e-6)


def test_labels_without_a_test_document_count_in_macro_f1_alone():
    truth, preds = one_hot([0, 1] * 20), one_hot([0, 1] * 20)[None]
    row = f1_intervals(truth, {"a": preds}).iloc[0]
    assert (row.micro_f1, row.macro_f1, row.macro_f1_supported) == (1, 0.5, 1)
    assert row.macro_f1_high == pytest.approx(0.5)
    assert row.macro_f1_low == pytest.approx(row.macro_f1_supported_low / 2)


def covered(share, number):
    x = np.arange(number + 1.0)
    low, high = share_limits(x / number, np.full(number + 1, float(number)))
    return binom.pmf(x, number, share)[(low <= share) & (share <= high)].sum()


@pytest.mark.parametrize("number", [20, 60, 100, 300])
def test_shares_are_covered_in_94_of_100_wherever_they_lie(number):
    shares = np.linspace(0.5, 1 - 0.02 / number, 200)
    coverage = np.array([covered(share, number) for share in shares])
    assert coverage.min() > 0.937
    assert coverage[shares < 0.9].mean() < 0.97


def test_limits_at_the_ends_are_clopper_pearsons():
    low, high = share_limits(np.array([0.0, 1.0]), np.array([30.0, 30.0]))
    assert high[0] == pytest.approx(beta.ppf(0.975, 1, 30))
    assert low[1] == pytest.approx(beta.ppf(0.025, 30, 1))
    assert (low[0], high[1]) == (0, 1)


def test_thirty_of_thirty_right_leaves_room_for_what_was_not_seen():
    truth, preds = right_and_wrong(30, 0)
    row = f1_intervals(truth, {"a": preds}).iloc[0]
    assert row.micro_f1_low == pytest.approx(0.025 ** (1 / 30))  # 3.7 / N: the rule of three
    assert row.micro_f1_high == 1


def test_of_one_document_nothing_is_known():
    truth, preds = right_and_wrong(1, 0)
    row = f1_intervals(truth, {"a": preds}).iloc[0]
    assert (row.micro_f1, row.micro_f1_low, row.micro_f1_high) == (1, 0, 1)
    arm = measure_arms(truth, {"a": preds})["a", "micro_f1"]
    assert paired_interval(paired_spread(arm, arm)) == (-1, 1)


def test_where_no_document_has_a_label_nothing_is_known():
    nothing, some = np.zeros((6, 3), dtype=bool), np.eye(3, dtype=bool)[[0, 1, 2, 0, 1, 2]]
    for groups in (None, [0, 0, 1, 1, 2, 2]):
        table = compare_all(nothing, {"a": nothing[None], "b": some[None]}, groups=groups,
                            num_resamples=19)  # fmt: skip
        assert (table[["low", "high"]].to_numpy() == (-1, 1)).all()
        row = f1_intervals(nothing, {"a": some[None]}, groups=groups).iloc[0]
        assert (row.micro_f1_low, row.micro_f1_high) == (0, 1)


@pytest.mark.parametrize("sizes", [[10] * 12, [1] * 100, [60, *[1] * 60], [50, 20, 10, 5, 5, 5, 5]])
def test_degrees_of_freedom_are_those_of_the_groups_that_decide(sizes):
    """G - 1 of groups of equal sizes, few where some of them have most of the documents."""
    generator, groups = np.random.default_rng(0), np.repeat(range(len(sizes)), sizes)
    groups[-1] = groups[-2]  # one group of two at least
    right = generator.normal(size=len(sizes))[groups] + 0.1 * generator.normal(size=len(groups)) > 0
    truth = one_hot(np.zeros(len(groups), dtype=int), 2)
    preds = {"a": one_hot((~right).astype(int), 2)[None]}
    df = group_df(measure_arms(truth, preds, groups=groups)["a", "micro_f1"])
    num_groups = len(set(groups))
    assert 2 <= df <= num_groups - 1
    if sizes[0] == sizes[-1]:
        assert df > 0.9 * (num_groups - 1)
    else:
        assert df < 4


def test_many_documents_have_the_normal_interval():
    truth, preds = right_and_wrong(1500, 500)
    row = f1_intervals(truth, {"a": preds}).iloc[0]
    half = 1.96 * (0.75 * 0.25 / 2000) ** 0.5
    expected = (0.75 - half, 0.75 + half)
    assert (row.micro_f1_low, row.micro_f1_high) == pytest.approx(expected, abs=0.001)


def paired_limits(gains, losses, number):
    """Of two arms that differ on so many of `number` documents."""
    rest = number - gains - losses
    a = np.repeat([True, False, True], [gains, losses, rest])
    b = np.repeat([False, True, True], [gains, losses, rest])
    truth = one_hot(np.zeros(number, dtype=int), 2)
    preds = {"a": one_hot((~a).astype(int), 2)[None], "b": one_hot((~b).astype(int), 2)[None]}
    arms = measure_arms(truth, preds)
    return paired_interval(paired_spread(arms["a", "micro_f1"], arms["b", "micro_f1"]))


def test_what_no_document_shows_bounds_a_difference():
    low, high = paired_limits(0, 0, 100)
    assert high == pytest.approx(1 - 0.025 ** (1 / 100)) == pytest.approx(-low)
    assert paired_limits(5, 0, 100)[0] > 0 > paired_limits(4, 0, 100)[0]


@pytest.mark.parametrize(("gain", "loss"), [(0.05, 0), (0.1, 0.05)])
def test_differences_are_covered_by_enumeration(gain, loss):
    number, coverage = 30, 0.0
    for gains in range(number + 1):
        for losses in range(number + 1 - gains):
            share = binom.pmf(gains, number, gain)
            share *= binom.pmf(losses, number - gains, loss / (1 - gain))
            if share > 1e-4:
                low, high = paired_limits(gains, losses, number)
                coverage += share * (low <= gain - loss <= high)
    assert coverage > 0.94


def test_a_paired_interval_is_narrower_than_two_unpaired_ones():
    generator = np.random.default_rng(0)
    truth = one_hot(generator.integers(0, 4, 400))
    a = np.where(generator.random((400, 1)) < 0.3, np.roll(truth, 1, axis=1), truth)
    b = a.copy()
    b[:8] = truth[:8]
    arms = measure_arms(truth, {"a": a[None], "b": b[None]})
    for name in AVERAGES:
        low, high = paired_interval(paired_spread(arms["b", name], arms["a", name]))
        alone = arm_interval(arms["a", name])
        assert low <= high < 0.5 * (alone[1] - alone[0]) + low


def test_groups_have_students_interval_over_groups():
    generator = np.random.default_rng(0)
    groups = np.repeat(np.arange(12), 50)
    rates = generator.uniform(0.3, 0.8, 12)
    right = generator.random(600) < rates[groups]
    truth = one_hot(np.zeros(600, dtype=int), 2)
    preds = {"a": one_hot((~right).astype(int), 2)[None]}
    row = f1_intervals(truth, preds, groups=groups).iloc[0]
    means = right.reshape(12, 50).mean(axis=1)
    low, high = student.interval(0.95, 11, loc=means.mean(), scale=means.std(ddof=1) / 12**0.5)
    assert (row.micro_f1_low, row.micro_f1_high) == pytest.approx((low, high), abs=0.003)
    alone = f1_intervals(truth, preds).iloc[0]
    assert high - low > 1.5 * (alone.micro_f1_high - alone.micro_f1_low)


def test_groups_of_one_document_are_documents():
    truth, preds = right_and_wrong(30, 10)
    alone = f1_intervals(truth, {"a": preds})
    assert f1_intervals(truth, {"a": preds}, groups=np.arange(40)).equals(alone)


def seeds_of(values, documents=0.0):
    half = half_width(np.array(documents), np.array(values), np.array([2.0] * len(values)))
    return float(half)


def test_without_seeds_or_documents_a_half_width_is_the_known_one():
    none = np.zeros(0)
    assert half_width(np.array(4.0), none, none) == pytest.approx(2 * norm.ppf(0.975))
    assert seeds_of([9.0]) == pytest.approx(3 * student.ppf(0.975, 2))
    assert seeds_of([9.0, 9.0]) == pytest.approx(18**0.5 * student.ppf(0.975, 4))


@pytest.mark.parametrize("num_seeds", [2, 3, 5])
@pytest.mark.parametrize("share", [0.1, 1.0, 10.0])
def test_one_arms_seeds_and_documents_together_are_covered(num_seeds, share):
    """Documents have variance 1, the mean over seeds `share`: 94 to 98 %."""
    generator = np.random.default_rng(0)
    values = generator.normal(0, (share * num_seeds) ** 0.5, (num_seeds, 20_000))
    mean = values.mean(axis=0) + generator.standard_normal(20_000)
    seeds = values.var(axis=0, ddof=1) / num_seeds
    half = half_width(np.ones(20_000), seeds[None], np.array([num_seeds - 1.0]))
    assert 0.935 < (np.abs(mean) <= half).mean() < 0.985


def test_seeds_that_differ_widen_and_seeds_that_agree_do_not_narrow():
    generator = np.random.default_rng(0)
    truth = one_hot(np.zeros(400, dtype=int), 2)
    wrong = generator.random((3, 400)) < np.array([0.2, 0.25, 0.3])[:, None]
    apart = one_hot(wrong.astype(int), 2)
    widths = []
    for preds in (apart[1:2], apart[[1, 1, 1]], apart):
        row = f1_intervals(truth, {"a": preds}).iloc[0]
        widths.append(row.micro_f1_high - row.micro_f1_low)
    assert widths[0] == pytest.approx(widths[1], rel=0.02)
    assert widths[2] > 1.5 * widths[0]
