import itertools

import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.stats import binomtest, chi2
from scipy.stats import t as student
from sklearn.metrics import f1_score
from statsmodels.stats.multitest import multipletests

from lib.intervals import Arm, estimate_interval, f1_intervals, min_detectable
from lib.resampling import f1_by_seed, randomization, resample_f1
from lib.significance import (
    bootstrap_interval,
    compare_all,
    distinguishable,
    f1,
    mcnemar,
    paired_bootstrap,
)


def one_hot(index, num_labels=4):
    return np.eye(num_labels, dtype=bool)[index]


@pytest.fixture
def truth():
    return one_hot(np.random.default_rng(0).choice(4, size=400, p=[0.6, 0.25, 0.1, 0.05]))


def corrupt(truth, share, *seeds):
    arms = []
    for seed in seeds:
        generator = np.random.default_rng(seed)
        wrong = generator.random(len(truth)) < share
        answers = one_hot(generator.integers(0, 4, len(truth)))
        arms.append(np.where(wrong[:, None], answers, truth))
    return np.stack(arms)


def test_f1_and_every_resample_equal_scikit_learn(truth):
    preds = corrupt(truth, 0.3, 1, 2)
    samples = resample_f1(truth, {"a": preds}, num_resamples=20, seed=3)["a"]  # (2, S, R)
    weights = np.random.default_rng(3).multinomial(400, np.full(400, 1 / 400), size=20)
    for i, average in enumerate(["micro", "macro"]):
        expected = [f1_score(truth, p, average=average) for p in preds]
        np.testing.assert_allclose(f1_by_seed(truth, preds)[i], expected, atol=1e-6)
        assert f1(truth, preds, f"{average}_f1") == pytest.approx(np.mean(expected))
        for r, weight in enumerate(weights):
            rows = np.repeat(np.arange(400), weight)
            expected = [f1_score(truth[rows], p[rows], average=average) for p in preds]
            np.testing.assert_allclose(samples[i, :, r], expected, atol=1e-6)


def test_sparse_predictions_give_what_dense_ones_give(truth):
    preds = {"a": corrupt(truth, 0.3, 1, 2), "b": corrupt(truth, 0.5, 3)}
    sparse = {arm: [csr_array(p) for p in of_seeds] for arm, of_seeds in preds.items()}
    for function in (f1_intervals, compare_all):
        dense = function(truth, preds, num_resamples=50)
        assert function(csr_array(truth), sparse, num_resamples=50).equals(dense)


def test_an_unknown_average_is_named(truth):
    with pytest.raises(ValueError, match="average: 'median' is not one of micro_f1, macro_f1"):
        f1(truth, truth[None], "median")


def macro(truth, preds, num_resamples):
    return resample_f1(truth, {"a": preds}, num_resamples=num_resamples)["a"][1, 0]


def test_a_label_that_a_resample_misses_does_not_lower_its_macro_f1():
    truth = one_hot([0] * 30 + [1])  # a third of the resamples miss label 1
    # labels 2 and 3 are never there: 0, as in the score
    np.testing.assert_allclose(macro(truth, truth[None], 200), 0.5)


def test_false_positives_on_rare_and_absent_labels_do_not_bias_the_macro_bootstrap():
    truth = one_hot([0] * 60 + [1] * 2)  # label 3 is predicted and never true; label 2 is neither
    preds = one_hot([0] * 50 + [1] * 5 + [3] * 5 + [1] * 2)[None]
    samples = macro(truth, preds, 4000)
    assert samples.mean() == pytest.approx(f1(truth, preds, "macro_f1"), abs=0.03)
    assert samples.max() <= 0.5  # two of four labels can be got right


def test_the_interval_of_macro_f1_holds_the_score_where_most_labels_are_rare():
    generator = np.random.default_rng(0)
    shares = 1 / np.arange(1, 301)
    drawn = generator.choice(300, size=600, p=shares / shares.sum())
    truth = np.eye(300, dtype=bool)[drawn]
    # frequent labels are learnt, rare ones are taken for a frequent one
    preds = np.eye(300, dtype=bool)[np.where(drawn < 40, drawn, drawn % 10)][None]
    score = f1(truth, preds, "macro_f1")
    low, high = bootstrap_interval(truth, preds, average="macro_f1", num_resamples=2000)
    assert 0.3 < (score - low) / (high - low) < 0.7


def test_accuracy_interval_matches_the_binomial_one(truth):
    preds = corrupt(truth, 0.3, 1)
    low, high = bootstrap_interval(truth, preds, average="micro_f1")
    right = int((preds[0] & truth).sum())
    expected = binomtest(right, 400).proportion_ci(method="wilson")
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.006)


