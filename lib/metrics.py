"""F1 and the other numbers that a run is judged by, counted by scikit-learn."""

from collections.abc import Sequence

import numpy as np
from sklearn.metrics import accuracy_score, f1_score

from lib.data import LabelSpace


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


def run_metrics(
    y_true: Sequence[Sequence[str]],
    y_pred: Sequence[Sequence[str]],
    scores: np.ndarray,
    label_space: LabelSpace,
    *,
    probabilities: bool,
) -> dict[str, float | int | None]:
    """`metrics.json` of a single-label run: a value for every key, None where it does not apply.

    Parameters
    ----------
    y_true, y_pred
        Label lists of N test documents. An empty prediction is an answer outside the label set.
    scores
        (N, C) float; `probabilities` tells whether its rows are probabilities, for calibration.
    """
    truth, preds = label_space.encode(y_true), label_space.encode(y_pred)
    correct = (truth & preds).any(axis=1)
    ece = expected_calibration_error(scores.max(axis=1), correct) if probabilities else None
    not_applicable = dict.fromkeys(
        ("threshold", "precision_at_1", "precision_at_3", "precision_at_5", "ndcg_at_5")
    )
    return (
        f1_scores(truth, preds)
        | {"num_test": len(truth), "num_labels": len(label_space)}
        | {"num_labels_without_test": int((~truth.any(axis=0)).sum())}
        | {"out_of_set_rate": float((~preds.any(axis=1)).mean()), "ece": ece}
        | not_applicable
    )
