import itertools

import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.stats import binom
from sklearn.metrics import f1_score
from statsmodels.stats.multitest import multipletests

from lib.errors import ParamsError
from lib.evaluation.intervals import f1_intervals, paired_interval, paired_spread
from lib.evaluation.jackknife import measure_arms
from lib.evaluation.resampling import SEED, f1_by_seed, randomization, resample_f1
from lib.evaluation.significance import compare_all, distinguishable, mcnemar


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
    samples = resample_f1(truth, {"a": preds}, num_resamples=20)["a"]  # (2, S, R)
    weights = np.random.default_rng(SEED).multinomial(400, np.full(400, 1 / 400), size=20)
    for i, average in enumerate(["micro", "macro"]):
        expected = [f1_score(truth, p, average=average) for p in preds]
        np.testing.assert_allclose(f1_by_seed(truth, preds)[i], expected, atol=1e-6)
        for r, weight in enumerate(weights):
            rows = np.repeat(np.arange(400), weight)
            expected = [f1_score(truth[rows], p[rows], average=average) for p in preds]
            np.testing.assert_allclose(samples[i, :, r], expected, atol=1e-6)


def test_sparse_predictions_give_what_dense_ones_give(truth):
    preds = {"a": corrupt(truth, 0.3, 1, 2), "b": corrupt(truth, 0.5, 3)}
    sparse = {arm: [csr_array(p) for p in of_seeds] for arm, of_seeds in preds.items()}
    for function, options in ((f1_intervals, {}), (compare_all, {"num_resamples": 50})):
        dense = function(truth, preds, **options)
        assert function(csr_array(truth), sparse, **options).equals(dense)


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
    assert samples.mean() == pytest.approx(f1_by_seed(truth, preds)[1].mean(), abs=0.03)
    assert samples.max() <= 0.5  # two of four labels can be got right


def outcomes(only_a, only_b, both=50, neither=10):
    a = np.repeat([True, False, True, False], [only_a, only_b, both, neither])
    b = np.repeat([False, True, True, False], [only_a, only_b, both, neither])
    return a, b


@pytest.mark.parametrize(("only_a", "only_b"), [(2, 9), (0, 5), (12, 12), (1, 0), (40, 20)])
def test_mcnemar_counts_half_of_what_was_seen(only_a, only_b):
    fewer, both = min(only_a, only_b), only_a + only_b
    expected = 2 * (binom.cdf(fewer - 1, both, 0.5) + binom.pmf(fewer, both, 0.5) / 2)
    assert mcnemar(*outcomes(only_a, only_b)) == pytest.approx(min(expected, 1))


def test_mcnemar_by_hand():
    """2 and 9: 2 x (C(11,0) + C(11,1) + C(11,2) / 2) / 2^11 = 2 x 39.5 / 2048."""
    assert mcnemar(*outcomes(2, 9)) == pytest.approx(79 / 2048)
    assert mcnemar(*outcomes(0, 5)) == pytest.approx(1 / 32)
    assert mcnemar(*outcomes(0, 0)) == mcnemar(*outcomes(7, 7)) == 1


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
    columns = "arm_a arm_b metric delta low high error p_mcnemar p_randomization test p_holm"
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
    difference = f1_by_seed(truth, three["a"])[1] - f1_by_seed(truth, three["c"])[1]
    assert row.delta == pytest.approx(difference.mean())
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


def test_interval_and_p_agree_on_small_tables():
    for only_a, only_b in itertools.product(range(3, 13, 2), range(4)):
        a, b = outcomes(only_a, only_b)
        truth = one_hot(np.zeros(len(a), dtype=int), 2)
        preds = {arm: one_hot((~x).astype(int), 2)[None] for arm, x in (("a", a), ("b", b))}
        arms = measure_arms(truth, preds)
        low, high = paired_interval(paired_spread(arms["a", "micro_f1"], arms["b", "micro_f1"]))
        assert (low * high > 0) == (mcnemar(a, b) < 0.05), (only_a, only_b)


def in_groups(rows, size=5):
    return np.repeat(rows, size, axis=0)


def test_whole_groups_are_resampled_swapped_and_tested(truth):
    """Five copies of a document are one group: all is as if it were there once."""
    preds = {"a": corrupt(truth, 0.3, 1), "b": corrupt(truth, 0.5, 3)}
    copies = {arm: np.repeat(p, 5, axis=1) for arm, p in preds.items()}
    options = {"num_resamples": 200}
    groups = in_groups(np.arange(400).astype(str))
    order = np.argsort(np.arange(400).astype(str))  # groups are ordered by name
    shuffled = {arm: p[:, order] for arm, p in preds.items()}
    grouped = resample_f1(in_groups(truth), copies, groups=groups, **options)["a"]
    once = resample_f1(truth[order], shuffled, **options)["a"]
    np.testing.assert_allclose(grouped, once, atol=1e-6)
    p_once = randomization(truth[order], shuffled, [("a", "b")], **options)
    p = randomization(in_groups(truth), copies, [("a", "b")], groups=groups, **options)
    np.testing.assert_allclose(p, p_once)


def test_mcnemar_judges_nothing_where_documents_have_groups(truth):
    preds = {"a": corrupt(truth, 0.1, 1), "b": corrupt(truth, 0.2, 2)}
    table = compare_all(truth, preds, groups=np.arange(400) // 5, num_resamples=50)
    assert table["test"].tolist() == ["randomization"] * 2
    alone = compare_all(truth, preds, groups=np.arange(400), num_resamples=50)
    assert alone["test"].tolist() == ["mcnemar", "randomization"]  # each group one document


def test_a_reference_is_compared_with_every_other_arm(truth, three):
    table = compare_all(truth, three, reference="b", num_resamples=20)
    assert set(zip(table.arm_a, table.arm_b, strict=True)) == {("a", "b"), ("c", "b")}
    with pytest.raises(ParamsError, match="reference: 'd' has not run; runs: a, b, c"):
        compare_all(truth, three, reference="d", num_resamples=20)


def test_one_arm_alone_has_no_pair(truth):
    assert len(compare_all(truth, {"a": truth[None]}, num_resamples=20)) == 0
