import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest, chi2
from sklearn.metrics import f1_score
from statsmodels.stats.multitest import multipletests

from lib.significance import (
    bootstrap_f1,
    bootstrap_interval,
    compare_all,
    conclude,
    f1,
    mcnemar,
    paired_bootstrap,
)


def one_hot(index, num_labels=4):
    return np.eye(num_labels, dtype=bool)[index]


@pytest.fixture
def truth():
    return one_hot(np.random.default_rng(0).choice(4, size=400, p=[0.6, 0.25, 0.1, 0.05]))


def corrupt(truth, share, seed):
    generator = np.random.default_rng(seed)
    wrong = generator.random(len(truth)) < share
    return np.where(wrong[:, None], one_hot(generator.integers(0, 4, len(truth))), truth)[None]


@pytest.mark.parametrize("average", ["micro", "macro"])
def test_f1_and_every_resample_equal_scikit_learn(truth, average):
    preds = corrupt(truth, 0.3, 1)
    name = f"{average}_f1"
    assert f1(truth, preds, name) == pytest.approx(f1_score(truth, preds[0], average=average))
    samples = bootstrap_f1(truth, preds, average=name, num_resamples=20, seed=3)
    weights = np.random.default_rng(3).multinomial(400, np.full(400, 1 / 400), size=20)
    for sample, weight in zip(samples, weights, strict=True):
        rows = np.repeat(np.arange(400), weight)
        expected = f1_score(truth[rows], preds[0][rows], average=average)
        assert sample == pytest.approx(expected, abs=1e-6)


def test_a_label_that_a_resample_misses_does_not_lower_its_macro_f1():
    truth = one_hot([0] * 30 + [1])  # a third of the resamples miss label 1
    samples = bootstrap_f1(truth, truth[None], average="macro_f1", num_resamples=200)
    np.testing.assert_allclose(samples, 0.5)  # labels 2 and 3 are never there: 0, as in the score


def test_false_positives_on_rare_and_absent_labels_do_not_bias_the_macro_bootstrap():
    truth = one_hot([0] * 60 + [1] * 2)  # label 3 is predicted and never true; label 2 is neither
    preds = one_hot([0] * 50 + [1] * 5 + [3] * 5 + [1] * 2)[None]
    samples = bootstrap_f1(truth, preds, average="macro_f1", num_resamples=4000)
    assert samples.mean() == pytest.approx(f1(truth, preds, "macro_f1"), abs=0.03)
    assert samples.max() <= 0.5  # two of four labels can be got right


def test_accuracy_interval_matches_the_binomial_one(truth):
    preds = corrupt(truth, 0.3, 1)
    low, high = bootstrap_interval(truth, preds, average="micro_f1")
    right = int((preds[0] & truth).sum())
    expected = binomtest(right, 400).proportion_ci(method="wilson")
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.006)


def test_each_resample_draws_seeds_and_averages_over_them(truth):
    a, b = corrupt(truth, 0.2, 1), corrupt(truth, 0.4, 2)
    both = bootstrap_f1(truth, np.concatenate([a, b]), average="macro_f1", num_resamples=50)
    alone = [bootstrap_f1(truth, x, average="macro_f1", num_resamples=50) for x in (a, b)]
    shares = (both - alone[1]) / (alone[0] - alone[1])  # of the first seed: none, half or all
    np.testing.assert_allclose(shares, np.round(2 * shares) / 2, atol=1e-5)
    assert set(np.round(2 * shares)) == {0, 1, 2}


def test_paired_interval_is_narrower_than_two_unpaired_ones_would_give(truth):
    a = corrupt(truth, 0.3, 1)
    b = a.copy()
    b[0, :8] = truth[:8]
    low, high = paired_bootstrap(truth, b, a, average="micro_f1")
    wide_low, wide_high = bootstrap_interval(truth, a, average="micro_f1")
    assert high - low < 0.5 * (wide_high - wide_low)
    assert paired_bootstrap(truth, a, a, average="micro_f1") == (0, 0)


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


def test_holm_over_all_pairs_by_statsmodels_and_by_hand(truth):
    preds = {arm: corrupt(truth, share, i) for i, (arm, share) in enumerate(
        {"a": 0.1, "b": 0.12, "c": 0.5}.items())}  # fmt: skip
    table = compare_all(truth, preds, num_resamples=200)
    micro = table[table.metric == "micro_f1"]
    assert list(zip(micro.arm_a, micro.arm_b, strict=True)) == [("a", "b"), ("a", "c"), ("b", "c")]
    raw = micro["p_mcnemar"].to_numpy()
    np.testing.assert_allclose(micro["p_holm"], multipletests(raw, method="holm")[1])
    order = np.argsort(raw)
    by_hand = np.minimum(np.maximum.accumulate(raw[order] * [3, 2, 1]), 1)
    np.testing.assert_allclose(micro["p_holm"].to_numpy()[order], by_hand)
    expected = f1(truth, preds["a"], "macro_f1") - f1(truth, preds["c"], "macro_f1")
    row = table[(table.metric == "macro_f1") & (table.arm_a == "a") & (table.arm_b == "c")].iloc[0]
    assert row.delta == pytest.approx(expected)
    assert row.low < row.delta < row.high


def study(truth, **preds):
    rows = []
    for arm, pred in preds.items():
        low, high = bootstrap_interval(truth, pred, average="micro_f1", num_resamples=300)
        rows.append((arm, 1, f1(truth, pred, "micro_f1"), low, high))
    columns = ["arm", "num_seeds", "micro_f1", "micro_f1_low", "micro_f1_high"]
    return pd.DataFrame(rows, columns=columns), compare_all(truth, preds, num_resamples=300)


def test_conclusion_tells_certain_from_uncertain(truth):
    near = corrupt(truth, 0.1, 1)
    text = conclude(
        *study(
            truth, embedding=near, instruction=corrupt(truth, 0.1, 2), tfidf=corrupt(truth, 0.6, 3)
        )
    )
    assert "than tfidf (+" in text
    assert "**not distinguishable**" in text
    assert "neither is shown to be better" in text
    assert "With 1 seed an arm" in text


def test_an_arm_against_itself_is_never_called_better(truth):
    preds = corrupt(truth, 0.3, 1)
    text = conclude(*study(truth, embedding=preds, instruction=preds))
    assert "distinguishably better" not in text
    assert "neither is shown to be better" in text


def test_a_clear_winner_is_named_whatever_the_order_of_the_arms(truth):
    text = conclude(*study(truth, instruction=corrupt(truth, 0.6, 1), embedding=truth[None]))
    assert "the head is better (embedding minus instruction +" in text


def test_one_arm_alone_can_be_concluded_from(truth):
    assert "**tfidf** has the highest" in conclude(*study(truth, tfidf=corrupt(truth, 0.3, 1)))