def arm(values, documents, interaction, *, num_resamples=20_000, seed=0):
    """An arm whose resamples vary with documents alike in all seeds, and in each by itself."""
    generator = np.random.default_rng(seed)
    shared = documents * generator.standard_normal(num_resamples)
    own = interaction * generator.standard_normal((len(values), num_resamples))
    return Arm(np.array(values), np.array(values)[:, None] + shared + own)


def test_seeds_and_documents_add_up_and_their_interaction_counts_once():
    values = [0.70, 0.74, 0.78]  # variance .0016, of which .0001 is interaction
    interval = estimate_interval([arm(values, 0.02, 0.01)], 400)
    documents, seeds = 0.02**2, 0.0016 / 3
    assert interval.standard_error == pytest.approx((documents + seeds) ** 0.5, rel=0.02)
    df = (documents + seeds) ** 2 / (documents**2 / 399 + seeds**2 / 2)
    assert interval.df == pytest.approx(df, rel=0.03)
    half = student.ppf(0.975, df) * (documents + seeds) ** 0.5
    assert (interval.low, interval.high) == pytest.approx((0.74 - half, 0.74 + half), abs=0.001)


def test_seeds_that_happen_to_agree_do_not_narrow_the_interval_of_documents():
    alike = estimate_interval([arm([0.7, 0.7, 0.7], 0.02, 0.01)], 400)
    assert alike.standard_error == pytest.approx((0.02**2 + 0.01**2 / 3) ** 0.5, rel=0.02)


def test_with_documents_without_variance_seeds_give_students_interval():
    values = np.array([0.70, 0.74, 0.78])
    interval = estimate_interval([arm(values, 0, 0, num_resamples=10)], 400)
    expected = student.interval(0.95, 2, loc=0.74, scale=values.std(ddof=1) / 3**0.5)
    assert interval[:2] == pytest.approx(expected)


def test_a_difference_of_arms_with_seeds_has_welchs_degrees_of_freedom():
    a, b = np.array([0.70, 0.74, 0.78]), np.array([0.60, 0.61, 0.65, 0.62])
    options = {"num_resamples": 10}
    interval = estimate_interval([arm(a, 0, 0, **options), arm(-b, 0, 0, **options)], 400)
    u, v = a.var(ddof=1) / 3, b.var(ddof=1) / 4
    assert interval.standard_error == pytest.approx((u + v) ** 0.5)
    assert interval.df == pytest.approx((u + v) ** 2 / (u**2 / 2 + v**2 / 3))


def test_paired_interval_is_narrower_than_two_unpaired_ones_would_give(truth):
    a = corrupt(truth, 0.3, 1)
    b = a.copy()
    b[0, :8] = truth[:8]
    low, high = paired_bootstrap(truth, b, a, average="micro_f1")
    wide_low, wide_high = bootstrap_interval(truth, a, average="micro_f1")
    assert high - low < 0.5 * (wide_high - wide_low)
    assert paired_bootstrap(truth, a, a, average="micro_f1") == (0, 0)


def test_more_seeds_that_differ_narrow_the_interval(truth):
    few, many = corrupt(truth, 0.3, 1, 2), corrupt(truth, 0.3, *range(1, 9))
    widths = [np.diff(bootstrap_interval(truth, p, average="macro_f1"))[0] for p in (few, many)]
    assert widths[1] < widths[0]


def outcomes(only_a, only_b, both=50, neither=10):
    a = np.repeat([True, False, True, False], [only_a, only_b, both, neither])
    b = np.repeat([False, True, True, False], [only_a, only_b, both, neither])
    return a, b


@pytest.mark.parametrize(("only_a", "only_b"), [(2, 9), (0, 5), (12, 12), (1, 0)])
def test_mcnemar_is_the_exact_binomial_test_when_few_documents_differ(only_a, only_b):
    expected = binomtest(only_a, only_a + only_b).pvalue
    assert mcnemar(*outcomes(only_a, only_b)) == pytest.approx(expected)


def test_mcnemar_by_hand():
    """2 and 9: 2 x (C(11,0) + C(11,1) + C(11,2)) / 2^11 = 2 x 67 / 2048."""
    assert mcnemar(*outcomes(2, 9)) == pytest.approx(134 / 2048)
    """20 and 40, continuity corrected: (|20 - 40| - 1)^2 / 60 = 6.0167 on one degree."""
    assert mcnemar(*outcomes(20, 40)) == pytest.approx(chi2.sf(19**2 / 60, 1))
    assert mcnemar(*outcomes(0, 0)) == 1


