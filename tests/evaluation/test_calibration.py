import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.special import expit, softmax
from scipy.stats import norm
from scipy.stats import t as student
from sklearn.metrics import brier_score_loss

from lib.evaluation.calibration import (
    are_probabilities,
    brier_score,
    choose_threshold,
    coverage_curve,
    fit_temperature,
    min_documents,
    reliability,
    scale,
    set_confidence,
    sure_threshold,
)
from lib.evaluation.design import design_effect, effective_documents
from lib.evaluation.metrics import expected_calibration_error

RNG = np.random.default_rng(0)


def draw(logits, *, multi_label=False):
    """Truth, (N, C) bool, as these logits say it."""
    if multi_label:
        return RNG.random(logits.shape) < expit(logits)
    return (logits + RNG.gumbel(size=logits.shape)).argmax(axis=1)[:, None] == np.arange(
        logits.shape[1]
    )


def test_calibration_error_by_hand(monkeypatch):
    """Two bins of two: |0.55 - 0.5| and |0.9 - 1|, so (0.05 + 0.1) / 2."""
    monkeypatch.setattr("lib.evaluation.metrics.ECE_BINS", 2)
    probs = np.array([0.9, 0.5, 0.6, 0.9])
    correct = np.array([True, False, True, True])
    assert expected_calibration_error(probs, correct) == pytest.approx(0.075)
    with pytest.raises(ValueError, match="probabilities"):
        expected_calibration_error(probs * 2, correct)


def test_brier_score_is_scikit_learns():
    logits = RNG.normal(size=(50, 3))
    probs, truth = softmax(logits, axis=1), draw(logits)
    expected = brier_score_loss(truth.argmax(axis=1), probs, scale_by_half=False)
    assert brier_score(probs, truth, multi_label=False) == pytest.approx(expected)
    truth = draw(logits, multi_label=True)
    of_labels = [brier_score_loss(t, p) for t, p in zip(truth.T, expit(logits).T, strict=True)]
    assert brier_score(expit(logits), truth, multi_label=True) == pytest.approx(np.mean(of_labels))


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_temperature_that_made_a_model_too_sure_is_found(multi_label):
    logits = RNG.normal(size=(4000, 5)) * 2
    truth = draw(logits, multi_label=multi_label)
    link = expit if multi_label else lambda x: softmax(x, axis=1)
    found = fit_temperature(link(2.5 * logits), truth, multi_label=multi_label)
    assert found == pytest.approx(2.5, rel=0.1)
    scaled = scale(link(2.5 * logits), 2.5, multi_label=multi_label)
    np.testing.assert_allclose(scaled, link(logits), atol=2e-5)


@given(hnp.arrays(np.float64, (6, 4), elements=st.floats(-8, 8)), st.floats(0.2, 5))
def test_temperature_never_changes_an_answer(logits, temperature):
    probs = softmax(logits, axis=1)
    scaled = scale(probs, temperature, multi_label=False)
    best = probs.argmax(axis=1)[:, None]
    highest = np.take_along_axis(scaled, best, axis=1)[:, 0]
    np.testing.assert_allclose(highest, scaled.max(axis=1), rtol=1e-9)
    np.testing.assert_allclose(scaled.sum(axis=1), 1)


def test_reliability_has_equal_bins_whose_mean_gap_is_ece(monkeypatch):
    monkeypatch.setattr("lib.evaluation.calibration.RELIABILITY_BINS", 15)
    probs = RNG.random(1000)
    correct = RNG.random(1000) < probs
    table = reliability(probs, correct)
    assert table["count"].between(66, 67).all()
    gap = ((table["confidence"] - table["accuracy"]).abs() * table["count"]).sum() / 1000
    assert gap == pytest.approx(expected_calibration_error(probs, correct))
    covered = (table["low"] < table["confidence"]) & (table["confidence"] < table["high"])
    assert covered.mean() > 0.75


def test_seeds_of_the_same_documents_narrow_no_interval():
    probs, correct = RNG.random(500), RNG.random(500) < 0.5
    once = reliability(probs, correct)
    twice = reliability(np.repeat(probs, 2), np.repeat(correct, 2), num_seeds=2)
    pd.testing.assert_frame_equal(once.drop(columns="count"), twice.drop(columns="count"))


@given(st.lists(st.tuples(st.sampled_from([0.2, 0.5, 0.5001, 0.9]), st.booleans()), min_size=1))
def test_coverage_counts_every_answer_above_a_threshold(pairs):
    confidence, right = map(np.array, zip(*pairs, strict=True))
    curve = coverage_curve(confidence, right)
    assert set(curve["threshold"]) == set(confidence)
    for row in curve.itertuples():
        given_ = confidence >= row.threshold
        assert row.share == pytest.approx(given_.mean())
        assert row.precision == pytest.approx(right[given_].mean())


def test_the_threshold_answers_as_many_as_it_can_at_the_wanted_precision():
    confidence = np.linspace(1, 0.01, 100)
    right = np.arange(100) < 45
    threshold = choose_threshold(confidence, right, 0.9)
    assert (confidence >= threshold).sum() == 50
    assert choose_threshold(confidence, ~right, 0.9) == np.inf
    assert choose_threshold(confidence[:19], right[:19], 0.9) == np.inf  # too few to rest on


