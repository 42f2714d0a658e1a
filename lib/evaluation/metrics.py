"""F1 and the other numbers that a run is judged by, most of them counted by scikit-learn."""

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.metrics import accuracy_score, f1_score

from lib.evaluation.scores import Labels, Scores

ECE_BINS = 15
RANKING_METRICS = ("precision_at_1", "precision_at_3", "precision_at_5", "ndcg_at_5")


def f1_scores(
    y_true: Labels, y_pred: Labels, *, outside: np.ndarray | None = None
) -> dict[str, float]:
    """Micro-, macro-, weighted and samples F1 and accuracy, each in [0, 1].

    Parameters
    ----------
    y_true, y_pred
        (N, C) bool, multi-hot over the study's fixed label list. A row of `y_pred` may be empty.
    outside
        (N,) bool: True where an answer names no label of the list, which is wrong even if no label
        is true; its row of `y_pred` is empty.

    Notes
    -----
    F1 = 2 TP / (2 TP + FP + FN). A label with neither test documents nor predictions counts 0 in
    macro-F1 (`zero_division=0`): the label list is the study's, not the test split's. Accuracy is
    the share of documents whose whole label set is right. With one label per document and exactly
    one prediction each, micro-F1 equals accuracy; an empty prediction lowers recall alone.
    """
    # scikit-learn subtracts sparse arrays, which bool cannot
    truth, preds = (csr_matrix(y, dtype=np.int8) for y in (y_true, y_pred))
    options = {}
    if truth.shape[1] == 1:  # one label that applies or not; scikit-learn takes two or more
        options["labels"] = [0]
        for y in (truth, preds):
            y.resize(len(y.indptr) - 1, 2)
    scores = {}
    for average in ("micro", "macro", "weighted", "samples"):
        empty = int(average == "samples")  # an empty set that is predicted as such is right
        f1 = f1_score(truth, preds, average=average, zero_division=empty, **options)
        scores[f"{average}_f1"] = float(f1)
    scores["accuracy"] = float(accuracy_score(truth, preds))
    if outside is not None:
        lucky = outside & (y_true.sum(axis=1) == 0)
        for name in ("accuracy", "samples_f1"):
            scores[name] = float(scores[name] - lucky.mean())
    return scores


def tune_threshold(y_true: Labels, scores: Scores, *, may_be_empty: bool = False) -> float:
    """The one threshold for all labels at which `Scores.labels_above` has the best micro-F1.

    One threshold rather than one per label: those of rare labels would rest on a handful of
    documents (Yang, "A study of thresholding strategies", 2001, on overfitting by SCut). `y_true`
    (N, C) bool is of the validation split; `may_be_empty` is true if a document may have no label.
    """
    values, hits = scores.ranked(y_true)
    # The best label of each document is given in any case; the others, in order of their scores.
    given = 0 if may_be_empty else 1
    order = np.argsort(-values[:, given:].ravel(), kind="stable")
    ranked, further = values[:, given:].ravel()[order], hits[:, given:].ravel()[order]
    if not len(ranked):  # the only label, which every document gets
        return 0.0
    # micro-F1 with the first 0, 1, 2, ... of them
    num_predicted = given * len(values) + np.arange(len(ranked) + 1)
    true_positives = hits[:, :given].sum() + np.concatenate([[0], np.cumsum(further)])
    micro_f1 = 2 * true_positives / np.maximum(num_predicted + y_true.sum(), 1)
    # no threshold lies between two equal scores
    micro_f1[1:-1][ranked[:-1] == ranked[1:]] = -1
    cut = int(micro_f1.argmax())
    if cut == 0:
        return float(np.nextafter(ranked[0], ranked.dtype.type(np.inf)))
    if cut == len(ranked):
        return float(ranked[-1])
    middle = ranked[cut - 1] / 2 + ranked[cut] / 2
    return float(middle if middle > ranked[cut] else ranked[cut - 1])


