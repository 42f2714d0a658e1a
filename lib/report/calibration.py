"""Whether an arm's confidence means what it says, and what could be automated by it.

Everything is read from the runs' predictions: a row of `scores` for each document. Scores count as
probabilities where they lie in [0, 1] and, for single labels, sum to 1; generated answers, whose
scores are 0 and 1, have no confidence.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit
from scipy.special import softmax as exact_softmax
from statsmodels.stats.proportion import proportion_confint

from lib.evaluation.metrics import expected_calibration_error
from lib.runs.record import read_label_space, read_predictions

TINY = 1e-12  # what a probability of 0 is taken for, so that it has a logarithm (chosen here)
FEWEST = 20  # validation documents that a threshold must rest on (chosen here)
FLOOR = 0.01  # probability of a label in a set (chosen here); nearly all pairs are below it
WANTED = (0.9, 0.95)  # precisions


def read_scores(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A run's scores (N, K) float64, its true labels (N, C) bool, and whether it is right, (N,).

    K is C, or fewer where only the best scores were kept. Right is a label set that is right as a
    whole.
    """
    table = read_predictions(folder, split)
    truth = read_label_space(folder).encode(table["y_true"])
    right = [set(a) == set(b) for a, b in zip(table["y_true"], table["y_pred"], strict=True)]
    return np.stack(table["scores"]).astype(float), truth, np.array(right)


def are_probabilities(scores: np.ndarray, *, multi_label: bool) -> bool:
    """Whether scores (N, C) are probabilities, of each label or over all: see the module."""
    inside = ((scores >= 0) & (scores <= 1)).all() and not np.isin(scores, (0, 1)).all()
    return bool(inside and (multi_label or np.allclose(scores.sum(axis=1), 1, atol=1e-3)))


def fit_temperature(probs: np.ndarray, truth: np.ndarray, *, multi_label: bool) -> float:
    """The temperature T > 0 at which `scale` gives the truth the highest likelihood.

    Guo et al. 2017 (arXiv 1706.04599, section 4.2). Above 1, the model was too sure of itself.

    Parameters
    ----------
    probs, truth
        (N, C) float in [0, 1] and bool, of the validation split.
    """

    def loss(log_temperature: float) -> float:
        scaled = scale(probs, np.exp(log_temperature), multi_label=multi_label)
        likelihood = np.where(truth, scaled, 1 - scaled) if multi_label else scaled[truth]
        return -np.log(np.maximum(likelihood, TINY)).mean()

    found = minimize_scalar(loss, bounds=(np.log(0.05), np.log(20)), method="bounded")
    return float(np.exp(found.x))


def scale(probs: np.ndarray, temperature: float, *, multi_label: bool) -> np.ndarray:
    """Probabilities (N, C) at another temperature: softmax(log p / T), or sigmoid(logit(p) / T)."""
    if multi_label:
        return expit(logit(np.clip(probs, TINY, 1 - TINY)) / temperature)
    return exact_softmax(np.log(np.maximum(probs, TINY)) / temperature, axis=1)


def brier_score(probs: np.ndarray, truth: np.ndarray, *, multi_label: bool) -> float:
    """Mean squared error of probabilities (N, C) against the truth, the lower the better.

    Summed over the labels of a document, in [0, 2] (Brier 1950, equation 2); for label sets the
    mean over all pairs of document and label, in [0, 1].
    """
    errors = (probs - truth) ** 2
    return float(errors.mean() if multi_label else errors.sum(axis=1).mean())


def reliability(
    probs: np.ndarray, correct: np.ndarray, *, num_bins: int = 10, num_seeds: int = 1
) -> pd.DataFrame:
    """Mean confidence and accuracy in bins of equally many answers, with 95 % Wilson intervals.

    Parameters
    ----------
    probs, correct
        (N,) float in [0, 1] and bool.
    num_seeds
        How many seeds answered the same documents: that many answers count as one.

    Returns
    -------
    DataFrame
        `confidence accuracy low high count`; equal confidences may fall into two bins.
    """
    order = np.argsort(probs, kind="stable")
    rows = []
    for part in np.array_split(order, min(num_bins, len(order))):
        hits, count = correct[part].sum() / num_seeds, len(part) / num_seeds
        low, high = proportion_confint(hits, count, method="wilson")
        rows.append((probs[part].mean(), correct[part].mean(), low, high, len(part)))
    return pd.DataFrame(rows, columns=["confidence", "accuracy", "low", "high", "count"])


def coverage_curve(confidence: np.ndarray, right: np.ndarray) -> pd.DataFrame:
    """Precision if only the most confident answers are given, by the share that is given.

    The risk-coverage curve (El-Yaniv & Wiener 2010, JMLR 11), with precision = 1 - risk. Answers of
    equal confidence are given together.

    Parameters
    ----------
    confidence, right
        (N,) float and bool.

    Returns
    -------
    DataFrame
        `threshold share precision`, from the highest threshold to the lowest.
    """
    order = np.argsort(-confidence, kind="stable")
    ranked, given = confidence[order], np.arange(1, len(order) + 1)
    last = np.append(ranked[:-1] > ranked[1:], True)[: len(order)]  # with this confidence
    precision = right[order].cumsum() / given
    columns = {"threshold": ranked, "share": given / len(order), "precision": precision}
    return pd.DataFrame(columns)[last].reset_index(drop=True)


