"""F1 and the other numbers that a run is judged by, most of them counted by scikit-learn.

Arrays of documents by labels are dense, or sparse where there are thousands of labels
(`data.labels.DENSE_LABELS`): then a row of scores holds the same number of labels, its best ones.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.sparse import csr_array, csr_matrix, issparse
from scipy.special import expit
from sklearn.metrics import accuracy_score, f1_score

from lib.data.labels import LabelSpace

RANKING_METRICS = (
    *(f"precision_at_{k}" for k in (1, 3, 5)),
    "ndcg_at_5",
    *(f"psp_at_{k}" for k in (1, 3, 5)),
)
PROPENSITY_A, PROPENSITY_B = 0.55, 1.5  # of Jain et al. 2016, for data they have no values for

Labels = np.ndarray | csr_array  # (N, C) bool
Scores = np.ndarray | csr_array  # (N, C) float


def f1_scores(y_true: Labels, y_pred: Labels) -> dict[str, float]:
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
    if issparse(y_true):  # scikit-learn subtracts them, which bool cannot
        y_true, y_pred = (csr_matrix(y, dtype=np.int8) for y in (y_true, y_pred))
    columns = None
    if (
        y_true.shape[1] == 1
    ):  # one label that applies or not: scikit-learn takes two columns or more
        y_true, y_pred = (np.pad(y, ((0, 0), (0, 1))) for y in (y_true, y_pred))
        columns = [0]
    averages = ("micro", "macro", "weighted", "samples")
    scores = {
        f"{average}_f1": float(
            # An empty set that is predicted as such is right.
            f1_score(
                y_true,
                y_pred,
                labels=columns,
                average=average,
                zero_division=int(average == "samples"),
            )
        )
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


def softmax(logits: Scores) -> Scores:
    """Probabilities over labels, (N, C) float32, of logits or whole-label log-likelihoods.

    Of a sparse array, over the labels that it holds.
    """
    values = _rows(logits)
    shifted = np.exp(values - values.max(axis=1, keepdims=True))
    probs = (shifted / shifted.sum(axis=1, keepdims=True)).astype(np.float32)
    return _like(logits, probs)


def sigmoid(logits: Scores) -> Scores:
    """Probabilities of each label on its own, (N, C) float32, of logits."""
    return _like(logits, expit(_rows(logits)).astype(np.float32))


def decode_sets(scores: Scores, threshold: float, *, may_be_empty: bool = False) -> Labels:
    """Label sets, (N, C) bool: every label that scores at least the threshold, and the best one.

    The best one is left out, too, where sets `may_be_empty` in the study (`LabelSpace.none`).
    """
    values = _rows(scores)
    preds = values >= threshold
    if not may_be_empty:
        preds[np.arange(len(values)), values.argmax(axis=1)] = True
    chosen = _like(scores, preds)
    if issparse(chosen):
        chosen.eliminate_zeros()
    return chosen


def _rows(scores: Scores) -> np.ndarray:
    """The scores as (N, K): all of them, K = C, or those that a sparse array holds."""
    return scores.data.reshape(scores.shape[0], -1) if issparse(scores) else scores


def _like(scores: Scores, values: np.ndarray) -> Scores:
    """(N, K) values where `_rows(scores)` stand."""
    if not issparse(scores):
        return values
    where = (scores.indices.copy(), scores.indptr.copy())
    return csr_array((values.ravel(), *where), shape=scores.shape)


def _hits(y_true: Labels, scores: Scores, k: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Labels by falling score, the first k of each document, and which of them are true, (N, K)."""
    values = _rows(scores)
    order = np.argsort(-values, axis=1, kind="stable")[:, :k]
    labels = order
    if issparse(scores):
        labels = np.take_along_axis(scores.indices.reshape(values.shape), order, axis=1)
    if issparse(y_true):
        rows = np.repeat(np.arange(len(labels)), labels.shape[1])
        return labels, np.asarray(y_true[rows, labels.ravel()]).reshape(labels.shape).astype(bool)
    return labels, np.take_along_axis(y_true, labels, axis=1)


def tune_thresholds(y_true: Labels, scores: Scores, *, may_be_empty: bool = False) -> float:
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
    _, hits = _hits(y_true, scores)
    values = -np.sort(-_rows(scores), axis=1, kind="stable")
    # The best label of each document is given in any case; the others, in order of their scores.
    given = 0 if may_be_empty else 1
    order = np.argsort(-values[:, given:].ravel(), kind="stable")
    ranked, further = values[:, given:].ravel()[order], hits[:, given:].ravel()[order]
    num_predicted = given * len(values) + np.arange(len(ranked) + 1)
    true_positives = hits[:, :given].sum() + np.concatenate([[0], np.cumsum(further)])
    micro_f1 = 2 * true_positives / np.maximum(num_predicted + y_true.sum(), 1)
    # Between two equal scores no threshold can be drawn.
    micro_f1[1:-1][ranked[:-1] == ranked[1:]] = -1
    cut = int(micro_f1.argmax())  # how many are predicted besides the best ones
    if cut == 0:
        return float(np.nextafter(ranked[0], ranked.dtype.type(np.inf)))
    if cut == len(ranked):
        return float(ranked[-1])
    middle = ranked[cut - 1] / 2 + ranked[cut] / 2
    return float(middle if middle > ranked[cut] else ranked[cut - 1])


