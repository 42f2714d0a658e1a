"""F1 and the other numbers that a run is judged by, counted by scikit-learn."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix
from scipy.special import expit
from sklearn.metrics import accuracy_score, f1_score, ndcg_score

from lib.labels import LabelSpace

RANKING_METRICS = ("precision_at_1", "precision_at_3", "precision_at_5", "ndcg_at_5")


def f1_scores(y_true: np.ndarray, y_pred: np.ndarray) -> dict[str, float]:
    """Micro-, macro-, weighted and samples F1 and accuracy, each in [0, 1].

    Parameters
    ----------
    y_true, y_pred
        (N, C) bool, multi-hot over the study's fixed label list. A row of `y_pred` may be empty.

    Notes
    -----
    F1 = 2 TP / (2 TP + FP + FN). A label with neither test documents nor predictions counts 0 in
    macro-F1 (`zero_division=0`): the label list is the study's, not the test split's. Accuracy is
    the share of documents whose whole label set is right. With one label a document and exactly one
    prediction each, micro-F1 equals accuracy; an empty prediction lowers recall alone.
    """
    averages = ("micro", "macro", "weighted", "samples")
    scores = {
        f"{average}_f1": float(f1_score(y_true, y_pred, average=average, zero_division=0))
        for average in averages
    }
    return scores | {"accuracy": float(accuracy_score(y_true, y_pred))}


def expected_calibration_error(
    probs: np.ndarray, correct: np.ndarray, *, num_bins: int = 15
) -> float:
    """Mean gap between confidence and accuracy, in [0, 1], over bins of equally many documents.

    ECE of Guo et al. (arXiv 1706.04599, eq. 3) with equal-mass bins (arXiv 1909.10155); 15 bins as
    there.

    Parameters
    ----------
    probs
        (N,) float in [0, 1], the probability of each document's prediction.
    correct
        (N,) bool.
    """
    if not np.all((probs >= 0) & (probs <= 1)):
        raise ValueError("probs: expected probabilities in [0, 1]")
    order = np.argsort(probs, kind="stable")
    gaps = [
        abs(probs[part].mean() - correct[part].mean()) * len(part)
        for part in np.array_split(order, min(num_bins, len(order)))
    ]
    return float(sum(gaps) / len(order))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities over labels, (N, C) float32, of logits or whole-label log-likelihoods."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (shifted / shifted.sum(axis=1, keepdims=True)).astype(np.float32)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Probabilities of each label on its own, (N, C) float32, of logits."""
    return expit(logits).astype(np.float32)


def decode_sets(scores: np.ndarray, threshold: float) -> np.ndarray:
    """Label sets, (N, C) bool: every label that scores at least the threshold, and the best one.

    Each document of the study has at least one label, so no set is left empty.
    """
    preds = scores >= threshold
    preds[np.arange(len(scores)), scores.argmax(axis=1)] = True
    return preds


def tune_thresholds(y_true: np.ndarray, scores: np.ndarray) -> float:
    """The one threshold for all labels at which `decode_sets` has the best micro-F1.

    One threshold rather than one a label: those of rare labels would rest on a handful of
    documents (Yang, "A study of thresholding strategies", 2001, on overfitting by SCut).

    Parameters
    ----------
    y_true
        (N, C) bool, of the validation split.
    scores
        (N, C) float, the higher the likelier.
    """
    best = np.zeros_like(y_true)
    best[np.arange(len(scores)), scores.argmax(axis=1)] = True
    order = np.argsort(-scores[~best], kind="stable")
    ranked, hits = scores[~best][order], y_true[~best][order]
    num_predicted = len(scores) + np.arange(len(ranked) + 1)
    true_positives = y_true[best].sum() + np.concatenate([[0], np.cumsum(hits)])
    micro_f1 = 2 * true_positives / (num_predicted + y_true.sum())
    # Between two equal scores no threshold can be drawn.
    micro_f1[1:-1][ranked[:-1] == ranked[1:]] = -1
    cut = int(micro_f1.argmax())  # how many are predicted besides the best ones
    if cut == 0:
        return float(np.nextafter(ranked[0], ranked.dtype.type(np.inf)))
    if cut == len(ranked):
        return float(ranked[-1])
    middle = ranked[cut - 1] / 2 + ranked[cut] / 2
    return float(middle if middle > ranked[cut] else ranked[cut - 1])