def ranking_metrics(y_true: Labels, scores: Scores) -> dict[str, float]:
    """P@k at 1, 3 and 5, and nDCG@5, each in [0, 1].

    P@k is the share of true labels among the k that score highest, mean over documents; nDCG@5 has
    binary relevance (Prabhu & Varma 2014, section 4). `y_true` is (N, C) bool.
    """
    _, hits = scores.ranked(y_true, 5)  # (N, 5), or (N, C) of fewer labels
    metrics = {f"precision_at_{k}": float(hits[:, :k].sum() / (k * len(hits))) for k in (1, 3, 5)}
    discounts = 1 / np.log2(np.arange(2, 7))
    ideal = np.concatenate([[0], discounts.cumsum()])[np.minimum(y_true.sum(axis=1), 5)]
    gained = hits @ discounts[: hits.shape[1]]
    ndcg = np.divide(gained, ideal, out=np.zeros(len(hits)), where=ideal > 0).mean()
    return metrics | {"ndcg_at_5": float(ndcg)}


def run_metrics(
    y_true: Labels,
    y_pred: Labels,
    scores: Scores,
    *,
    outside: np.ndarray,
    multi_label: bool,
    probabilities: bool,
    threshold: float | None = None,
) -> dict[str, float | int | None]:
    """`metrics.json` of a run: a value for every key, None where it does not apply.

    In `macro_f1`, `num_labels_without_test` labels count 0; `macro_f1_supported` is the mean over
    the others.

    Parameters
    ----------
    y_true, y_pred, outside
        See `f1_scores`; of the test split.
    probabilities
        True if `scores` are probabilities, for calibration.
    threshold
        At which scores became label sets; None where sets were generated or one label is chosen.
    """
    num_test, num_labels = y_true.shape
    ranking: dict[str, float | None] = dict.fromkeys(("ece", *RANKING_METRICS))
    if multi_label and threshold is not None:  # a generated set has no ranking
        ranking |= ranking_metrics(y_true, scores)
    elif probabilities and not multi_label:
        confidence = scores.values.max(axis=1)
        ranking["ece"] = expected_calibration_error(confidence, sets_equal(y_true, y_pred))
    num_absent = int((y_true.sum(axis=0) == 0).sum())
    f1 = f1_scores(y_true, y_pred, outside=outside)
    supported = f1["macro_f1"] * num_labels / max(num_labels - num_absent, 1)
    return {
        **f1,
        "macro_f1_supported": supported,
        "num_test": num_test,
        "num_labels": num_labels,
        "num_labels_without_test": num_absent,
        "out_of_set_rate": float(outside.mean()),
        "threshold": threshold,
        **ranking,
    }


def sets_equal(y_true: Labels, y_pred: Labels) -> np.ndarray:
    """(N,) bool: True where the whole label set of a document is right."""
    return (y_true != y_pred).sum(axis=1) == 0


def f1_by_label(y_true: np.ndarray, y_preds: np.ndarray) -> np.ndarray:
    """F1 of each label, (C,) float64 in [0, 1], mean over seeds, from (N, C) and (S, N, C) bool.

    0 where neither truth nor answers have the label.
    """
    double_tp = 2 * (y_true & y_preds).sum(axis=1)  # (S, C)
    return (double_tp / np.maximum(y_true.sum(axis=0) + y_preds.sum(axis=1), 1)).mean(axis=0)


def expected_calibration_error(probs: np.ndarray, correct: np.ndarray) -> float:
    """Mean gap between confidence and accuracy, in [0, 1], over 15 bins of equally many documents.

    ECE of Guo et al. (arXiv 1706.04599, eq. 3), with its number of bins and with equal-mass bins
    (arXiv 1909.10155). `probs`, (N,) float in [0, 1], are of each document's prediction, which is
    right where `correct`, (N,) bool.
    """
    if not np.all((probs >= 0) & (probs <= 1)):
        raise ValueError("probs: expected probabilities in [0, 1]")
    bins = equal_bins(probs, ECE_BINS)
    gaps = [abs(probs[part].mean() - correct[part].mean()) * len(part) for part in bins]
    return float(sum(gaps) / len(probs))


def equal_bins(probs: np.ndarray, num_bins: int) -> list[np.ndarray]:
    """Documents by their confidence (N,), in at most `num_bins` parts of equally many: indices."""
    order = np.argsort(probs, kind="stable")
    return np.array_split(order, min(num_bins, len(order)))