@pytest.mark.parametrize(("seeds_a", "seeds_b"), [(1, 1), (2, 1), (2, 3)])
def test_randomization_equals_enumerating_every_swap(seeds_a, seeds_b):
    """All 2^7 ways to swap 7 documents of two arms, also with other numbers of seeds."""
    generator = np.random.default_rng(seeds_a + seeds_b)
    truth = generator.random((7, 3)) < 0.4
    a = truth ^ (generator.random((seeds_a, 7, 3)) < 0.2)
    b = truth ^ (generator.random((seeds_b, 7, 3)) < 0.45)
    p_values = randomization(truth, {"a": a, "b": b}, [("a", "b")], num_resamples=4000)[0]
    a, b = (x[np.arange(6) % len(x)] for x in (a, b))  # six seeds each, as often
    swaps = np.array(list(itertools.product([False, True], repeat=7)))
    differences = [
        f1_by_seed(truth, np.where(swap[:, None], b, a)).mean(axis=1)
        - f1_by_seed(truth, np.where(swap[:, None], a, b)).mean(axis=1)
        for swap in swaps
    ]
    at_least = np.abs(differences) >= np.abs(differences[0]) - 1e-6
    np.testing.assert_allclose(p_values, at_least.mean(axis=0), atol=0.03)


def test_p_of_randomization_is_never_zero(truth):
    preds = {"a": truth[None], "b": ~truth[None]}
    p = randomization(truth, preds, [("a", "b")], num_resamples=99)
    np.testing.assert_allclose(p, 0.01)


@pytest.fixture
def three(truth):
    shares = {"a": (0.1, 1), "b": (0.12, 2), "c": (0.5, 3)}
    return {name: corrupt(truth, share, seed) for name, (share, seed) in shares.items()}


def test_holm_over_all_pairs_by_statsmodels_and_by_hand(truth, three):
    table = compare_all(truth, three, num_resamples=200)
    columns = "arm_a arm_b metric delta low high p_mcnemar p_randomization test p_holm"
    assert list(table) == [*columns.split(), "min_detectable"]
    micro = table[table.metric == "micro_f1"]
    assert list(zip(micro.arm_a, micro.arm_b, strict=True)) == [("a", "b"), ("a", "c"), ("b", "c")]
    raw = micro["p_mcnemar"].to_numpy()
    np.testing.assert_allclose(micro["p_holm"], multipletests(raw, method="holm")[1])
    order = np.argsort(raw)
    by_hand = np.minimum(np.maximum.accumulate(raw[order] * [3, 2, 1]), 1)
    np.testing.assert_allclose(micro["p_holm"].to_numpy()[order], by_hand)
    of_macro = table[table.metric == "macro_f1"]
    expected = multipletests(of_macro["p_randomization"], method="holm")[1]
    np.testing.assert_allclose(of_macro["p_holm"], expected)
    row = of_macro[(of_macro.arm_a == "a") & (of_macro.arm_b == "c")].iloc[0]
    difference = f1(truth, three["a"], "macro_f1") - f1(truth, three["c"], "macro_f1")
    assert row.delta == pytest.approx(difference)
    assert row.low < row.delta < row.high
    assert distinguishable(row)
    assert distinguishable(table).tolist() == [False, False, True, True, True, True]


def chosen_tests(truth, preds):
    table = compare_all(truth, preds, num_resamples=50)
    return table.set_index("metric")["test"].to_dict()


def test_mcnemar_judges_micro_f1_only_where_that_is_accuracy(truth):
    a, b = corrupt(truth, 0.1, 1), corrupt(truth, 0.2, 2)
    assert chosen_tests(truth, {"a": a, "b": b}) == {
        "micro_f1": "mcnemar",
        "macro_f1": "randomization",
    }
    seeds = corrupt(truth, 0.2, 2, 3)
    without = b.copy()
    without[0, 0] = False  # an answer outside the label set
    sets = truth.copy()
    sets[0] = True
    for other in ({"a": a, "b": seeds}, {"a": a, "b": without}):
        assert set(chosen_tests(truth, other).values()) == {"randomization"}
    assert set(chosen_tests(sets, {"a": a, "b": b}).values()) == {"randomization"}


def test_smallest_detectable_difference_by_hand(truth):
    one_seed = estimate_interval([arm([0.7], 0.02, 0)], 400)
    assert min_detectable(one_seed, 400) == pytest.approx((1.96 + 0.8416) * 0.02, rel=0.02)
    seeds = estimate_interval([arm([0.70, 0.74, 0.78], 0, 0, num_resamples=10)], 400)
    expected = (4.3027 + 1.0607) * 0.04 / 3**0.5  # Student's with two degrees of freedom
    assert min_detectable(seeds, 400) == pytest.approx(expected, rel=1e-3)
    same = compare_all(truth, {"a": truth[None], "b": truth[None]}, num_resamples=20)
    assert same["min_detectable"].tolist() == [3 / 400, 3 / 400]


def test_a_reference_is_compared_with_every_other_arm(truth, three):
    table = compare_all(truth, three, reference="b", num_resamples=20)
    assert set(zip(table.arm_a, table.arm_b, strict=True)) == {("a", "b"), ("c", "b")}


def test_one_arm_alone_has_no_pair(truth):
    assert len(compare_all(truth, {"a": truth[None]}, num_resamples=20)) == 0