def ranking_metrics(y_true: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """Precision at 1, 3 and 5 and nDCG at 5, each in [0, 1], of labels ranked by their scores.

    P@k = share of true labels among the k that score highest, mean over documents; nDCG@5 with
    binary relevance, by scikit-learn (Prabhu & Varma 2014, section 4, for both).

    Parameters
    ----------
    y_true
        (N, C) bool.
    scores
        (N, C) float, the higher the likelier.
    """
    top = np.argsort(-scores, axis=1, kind="stable")[:, :5]
    hits = np.take_along_axis(y_true, top, axis=1)  # (N, 5)
    return {f"precision_at_{k}": float(hits[:, :k].sum() / (k * len(hits))) for k in (1, 3, 5)} | {
        "ndcg_at_5": float(ndcg_score(y_true, scores, k=5))
    }


def label_scores(
    model: Any, inputs: np.ndarray | csr_matrix, known: np.ndarray, num_labels: int
) -> np.ndarray:
    """Scores, (N, C) float, that a scikit-learn classifier of some of the labels gives to all.

    Its probabilities or else its decision values; labels it does not know score lowest.

    Parameters
    ----------
    known
        (K,) the label of each of its K classes.
    """
    probabilities = hasattr(model, "predict_proba")
    raw = (model.predict_proba if probabilities else model.decision_function)(inputs)
    if raw.ndim == 1:  # two labels: one decision value, for the second of them
        raw = np.stack([-raw, raw], axis=1)
    scores = np.full((len(raw), num_labels), 0.0 if probabilities else raw.min())
    scores[:, known] = raw
    return scores


def f1_by_level(
    label_space: LabelSpace,
    y_true: np.ndarray,
    y_preds: Mapping[str, np.ndarray],
    levels: Sequence[str],
) -> pd.DataFrame:
    """Micro-F1 of each arm, a row each, with labels cut to each IPC level, a column each.

    Parameters
    ----------
    y_true, y_preds
        (N, C) bool, and for each arm (S, N, C) bool; the mean over seeds is given.
    """
    rows: dict[str, dict[str, float]] = {arm: {} for arm in y_preds}
    for level in levels:
        _, contains = label_space.rolled_up(level)
        contains = contains.astype(np.float32)  # (C, C')
        truth = (y_true @ contains) > 0
        for arm, preds in y_preds.items():
            scores = [f1_scores(truth, (p @ contains) > 0)["micro_f1"] for p in preds]
            rows[arm][level] = float(np.mean(scores))
    return pd.DataFrame.from_dict(rows, orient="index")


def run_metrics(
    y_true: Sequence[Sequence[str]],
    y_pred: Sequence[Sequence[str]],
    scores: np.ndarray,
    label_space: LabelSpace,
    *,
    multi_label: bool,
    probabilities: bool,
    threshold: float | None = None,
) -> dict[str, float | int | None]:
    """`metrics.json` of a run: a value for every key, None where it does not apply.

    Parameters
    ----------
    y_true, y_pred
        Label lists of N test documents. An empty prediction is an answer outside the label set.
    scores
        (N, C) float; `probabilities` tells whether they are probabilities, for calibration.
    threshold
        At which scores became label sets; None where sets were generated or one label is chosen.
    """
    truth, preds = label_space.encode(y_true), label_space.encode(y_pred)
    values = dict.fromkeys(("ece", *RANKING_METRICS))
    if multi_label and threshold is not None:  # a generated set has no ranking
        values |= ranking_metrics(truth, scores)
    elif probabilities and not multi_label:
        correct = (truth & preds).any(axis=1)
        values["ece"] = expected_calibration_error(scores.max(axis=1), correct)
    return (
        f1_scores(truth, preds)
        | {"num_test": len(truth), "num_labels": len(label_space)}
        | {"num_labels_without_test": int((~truth.any(axis=0)).sum())}
        | {"out_of_set_rate": float((~preds.any(axis=1)).mean()), "threshold": threshold}
        | values
    )