def ranking_metrics(
    y_true: Labels, scores: Scores, *, train_counts: np.ndarray, num_train: int
) -> dict[str, float]:
    """P@k and propensity-scored P@k at 1, 3 and 5, and nDCG@5, each in [0, 1], by `scores`.

    P@k = share of true labels among the k that score highest, mean over documents; nDCG@5 with
    binary relevance (Prabhu & Varma 2014, section 4). PSP@k weighs a hit by the inverse propensity
    of its label and is divided by what the best ranking would get (Jain, Prabhu & Varma 2016,
    section 5).

    Parameters
    ----------
    y_true
        (N, C) bool.
    scores
        (N, C) float, the higher the likelier.
    train_counts, num_train
        (C,) training documents of each label, and all of them, for the propensities.
    """
    labels, hits = _hits(y_true, scores, 5)  # (N, 5)
    num_documents = len(hits)
    discounts = 1 / np.log2(np.arange(2, 7))
    num_true = np.asarray(y_true.sum(axis=1)).ravel()
    ideal = np.concatenate([[0], discounts.cumsum()])[np.minimum(num_true, 5)]
    gained = hits @ discounts[: hits.shape[1]]
    ndcg = np.divide(gained, ideal, out=np.zeros(num_documents), where=ideal > 0).mean()
    metrics = {f"precision_at_{k}": hits[:, :k].sum() / (k * num_documents) for k in (1, 3, 5)}
    weights = inverse_propensities(train_counts, num_train)
    true = csr_array(y_true)
    best = np.zeros((num_documents, 5))
    for i, row in enumerate(np.split(true.indices, true.indptr[1:-1])):
        top = np.sort(weights[row])[::-1][:5]
        best[i, : len(top)] = top
    metrics["ndcg_at_5"] = ndcg
    for k in (1, 3, 5):
        attainable = best[:, :k].sum()
        found = (hits[:, :k] * weights[labels[:, :k]]).sum()
        metrics[f"psp_at_{k}"] = found / attainable if attainable else 0.0
    return {name: float(value) for name, value in metrics.items()}


def inverse_propensities(train_counts: np.ndarray, num_train: int) -> np.ndarray:
    """1 + C (n + B)^-A for each label, (C,) float64, C = (log N - 1) (B + 1)^A.

    The inverse of the chance that a label that applies has been assigned (Jain, Prabhu & Varma
    2016, equation 3, with A = 0.55 and B = 1.5).
    """
    scale = (np.log(num_train) - 1) * (PROPENSITY_B + 1) ** PROPENSITY_A
    return 1 + scale * (np.asarray(train_counts) + PROPENSITY_B) ** -PROPENSITY_A


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
    if raw.ndim == 1 and len(known) == 2:  # one decision value, for the second of them
        raw = np.stack([-raw, raw], axis=1)
    raw = raw.reshape(len(raw), -1)[:, -len(known) :]  # of a single label, the one that it applies
    scores = np.full((len(raw), num_labels), 0.0 if probabilities else raw.min())
    scores[:, known] = raw
    return scores


def without_luck(scores: dict[str, float], outside: np.ndarray, y_true: Labels) -> dict[str, float]:
    """Scores in which an answer outside the set is not the right one where no label is true.

    Parameters
    ----------
    scores
        Of `f1_scores`, which sees no label in both.
    outside
        (N,) bool: whose answer is outside the set.
    y_true
        (N, C) bool.
    """
    lucky = outside & (np.asarray(y_true.sum(axis=1)).ravel() == 0)
    less = {name: scores[name] - lucky.mean() for name in ("accuracy", "samples_f1")}
    return scores | {name: float(value) for name, value in less.items()}


def run_metrics(
    y_true: Sequence[Sequence[str]],
    y_pred: Sequence[Sequence[str]],
    scores: Scores,
    label_space: LabelSpace,
    *,
    multi_label: bool,
    probabilities: bool,
    threshold: float | None = None,
    train_counts: np.ndarray,
    num_train: int,
) -> dict[str, float | int | None]:
    """`metrics.json` of a run: a value for every key, None where it does not apply.

    In `macro_f1`, `num_labels_without_test` labels count 0; `macro_f1_supported` is the mean over
    the others.

    Parameters
    ----------
    y_true, y_pred
        Label lists of N test documents. An empty prediction is an answer outside the label set,
        or, where label sets may be empty (`LabelSpace.none`), the empty set.
    scores
        (N, C) float; `probabilities` tells whether they are probabilities, for calibration.
    threshold
        At which scores became label sets; None where sets were generated or one label is chosen.
    train_counts, num_train
        See `ranking_metrics`.
    """
    truth, preds = label_space.encode(y_true), label_space.encode(y_pred)
    values = dict.fromkeys(("ece", *RANKING_METRICS))
    if multi_label and threshold is not None:  # a generated set has no ranking
        values |= ranking_metrics(truth, scores, train_counts=train_counts, num_train=num_train)
    elif probabilities and not multi_label:
        correct = np.array([a == b for a, b in zip(y_true, y_pred, strict=True)])
        values["ece"] = expected_calibration_error(_rows(scores).max(axis=1), correct)
    num_absent = int((np.asarray(truth.sum(axis=0)).ravel() == 0).sum())
    scores_of_labels = f1_scores(truth, preds)
    supported = scores_of_labels["macro_f1"] * len(label_space) / (len(label_space) - num_absent)
    empty = np.asarray(preds.sum(axis=1)).ravel() == 0
    if label_space.none:  # then an empty set is an answer; an answer outside the set holds ""
        empty = np.array([len(row) > 0 for row in y_pred]) & empty
        scores_of_labels = without_luck(scores_of_labels, empty, truth)
    return (
        scores_of_labels
        | {"macro_f1_supported": supported}
        | {"num_test": len(y_true), "num_labels": len(label_space)}
        | {"num_labels_without_test": num_absent}
        | {"out_of_set_rate": float(empty.mean()), "threshold": threshold}
        | values
    )
