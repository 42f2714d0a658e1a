"""What is called certain is certain as often as it says, on studies whose truth is known.

Simulated arms answer document i with seed s rightly where
quality + seed_s + difficulty_i + of_arm_i + noise_is > 0,
all but quality normal: documents are hard for every arm alike, and a seed is lucky on all documents
or on one. Wrong answers are spread evenly over the other labels. A study's true F1 is the mean over
documents and, with several seeds, over seeds.
"""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom, norm

from lib.intervals import estimate_interval, paired_interval, resampled_arms
from lib.resampling import AVERAGES
from lib.significance import compare_all, distinguishable
from lib.verdict import verdict

LABELS = np.array([0.4, 0.3, 0.2, 0.1])  # their frequencies
DIFFICULTY, OF_ARM, SEEDS = 1.0, 0.5, 0.1  # standard deviations; 0.1 of seeds is 0.02 in accuracy
QUALITY = {"a": 1.0, "b": 0.8}  # accuracy of about 0.75 and 0.70


@pytest.fixture(autouse=True)
def _no_garbage(monkeypatch):
    """statsmodels collects garbage at every adjustment, thousands of times here."""
    monkeypatch.setattr("gc.collect", lambda: 0)


def simulate(generator, quality, num_seeds, *, num_documents=300, seeds=SEEDS, labels=LABELS):
    """(N, C) truth, for each arm (S, N, C) predictions, and (S,) its seeds' luck."""
    truth = generator.choice(len(labels), size=num_documents, p=labels)
    difficulty = generator.normal(0, DIFFICULTY, num_documents)
    eye, preds, luck = np.eye(len(LABELS), dtype=bool), {}, {}
    for arm, level in quality.items():
        size = (num_seeds, num_documents)
        luck[arm] = generator.normal(0, seeds, num_seeds)
        latent = level + luck[arm][:, None] + difficulty + generator.normal(0, OF_ARM, size[1])
        right = latent + generator.standard_normal(size) > 0
        wrong = (truth + generator.integers(1, len(LABELS), size)) % len(LABELS)
        preds[arm] = eye[np.where(right, truth, wrong)]
    return eye[truth], preds, luck


def true_f1(latent):
    """Micro- and macro-F1, (2, ...), over infinitely many documents."""
    accuracy = norm.cdf(latent / np.sqrt(1 + DIFFICULTY**2 + OF_ARM**2))[..., None]
    answered = LABELS * accuracy + (1 - accuracy) * (1 - LABELS) / (len(LABELS) - 1)
    return np.stack([accuracy[..., 0], (2 * LABELS * accuracy / (LABELS + answered)).mean(-1)])


def mean_f1(level, luck):
    """(2,) true F1 of one trained model, or of the mean over seeds that might have been."""
    if len(luck) == 1:
        return true_f1(level + luck)[:, 0]
    nodes, weights = np.polynomial.hermite_e.hermegauss(31)
    return true_f1(level + SEEDS * nodes) @ (weights / weights.sum())


def covered(generator, num_seeds, num_resamples):
    """Whether intervals of an arm and of a difference, in both averages, hold the truth: (2, 2)."""
    y_true, y_preds, luck = simulate(generator, QUALITY, num_seeds)
    seed = int(generator.integers(2**31))
    arms = resampled_arms(y_true, y_preds, num_resamples=num_resamples, seed=seed)
    a, b = (mean_f1(QUALITY[arm], luck[arm]) for arm in QUALITY)
    results = []
    for average, of_a, of_b in zip(AVERAGES, a, b, strict=True):
        one = estimate_interval([arms["a", average]], len(y_true))
        both = paired_interval(arms["a", average], arms["b", average], len(y_true))
        results.append((one.low <= of_a <= one.high, both.low <= of_a - of_b <= both.high))
    return results


def coverage(num_studies, num_seeds):
    generator = np.random.default_rng(num_seeds)
    num_resamples = 1000 if num_seeds == 1 else 250  # quantiles need more than variances
    studies = [covered(generator, num_seeds, num_resamples) for _ in range(num_studies)]
    return np.mean(studies, axis=0)


@pytest.mark.parametrize("num_seeds", [1, 3, 5])
def test_intervals_cover_about_as_often_as_they_say(num_seeds):
    low, high = binom.interval(0.999, 60, 0.95)
    shares = 60 * coverage(60, num_seeds)
    assert np.all((shares >= low) & (shares <= high)), shares


@pytest.mark.slow
@pytest.mark.parametrize("num_seeds", [1, 3, 5])
def test_intervals_cover_within_one_and_a_half_points_of_95_percent(num_seeds):
    shares = coverage(2000, num_seeds)
    print(f"{num_seeds} seeds, (micro, macro) x (arm, difference): {shares.round(4).tolist()}")
    np.testing.assert_allclose(shares, 0.95, atol=0.015)


