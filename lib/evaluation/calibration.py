"""Calibration: confidence against accuracy, and the answers that could be given automatically.

Scores count as probabilities where they lie in [0, 1] and, for single labels, sum to 1. Generated
answers, whose scores are 0 and 1, have no confidence. An answer is right as a whole: its label set
equals the true one. Constants without a source are our choices.
"""

import math
import sys
from bisect import bisect_left
from typing import NamedTuple, Self

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import betainc, expit, logit, softmax
from scipy.stats import binom

from lib.evaluation.design import design_effect, effective_documents, share_interval
from lib.evaluation.metrics import equal_bins, expected_calibration_error

MIN_PROB = 1e-12  # in place of 0, which has no logarithm
MIN_ANSWERED = 20  # validation documents that a threshold must rest on
CHANCE = 0.05  # probability that answers above a `sure_threshold` are less precise than asked
MIN_SET_PROB = 0.01  # of label sets, pairs of document and label below it are left out: nearly all
RELIABILITY_BINS = 10
CALIBRATION_MEASURES = ("ece", "ece_scaled", "temperature", "brier", "brier_scaled")


class ScoredSplit(NamedTuple):
    """Scores of one split's documents, and the truth about them.

    `scores` are (N, K) float, with K < C where only the best of a document were kept. `truth` is
    (N, C) bool. `right`, (N,) bool, is true where the predicted label set is right as a whole.
    `groups` contains the group of each document, (N,), or is None where documents are independent.
    """

    scores: np.ndarray
    truth: np.ndarray
    right: np.ndarray
    groups: np.ndarray | None = None

    @property
    def confidence(self) -> np.ndarray | None:
        """The highest score of each document, (N,) float; None if all scores are 0 or 1.

        It need not be a probability: decision values and likelihoods rank answers as well.
        """
        return None if np.isin(self.scores, (0, 1)).all() else self.scores.max(axis=1)