def choose_threshold(confidence: np.ndarray, right: np.ndarray, wanted: float) -> float:
    """The lowest confidence from which on answers reach the wanted precision; inf if none does.

    Parameters
    ----------
    confidence, right
        (N,) float and bool, of the validation split; at least 20 documents must be answered.
    """
    curve = coverage_curve(confidence, right)
    enough = curve[(curve["precision"] >= wanted) & (curve["share"] * len(right) >= FEWEST)]
    return float(enough["threshold"].min()) if len(enough) else np.inf


class Calibrated(NamedTuple):
    """A run's probabilities on test, (N, C), as given and at the temperature of validation."""

    probs: np.ndarray
    scaled: np.ndarray
    temperature: float
    truth: np.ndarray
    right: np.ndarray
    multi_label: bool

    def answers(self, probs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Confidence and correctness, (M,) each, of what calibration is about, at these `probs`.

        Of every answer; for label sets, of every pair of document and label that is given 0.01 or
        more before scaling, because the others would fill every bin.
        """
        if not self.multi_label:
            return probs.max(axis=1), self.right
        likely = self.probs >= FLOOR
        return probs[likely], self.truth[likely]


def calibrate(folder: Path, *, multi_label: bool) -> Calibrated | None:
    """The run's probabilities, scaled; None where it has none, or kept only the best ones.

    None as well where no label is given 0.01 or more: nothing is said with any confidence then.
    """
    val_probs, val_truth, _ = read_scores(folder, "validation")
    probs, truth, right = read_scores(folder, "test")
    both = np.concatenate([val_probs, probs])
    known = probs.shape == truth.shape and are_probabilities(both, multi_label=multi_label)
    if not known or probs.max() < FLOOR:
        return None
    temperature = fit_temperature(val_probs, val_truth, multi_label=multi_label)
    scaled = scale(probs, temperature, multi_label=multi_label)
    return Calibrated(probs, scaled, temperature, truth, right, multi_label)


def read_confidence(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray] | None:
    """The highest score of each document, (N,), and whether it is right; None if all are 0 or 1.

    It ranks answers without being a probability: decision values and likelihoods do too.
    """
    scores, _, right = read_scores(folder, split)
    return None if np.isin(scores, (0, 1)).all() else (scores.max(axis=1), right)


def automated(folder: Path, wanted: float) -> tuple[float, float]:
    """Share of test documents answered at the threshold of `choose_threshold`, and its precision.

    NaN without confidences; the precision is also NaN where nothing is answered.
    """
    validation, test = (read_confidence(folder, split) for split in ("validation", "test"))
    if validation is None or test is None:
        return np.nan, np.nan
    confidence, right = test
    given = confidence >= choose_threshold(*validation, wanted)
    return float(given.mean()), float(right[given].mean()) if given.any() else np.nan


def calibration_table(
    runs: pd.DataFrame, *, multi_label: bool, wanted: Sequence[float] = WANTED
) -> pd.DataFrame:
    """Calibration of each arm on test, before and after temperature scaling, mean over seeds.

    Parameters
    ----------
    runs
        `arm seed folder`, as `lib.runs.record.read_runs` returns them.
    wanted
        Precisions at which to ask how many documents could be answered without a person.

    Returns
    -------
    DataFrame
        A row per arm: `arm num_seeds ece ece_scaled temperature brier brier_scaled`, NaN without
        probabilities; of label sets, ECE is that of pairs of document and label with a probability
        of 0.01 or more. For single labels also, for 0.9, `share_at_90`, the share of test documents
        above the confidence that reached this precision on validation, and `reached_at_90`, their
        precision on test, which may fall short of it; both with 95 % Wilson intervals `_low` and
        `_high` over documents (not seeds). Any confidence can rank answers: decision values too.
    """
    rows = []
    for arm, group in runs.sort_values("seed").groupby("arm", sort=False):
        calibrated = [calibrate(folder, multi_label=multi_label) for folder in group["folder"]]
        row = {"arm": arm, "num_seeds": len(group)} | _mean_calibration(calibrated)
        num_test = len(read_predictions(group["folder"].iloc[0]))
        for precision in () if multi_label else wanted:
            shares, reached = zip(*(automated(f, precision) for f in group["folder"]), strict=True)
            share, percent = np.mean(shares), round(100 * precision)
            row |= _with_interval(f"share_at_{percent}", share, num_test)
            precision = np.nan if np.isnan(reached).all() else np.nanmean(reached)
            row |= _with_interval(f"reached_at_{percent}", precision, share * num_test)
        rows.append(row)
    return pd.DataFrame(rows)


def _mean_calibration(runs: Sequence[Calibrated | None]) -> dict[str, float]:
    if None in runs:
        return dict.fromkeys(("ece", "ece_scaled", "temperature", "brier", "brier_scaled"), np.nan)
    row = {}
    for column, of in (("", "probs"), ("_scaled", "scaled")):
        chosen = [(run, getattr(run, of)) for run in runs]
        row[f"ece{column}"] = [expected_calibration_error(*run.answers(p)) for run, p in chosen]
        row[f"brier{column}"] = [
            brier_score(p, run.truth, multi_label=run.multi_label) for run, p in chosen
        ]
    row["temperature"] = [run.temperature for run in runs]
    order = ("ece", "ece_scaled", "temperature", "brier", "brier_scaled")
    return {name: float(np.mean(row[name])) for name in order}


def _with_interval(name: str, share: float, count: float) -> dict[str, float]:
    low, high = np.nan, np.nan
    if np.isfinite(share) and count > 0:
        low, high = proportion_confint(share * count, count, method="wilson")
    return {name: share, f"{name}_low": low, f"{name}_high": high}