def at_most_nominal(count, num_studies):
    """Not significantly more than 5 %."""
    return binom.sf(count - 1, num_studies, 0.05) > 0.01


def judged(y_true, y_preds):
    """`compare_all` and what is recommended, all arms costing the same."""
    pairwise = compare_all(y_true, y_preds, num_resamples=199)
    f1 = {arm: (y_true & p).sum() / p.sum() for arm, p in y_preds.items()}
    comparison = pd.DataFrame({"arm": list(f1), "micro_f1": list(f1.values())}).assign(
        micro_f1_low=0.0, micro_f1_high=1.0, num_seeds=len(next(iter(y_preds.values()))),
        train_seconds=1.0, infer_docs_per_second=1.0, device="cpu",
    )  # fmt: skip
    return pairwise, verdict(comparison, pairwise)


def wrong_claims(num_studies, num_seeds):
    """How many studies of four equal arms reject by p, call a pair certain, or name a winner."""
    generator = np.random.default_rng(100 + num_seeds)
    counts = np.zeros(4, dtype=int)
    for _ in range(num_studies):
        # with one seed the question is about the trained models, which must then be equal
        seeds = SEEDS if num_seeds > 1 else 0
        quality = dict.fromkeys(["embedding", "instruction", "c", "d"], 0.8)
        y_true, y_preds, _ = simulate(generator, quality, num_seeds, num_documents=200, seeds=seeds)
        pairwise, recommendation = judged(y_true, y_preds)
        micro = pairwise["metric"] == "micro_f1"
        counts += [
            num_seeds == 1 and (pairwise["p_holm"][micro] < 0.05).any(),
            num_seeds == 1 and (pairwise["p_holm"][~micro] < 0.05).any(),
            distinguishable(pairwise[micro]).any(),
            recommendation["kind"] == "clear_winner"
            or recommendation["head_or_prompt"]["arm"] is not None,
        ]
    return counts


@pytest.mark.parametrize("num_seeds", [1, 3])
def test_equal_arms_are_seldom_told_apart(num_seeds):
    counts = wrong_claims(20, num_seeds)
    assert all(at_most_nominal(count, 20) for count in counts), counts


@pytest.mark.slow
@pytest.mark.parametrize("num_seeds", [1, 3])
def test_equal_arms_are_told_apart_in_at_most_five_of_a_hundred_studies(num_seeds):
    counts = wrong_claims(1000, num_seeds)
    print(f"{num_seeds} seeds: p of micro, of macro, certain, recommended: {counts} of 1000")
    assert all(at_most_nominal(count, 1000) for count in counts), counts


@pytest.mark.parametrize("num_seeds", [1, 3])
def test_an_arm_under_two_names_is_never_preferred_to_itself(num_seeds):
    generator = np.random.default_rng(num_seeds)
    for _ in range(5):
        y_true, y_preds, _ = simulate(generator, {"embedding": 0.8}, num_seeds)
        pairwise, recommendation = judged(y_true, y_preds | {"instruction": y_preds["embedding"]})
        assert not distinguishable(pairwise).any()
        assert recommendation["arm"] is recommendation["head_or_prompt"]["arm"] is None


def certain_of_permuted(num_studies):
    """In how many studies a pair is certain before, and after labels are dealt out anew.

    Labels are equally frequent here: of others the worse arms, whose errors are spread evenly, name
    the frequent ones less often, and so do differ, a little, even where labels mean nothing.
    """
    generator = np.random.default_rng(7)
    counts = np.zeros(2, dtype=int)
    quality, even = {"good": 2.0, "fair": 1.0, "bad": 0.0}, np.full(len(LABELS), 1 / len(LABELS))
    for _ in range(num_studies):
        y_true, y_preds, _ = simulate(generator, quality, 1, labels=even)
        for i, truth in enumerate([y_true, generator.permutation(y_true)]):
            table = compare_all(truth, y_preds, num_resamples=199)
            counts[i] += distinguishable(table[table["metric"] == "micro_f1"]).any()
    return counts


def test_permuted_labels_remove_what_was_certain():
    before, after = certain_of_permuted(15)
    assert before == 15
    assert at_most_nominal(after, 15), after


@pytest.mark.slow
def test_permuted_labels_leave_at_most_five_of_a_hundred_studies_with_something_certain():
    before, after = certain_of_permuted(500)
    print(f"certain before {before}, after {after}, of 500")
    assert before == 500
    assert at_most_nominal(after, 500), after