@pytest.mark.parametrize(
    ("scores", "multi_label", "expected"),
    [
        ([[0.7, 0.3], [0.5, 0.5]], False, True),
        ([[0.7, 0.2], [0.5, 0.5]], False, False),  # likelihoods of a search
        ([[0.7, 0.2], [0.9, 0.8]], True, True),
        ([[1.0, 0.0], [0.0, 0.0]], True, False),  # generated
        ([[1.0, 0.0], [0.0, 1.0]], False, False),
        ([[1.5, -0.5], [0.5, 0.5]], False, False),  # decision values
    ],
)
def test_probabilities_are_told_from_other_scores(scores, multi_label, expected):
    assert are_probabilities(np.array(scores), multi_label=multi_label) is expected


def test_no_answers_have_no_curve_and_no_threshold():
    nothing = np.array([])
    assert len(coverage_curve(nothing, nothing.astype(bool))) == 0
    assert choose_threshold(nothing, nothing.astype(bool), 0.9) == np.inf


def test_a_sure_threshold_is_less_precise_than_asked_as_rarely_as_it_says():
    """400 studies of 250 documents whose answers grow right with confidence, down to a half."""
    generator, failed = np.random.default_rng(0), 0
    above = np.linspace(0, 1, 20_001)
    for _ in range(400):
        confidence = generator.random(250)
        right = generator.random(250) < 0.5 + confidence**0.3 / 2
        if found := sure_threshold(confidence, right, 0.9):
            kept = above[above >= found.value]
            failed += (0.5 + kept**0.3 / 2).mean() < 0.9
    assert 0 < failed <= 0.05 * 400


def test_a_sure_threshold_by_hand():
    """At 0.8, one error passes among 22 answers: 0.8^22 + 22 x 0.2 x 0.8^21 = 0.048."""
    assert [min_documents(wanted) for wanted in (0.8, 0.9, 0.95, 0.99)] == [22, 46, 93, 473]
    assert min_documents(1 - 1e-12) == pytest.approx(4.7438645e12, rel=1e-4)  # P(Poisson <= 1) 0.05
    confidence = np.arange(30.0)[::-1]
    one_wrong = np.arange(30) != 10
    found = sure_threshold(confidence, one_wrong, 0.8)
    assert found == (0.0, 30, 29)
    two_wrong_early = one_wrong & (np.arange(30) != 3)
    assert sure_threshold(confidence, two_wrong_early, 0.8) is None
    assert sure_threshold(confidence[:21], one_wrong[:21], 0.8) is None
    fails_later = one_wrong & (np.arange(30) < 22)
    assert sure_threshold(confidence, fails_later, 0.8) == (8.0, 22, 21)
    assert sure_threshold(np.ones(30), one_wrong, 0.8) == (1.0, 30, 29)


def test_a_sure_threshold_is_no_surer_for_documents_that_come_in_groups():
    """Precision is just below what is asked for; as single documents, 0.09 of studies claim it."""
    generator, claimed, groups = np.random.default_rng(1), np.zeros(2), np.repeat(range(25), 20)
    for _ in range(300):
        hard = generator.normal(size=25)[groups] + generator.normal(size=500)
        right, confidence = hard > norm.ppf(0.0505) * np.sqrt(2), generator.random(500)
        for i, of_documents in enumerate((groups, None)):
            claimed[i] += sure_threshold(confidence, right, 0.95, groups=of_documents) is not None
    assert claimed[0] <= 0.05 * 300 < claimed[1]


def test_what_a_group_says_as_one_counts_as_one_document():
    hits, groups = np.repeat([True, False], 100), np.repeat(range(20), 10)
    assert design_effect(hits, groups) == pytest.approx(10)
    assert design_effect(np.tile([True, False], 100), groups) == pytest.approx(1)
    assert design_effect(hits, None) == design_effect(hits, np.arange(200)) == 1
    assert design_effect(hits | True, groups) == pytest.approx(10)  # no error: nothing is known
    assert effective_documents(hits) == 200
    expected = 20 * (norm.ppf(0.975) / student.ppf(0.975, 19)) ** 2
    assert effective_documents(hits, groups) == pytest.approx(expected)


def test_accuracies_of_bins_hold_in_groups():
    """Bins of 50 documents in groups of 5; as single documents, 0.79 of the intervals held."""
    generator, held = np.random.default_rng(2), []
    groups, true = np.repeat(range(100), 5), norm.cdf(1 / np.sqrt(2))
    for _ in range(100):
        hard = generator.normal(size=100)[groups] + generator.normal(size=500)
        probs = generator.random(100)[groups] + 1e-3 * generator.random(500)
        table = reliability(probs / 1.001, hard < 1, groups)
        held += ((table["low"] <= true) & (true <= table["high"])).tolist()
    assert np.mean(held) > 0.92, np.mean(held)


def test_confidence_in_a_set_is_the_probability_of_all_of_its_labels():
    probs = np.array([[0.9, 0.2, 0.5], [1.0, 0.0, 1.0]])
    chosen = np.array([[True, False, True], [True, False, True]])
    np.testing.assert_allclose(set_confidence(probs, chosen), [np.log(0.9 * 0.8 * 0.5), 0])
