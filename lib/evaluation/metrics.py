"""F1 and the other numbers that a run is judged by; scikit-learn computes F1 and accuracy."""

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
        (N,) bool: True where a generated answer names no label of the list. Its row of `y_pred` is
        empty, and it counts as wrong even if the true label set is empty too.

    Notes
    -----
    F1 = 2 TP / (2 TP + FP + FN). A label with neither test documents nor predictions counts 0 in
    macro-F1 (`zero_division=0`): the label list is the study's, not the test split's. Accuracy is
    the share of documents whose whole label set is right. With one label per document and exactly
    one prediction each, micro-F1 equals accuracy; an empty prediction lowers recall alone.
    """
    # int8, as scikit-learn subtracts sparse arrays, which is not defined for bool
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
    """The threshold, the same for all labels, at which `Scores.labels_above` has the best micro-F1.

    One threshold per label would rest, for rare labels, on a handful of documents (Yang, "A study
    of thresholding strategies", 2001, on overfitting by SCut). `y_true` (N, C) bool and `scores`
    are of the validation split; `may_be_empty` is true if a document may have no label.
    """
    values, hits = scores.ranked(y_true)
    # The best label of each document is given in any case, unless sets may be empty; the others are
    # given from the highest score on.
    given = 0 if may_be_empty else 1
    order = np.argsort(-values[:, given:].ravel(), kind="stable")
    ranked, further = values[:, given:].ravel()[order], hits[:, given:].ravel()[order]
    if not len(ranked):  # there is one label, which every document gets
        return 0.0
    # micro-F1 with the first 0, 1, 2, ... of the ranked labels
    num_predicted = given * len(values) + np.arange(len(ranked) + 1)
    true_positives = hits[:, :given].sum() + np.concatenate([[0], np.cumsum(further)])
    micro_f1 = 2 * true_positives / np.maximum(num_predicted + y_true.sum(), 1)
    # no threshold lies between two equal scores: such a cut is never chosen
    micro_f1[1:-1][ranked[:-1] == ranked[1:]] = -1
    cut = int(micro_f1.argmax())
    if cut == 0:
        return float(np.nextafter(ranked[0], ranked.dtype.type(np.inf)))
    if cut == len(ranked):
        return float(ranked[-1])
    middle = ranked[cut - 1] / 2 + ranked[cut] / 2
    return float(middle if middle > ranked[cut] else ranked[cut - 1])


def ranking_metrics(y_true: Labels, scores: Scores) -> dict[str, float]:
    """Precision at 1, 3 and 5 and nDCG at 5, by the names of `RANKING_METRICS`, each in [0, 1].

    P@k is the share of true labels among the k that score highest; nDCG@5 has binary relevance
    (Prabhu & Varma 2014, section 4). Both are means over documents. `y_true` is (N, C) bool.
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

    The labels without a test document, `num_labels_without_test` of them, count 0 in `macro_f1`;
    `macro_f1_supported` is the mean over the others.

    Parameters
    ----------
    y_true, y_pred, outside
        See `f1_scores`; of the test split, as are `scores`.
    probabilities
        True if `scores` are probabilities: then a run of single labels gets an `ece`.
    threshold
        The score from which on labels are in the predicted set; None where sets were generated or
        one label is chosen.
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
    """F1 of each label, (C,) float64 in [0, 1], mean over seeds.

    It is 0 where neither truth nor predictions have the label. `y_true` is (N, C) bool, `y_preds`
    (S, N, C) bool.
    """
    double_tp = 2 * (y_true & y_preds).sum(axis=1)  # (S, C)
    return (double_tp / np.maximum(y_true.sum(axis=0) + y_preds.sum(axis=1), 1)).mean(axis=0)


def expected_calibration_error(probs: np.ndarray, correct: np.ndarray) -> float:
    """Mean gap between confidence and accuracy, in [0, 1], over 15 bins of equally many documents.

    It is the ECE of Guo et al. (arXiv 1706.04599, eq. 3) with their number of bins, which are of
    equal mass here (arXiv 1909.10155). `probs`, (N,) float, is the probability of each document's
    prediction; `correct`, (N,) bool, is true where that is right. Raises `ValueError` if a
    probability is outside [0, 1].
    """
    if not np.all((probs >= 0) & (probs <= 1)):
        raise ValueError("probs: expected probabilities in [0, 1]")
    bins = equal_bins(probs, ECE_BINS)
    gaps = [abs(probs[part].mean() - correct[part].mean()) * len(part) for part in bins]
    return float(sum(gaps) / len(probs))


def equal_bins(probs: np.ndarray, num_bins: int) -> list[np.ndarray]:
    """Indices of N documents from the least to the most confident, in `num_bins` parts.

    Parts have equally many documents, give or take one; fewer than `num_bins` documents have a part
    each. `probs` is (N,) float.
    """
    order = np.argsort(probs, kind="stable")
    return np.array_split(order, min(num_bins, len(order)))
