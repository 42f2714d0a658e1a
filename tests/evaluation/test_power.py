"""The difference that is said to be found in four studies of five, by enumerating studies."""

import math

import numpy as np
import pytest
from scipy.stats import binom

from lib.evaluation.intervals import paired_spread
from lib.evaluation.jackknife import measure_arms
from lib.evaluation.power import MAX_ENUMERATED, _events_needed, min_detectable
from lib.evaluation.significance import compare_all


def stated(gains, losses, number, *, groups=None, seeds=1):
    a = np.repeat([True, False, True], [gains, losses, number - gains - losses])
    b = np.repeat([False, True, True], [gains, losses, number - gains - losses])
    eye = np.eye(2, dtype=bool)
    truth = eye[np.zeros(number, dtype=int)]
    preds = {arm: eye[np.tile((~x).astype(int), (seeds, 1))] for arm, x in (("a", a), ("b", b))}
    arms = measure_arms(truth, preds, groups=groups)
    a, b = arms["a", "micro_f1"], arms["b", "micro_f1"]
    return min_detectable(a, b, paired_spread(a, b), mid_p=groups is None and seeds == 1)


@pytest.mark.parametrize(
    ("gains", "losses", "number"),
    [(0, 0, 30), (0, 0, 60), (1, 1, 60), (3, 3, 100), (20, 20, 200), (150, 150, 1000)],
)
def test_mcnemar_finds_what_is_stated_in_four_of_five(gains, losses, number):
    difference = stated(gains, losses, number)
    middle = math.sqrt((gains + 0.5) * (losses + 0.5)) / number
    both = math.hypot(difference, 2 * middle)
    counts = np.arange(number + 1)
    found = np.zeros(number + 1)  # by how many documents differ
    for differ in counts:
        x = np.arange(differ + 1)
        p = 2 * (binom.cdf(np.minimum(x, differ - x), differ, 0.5)
                 - binom.pmf(x, differ, 0.5) / 2)  # fmt: skip
        found[differ] = binom.pmf(x, differ, (1 + difference / both) / 2)[p < 0.05].sum()
    power = (binom.pmf(counts, number, both) * found).sum()
    assert power == pytest.approx(0.8, abs=0.04)


def test_sixty_documents_need_more_than_three_to_differ():
    """3 / N = 0.05 was stated, and found in 8 studies of 100."""
    assert 0.10 < stated(0, 0, 60) < 0.12


def test_enumeration_and_normal_approximation_meet():
    below, above = (
        _events_needed(MAX_ENUMERATED, True),
        _events_needed(MAX_ENUMERATED * 1.0001, True),
    )
    assert below == pytest.approx(above, rel=0.01)


@pytest.mark.parametrize("number", [1, 2, 4])
def test_where_nothing_can_be_found_nothing_is_stated(number):
    assert math.isnan(stated(0, 0, number))
    truth = np.eye(2, dtype=bool)[np.zeros(number, dtype=int)]
    table = compare_all(truth, {"a": truth[None], "b": truth[None]}, num_resamples=20)
    assert table["min_detectable"].isna().all()
    assert table["p_holm"].tolist() == [1, 1]


def test_five_groups_change_places_in_too_few_ways():
    assert math.isnan(stated(10, 0, 50, groups=np.arange(50) % 5))
    assert not math.isnan(stated(10, 0, 50, groups=np.arange(50) % 8))


def test_nothing_is_stated_where_one_group_decides():
    equal = np.arange(200) // 10
    assert not math.isnan(stated(20, 20, 200, groups=equal))
    assert math.isnan(stated(20, 20, 200, groups=np.minimum(np.arange(200) // 4, 19)))


def test_groups_need_more_than_documents():
    groups = np.arange(200) // 5
    assert stated(20, 20, 200, groups=groups) > 1.5 * stated(20, 20, 200)


def test_seeds_that_agree_need_no_more_than_documents():
    assert stated(20, 20, 200, seeds=3) == pytest.approx(stated(20, 20, 200), rel=0.1)