class Calibrated(NamedTuple):
    """Probabilities of test documents, as given and scaled by a temperature fitted on validation.

    `probs` and `scaled` are (N, C) float in [0, 1]. `truth`, `right` and `groups` are those of
    `ScoredSplit`, where each document is its own group if none were given.
    """

    probs: np.ndarray
    scaled: np.ndarray
    temperature: float
    truth: np.ndarray
    right: np.ndarray
    groups: np.ndarray
    multi_label: bool

    @classmethod
    def fit(cls, validation: ScoredSplit, test: ScoredSplit, *, multi_label: bool) -> Self | None:
        """Test probabilities, as given and scaled by the temperature of `validation`.

        None if scores are no probabilities or not of all labels, and if no label of any test
        document has a probability of `MIN_SET_PROB` or more: no answer would be left to bin.
        """
        probs, truth, right, groups = test
        groups = np.arange(len(right)) if groups is None else groups
        options = {"multi_label": multi_label}
        known = are_probabilities(np.concatenate([validation.scores, probs]), **options)
        if probs.shape != truth.shape or not known or probs.max() < MIN_SET_PROB:
            return None
        temperature = fit_temperature(validation.scores, validation.truth, **options)
        scaled = scale(probs, temperature, **options)
        return cls(probs, scaled, temperature, truth, right, groups, **options)

    def answers(self, probs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Confidence, correctness and group of M answers, (M,) each; `probs` are given or scaled.

        An answer is that to a document, M = N. For label sets it is a pair of document and label
        with a probability of `MIN_SET_PROB` or more before scaling; the others would fill all bins.
        """
        if not self.multi_label:
            return probs.max(axis=1), self.right, self.groups
        likely = self.probs >= MIN_SET_PROB
        return probs[likely], self.truth[likely], self.groups[np.nonzero(likely)[0]]

    def measures(self) -> dict[str, float]:
        """`CALIBRATION_MEASURES` by name: ECE and Brier score before and after scaling."""
        both, options = (self.probs, self.scaled), {"multi_label": self.multi_label}
        ece = [expected_calibration_error(*self.answers(probs)[:2]) for probs in both]
        brier = [brier_score(probs, self.truth, **options) for probs in both]
        values = (*ece, self.temperature, *brier)
        return dict(zip(CALIBRATION_MEASURES, values, strict=True))


def are_probabilities(scores: np.ndarray, *, multi_label: bool) -> bool:
    """True if scores (N, C) are probabilities as the module defines them.

    Those of `multi_label` need not sum to 1: each label has a probability of its own.
    """
    inside = ((scores >= 0) & (scores <= 1)).all() and not np.isin(scores, (0, 1)).all()
    return bool(inside and (multi_label or np.allclose(scores.sum(axis=1), 1, atol=1e-3)))


def fit_temperature(probs: np.ndarray, truth: np.ndarray, *, multi_label: bool) -> float:
    """The temperature T, 0.05 to 20, at which `scale` gives the truth the highest likelihood.

    Temperature scaling of Guo et al. 2017 (arXiv 1706.04599, section 4.2). A T above 1 shows a
    model that was too sure. `probs` (N, C) float in [0, 1] and `truth` (N, C) bool are of the
    validation split.
    """

    def loss(log_temperature: float) -> float:
        scaled = scale(probs, np.exp(log_temperature), multi_label=multi_label)
        likelihood = np.where(truth, scaled, 1 - scaled) if multi_label else scaled[truth]
        return -np.log(np.maximum(likelihood, MIN_PROB)).mean()

    found = minimize_scalar(loss, bounds=(np.log(0.05), np.log(20)), method="bounded")
    return float(np.exp(found.x))


def scale(probs: np.ndarray, temperature: float, *, multi_label: bool) -> np.ndarray:
    """Probabilities (N, C) at a temperature T: softmax(log p / T), or sigmoid(logit p / T).

    The second is for label sets.
    """
    if multi_label:
        return expit(logit(np.clip(probs, MIN_PROB, 1 - MIN_PROB)) / temperature)
    return softmax(np.log(np.maximum(probs, MIN_PROB)) / temperature, axis=1)


def brier_score(probs: np.ndarray, truth: np.ndarray, *, multi_label: bool) -> float:
    """Mean squared error of probabilities (N, C) against the truth (N, C) bool; 0 is best.

    Errors are summed over the labels of a document, so that the mean is in [0, 2] (Brier 1950,
    equation 2). For label sets it is over all pairs of document and label, in [0, 1].
    """
    errors = (probs - truth) ** 2
    return float(errors.mean() if multi_label else errors.sum(axis=1).mean())


def reliability(
    probs: np.ndarray, correct: np.ndarray, groups: np.ndarray | None = None, *, num_seeds: int = 1
) -> pd.DataFrame:
    """Mean confidence and accuracy in 10 bins of equally many answers, with 95 % Wilson intervals.

    A row per bin: `confidence accuracy low high count`, where `count` is the number of answers.
    Equal confidences may fall into two bins. `probs` are (N,) float in [0, 1], `correct` (N,) bool;
    for `groups` and `num_seeds` see `lib.evaluation.design.effective_documents`.
    """
    rows = []
    for part in equal_bins(probs, RELIABILITY_BINS):
        of_part = None if groups is None else groups[part]
        count = effective_documents(correct[part], of_part, num_seeds=num_seeds)
        low, high = share_interval(correct[part].mean(), count)
        rows.append((probs[part].mean(), correct[part].mean(), low, high, len(part)))
    return pd.DataFrame(rows, columns=["confidence", "accuracy", "low", "high", "count"])


def coverage_curve(confidence: np.ndarray, right: np.ndarray) -> pd.DataFrame:
    """Precision if only the most confident answers are given, by the share that is given.

    A row per `threshold`, from the highest to the lowest: `threshold share precision`. It is the
    risk-coverage curve (El-Yaniv & Wiener 2010, JMLR 11), with precision = 1 - risk. Answers of
    equal confidence are given together. `confidence` is (N,) float, `right` (N,) bool.
    """
    order = np.argsort(-confidence, kind="stable")
    ranked, given = confidence[order], np.arange(1, len(order) + 1)
    last = np.append(ranked[:-1] > ranked[1:], True)[: len(order)]  # of equal confidences
    precision = right[order].cumsum() / given
    columns = {"threshold": ranked, "share": given / len(order), "precision": precision}
    return pd.DataFrame(columns)[last].reset_index(drop=True)


def choose_threshold(confidence: np.ndarray, right: np.ndarray, wanted: float) -> float:
    """The lowest confidence from which on answers reach the `wanted` precision; inf if none does.

    At least `MIN_ANSWERED` documents must be answered. `confidence` (N,) float and `right` (N,)
    bool are of the validation split.
    """
    curve = coverage_curve(confidence, right)
    answered = (curve["share"] * len(right)).round() >= MIN_ANSWERED
    enough = curve[(curve["precision"] >= wanted) & answered]
    return float(enough["threshold"].min()) if len(enough) else np.inf


def automated(validation: ScoredSplit, test: ScoredSplit, wanted: float) -> np.ndarray | None:
    """Test documents, (N,) bool, that are at least as confident as `choose_threshold` asks.

    The threshold has the `wanted` precision on validation. None where `ScoredSplit.confidence` is.
    """
    confidence, of_validation = test.confidence, validation.confidence
    if confidence is None or of_validation is None:
        return None
    return confidence >= choose_threshold(of_validation, validation.right, wanted)


class SureThreshold(NamedTuple):
    """The confidence that `sure_threshold` returns as `value`, and the answers that it rests on.

    `answered` validation documents are at least as confident; `right` of their answers are right.
    """

    value: float
    answered: int
    right: int


def min_documents(wanted: float) -> int:
    """The least number of validation documents with which `sure_threshold` can find one.

    Among so many documents, an error rate of 1 - `wanted` leaves one error or none with a
    probability of at most `CHANCE` (binomial). `wanted` is in (0, 1).
    """
    counts = range(2, sys.maxsize)
    return counts[bisect_left(counts, True, key=lambda n: binom.cdf(1, n, 1 - wanted) <= CHANCE)]


def sure_threshold(
    confidence: np.ndarray, right: np.ndarray, wanted: float, *, groups: np.ndarray | None = None
) -> SureThreshold | None:
    """The lowest confidence from which on answers surely have the `wanted` precision, or None.

    Surely: with a probability of 1 - `CHANCE` over the validation documents, new answers from this
    confidence on are right with at least the `wanted` probability, if new documents are like these.

    Thresholds are tested in a sequence that is fixed beforehand, from the most confident answers
    on, until one fails: "Learn then Test" (Angelopoulos et al., arXiv 2110.01052) with
    fixed-sequence testing and exact binomial p-values. The steps, our choice, are the least numbers
    of answers among which 1, 2, 3 ... errors pass, and at last all answers. Where documents have
    groups, answers and errors are divided by the `design_effect` of all answers.

    `confidence` (N,) float, `right` (N,) bool and `groups` (N,) or None are of the validation
    split; `wanted` is a precision in (0, 1).
    """
    order, per_document = np.argsort(-confidence, kind="stable"), design_effect(right, groups)
    ranked, errors = confidence[order], (~right[order]).cumsum()
    counts = np.arange(1, len(order) + 1)
    allowed = binom.ppf(CHANCE, counts, 1 - wanted) - 1  # most errors that pass
    steps = counts[(allowed >= 1) & (np.diff(allowed, prepend=-1) > 0)].tolist()
    steps = [step for x in steps if (step := math.ceil(x * per_document)) <= len(order)]
    found = None
    for count in dict.fromkeys([*steps, len(order)]) if steps else ():
        value = ranked[count - 1]
        given = int((ranked >= value).sum())  # answers of equal confidence are given together
        wrong = int(errors[given - 1])
        # P(errors <= of_errors) at an error rate of 1 - wanted: the binomial's distribution, which
        # the incomplete beta function continues to counts that are not whole
        of_errors, of_right = wrong / per_document, (given - wrong) / per_document
        if not of_right or betainc(of_right, of_errors + 1, wanted) > CHANCE:
            break
        found = SureThreshold(float(value), given, given - wrong)
    return found


def set_confidence(probs: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Log-probability of each label set, (N,) float, as if labels were independent of each other.

    `probs` is (N, K) float in [0, 1]; `chosen`, (N, K) bool, marks the labels of the set.
    """
    return np.log(np.maximum(np.where(chosen, probs, 1 - probs), MIN_PROB)).sum(axis=1)
