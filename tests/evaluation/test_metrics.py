import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.sparse import csr_array
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import ndcg_score, precision_recall_fscore_support
from sklearn.multiclass import OneVsRestClassifier
from sklearn.svm import LinearSVC

from lib.data.labels import LabelSpace
from lib.evaluation.metrics import (
    decode_sets,
    expected_calibration_error,
    f1_scores,
    inverse_propensities,
    label_scores,
    ranking_metrics,
    run_metrics,
    sigmoid,
    softmax,
    tune_thresholds,
)

SPACE = LabelSpace(("a", "b", "c", "d"))
COUNTS = {"train_counts": np.array([5, 3, 1, 0]), "num_train": 9}


def test_f1_by_hand():
    """a: TP 2, FP 1, FN 0 -> 4/5. b: TP 1, FP 0, FN 1 -> 2/3. c: TP 0, FP 0, FN 1 -> 0. d: 0."""
    truth = SPACE.encode([["a"], ["a"], ["b"], ["b"], ["c"]])
    preds = SPACE.encode([["a"], ["a"], ["b"], ["a"], []])
    scores = f1_scores(truth, preds)
    assert scores["micro_f1"] == pytest.approx(2 * 3 / (2 * 3 + 1 + 2))
    assert scores["macro_f1"] == pytest.approx((4 / 5 + 2 / 3 + 0 + 0) / 4)
    assert scores["weighted_f1"] == pytest.approx((2 * 4 / 5 + 2 * 2 / 3) / 5)
    assert scores["accuracy"] == scores["samples_f1"] == pytest.approx(3 / 5)


multi_hot = st.integers(1, 12).flatmap(
    lambda n: st.tuples(hnp.arrays(bool, (n, 4)), hnp.arrays(bool, (n, 4)))
)


@given(multi_hot)
def test_f1_is_two_tp_over_two_tp_fp_fn(arrays):
    truth, preds = arrays
    tp, fp, fn = (truth & preds).sum(0), (~truth & preds).sum(0), (truth & ~preds).sum(0)
    per_label = 2 * tp / np.maximum(2 * tp + fp + fn, 1)
    scores = f1_scores(truth, preds)
    assert scores["macro_f1"] == pytest.approx(per_label.mean())
    total = (2 * tp + fp + fn).sum()
    assert scores["micro_f1"] == pytest.approx(2 * tp.sum() / total if total else 0)
    expected = precision_recall_fscore_support(truth, preds, average="weighted", zero_division=0)
    assert scores["weighted_f1"] == pytest.approx(expected[2])


def test_absent_labels_stay_in_the_macro_mean_and_are_reported():
    """TRAPS 22: 2 of 4 labels have no test document."""
    metrics = run_metrics([["a"], ["b"]], [["a"], ["b"]], np.eye(2, 4), SPACE,
                          multi_label=False, probabilities=True, **COUNTS)  # fmt: skip
    assert metrics["micro_f1"] == 1
    assert metrics["macro_f1"] == 0.5
    assert metrics["macro_f1_supported"] == 1
    assert metrics["num_labels_without_test"] == 2


def test_answers_outside_the_set_are_errors_and_counted():
    """TRAPS 13."""
    metrics = run_metrics(
        [["a"], ["b"], ["a"], ["c"]], [["a"], [], [], ["c"]], np.zeros((4, 4)), SPACE,
        multi_label=False, probabilities=False, **COUNTS,
    )  # fmt: skip
    assert metrics["out_of_set_rate"] == 0.5
    assert metrics["accuracy"] == 0.5
    assert metrics["ece"] is None


def test_calibration_error_by_hand():
    """Two bins of two: |0.55 - 0.5| and |0.9 - 1|, so (0.05 + 0.1) / 2."""
    probs = np.array([0.9, 0.5, 0.6, 0.9])
    correct = np.array([True, False, True, True])
    assert expected_calibration_error(probs, correct, num_bins=2) == pytest.approx(0.075)
    with pytest.raises(ValueError, match="probabilities"):
        expected_calibration_error(probs * 2, correct)


def test_softmax_is_stable_for_large_and_very_unlikely_logits():
    probs = softmax(np.array([[1e4, 0.0], [-900.0, -900.0]]))
    np.testing.assert_allclose(probs, [[1, 0], [0.5, 0.5]])


scored = st.integers(2, 12).flatmap(
    lambda n: st.tuples(
        hnp.arrays(bool, (n, 4)),
        hnp.arrays(np.float32, (n, 4), elements=st.floats(-8, 8, width=16)),
    )
)


@settings(max_examples=40)
@given(scored)
def test_no_other_threshold_has_a_better_micro_f1(arrays):
    truth, scores = arrays
    threshold = tune_thresholds(truth, scores)

    def micro_f1(value):
        return f1_scores(truth, decode_sets(scores, value))["micro_f1"]

    values = np.unique(scores)
    middles = (values[1:] + values[:-1]) / 2
    everywhere = [micro_f1(value) for value in (*values, *middles, np.inf)]
    assert micro_f1(threshold) == pytest.approx(max(everywhere))


def test_a_set_is_never_empty_and_holds_what_reaches_the_threshold():
    scores = np.array([[0.9, 0.6, 0.1, 0.5], [0.1, 0.3, 0.2, 0.0]])
    sets = decode_sets(scores, 0.5)
    assert SPACE.to_names(sets) == [["a", "b", "d"], ["b"]]


def test_ranking_by_hand():
    """Hits at ranks 1 and 3 of the first, none of the second; nDCG by its definition."""
    truth = np.array([[1, 0, 1, 0, 0, 0], [0, 0, 0, 0, 0, 1]], dtype=bool)
    scores = np.array([[0.9, 0.8, 0.7, 0.3, 0.2, 0.1]] * 2)
    metrics = ranking_metrics(truth, scores, train_counts=np.array([9, 1, 2, 0, 0, 1]), num_train=9)
    assert metrics["precision_at_1"] == 1 / 2
    assert metrics["precision_at_3"] == pytest.approx(2 / 6)
    assert metrics["precision_at_5"] == pytest.approx(2 / 10)
    ideal = 1 + 1 / np.log2(3)
    assert metrics["ndcg_at_5"] == pytest.approx((1 + 1 / np.log2(4)) / ideal / 2)


def test_propensities_by_hand():
    """C = (log 9 - 1) 2.5^0.55; the labels hit have 9 and 2 training documents."""
    c = (np.log(9) - 1) * 2.5**0.55
    weights = inverse_propensities(np.array([9, 1, 2, 0, 0, 1]), 9)
    np.testing.assert_allclose(weights[[0, 2]], 1 + c * np.array([10.5, 3.5]) ** -0.55)
    truth = np.array([[1, 0, 1, 0, 0, 0], [0, 0, 0, 0, 0, 1]], dtype=bool)
    scores = np.array([[0.9, 0.8, 0.7, 0.3, 0.2, 0.1]] * 2)
    metrics = ranking_metrics(truth, scores, train_counts=np.array([9, 1, 2, 0, 0, 1]), num_train=9)
    assert metrics["psp_at_1"] == pytest.approx(weights[0] / (weights[2] + weights[5]))
    assert metrics["psp_at_3"] == pytest.approx(
        (weights[0] + weights[2]) / (weights[0] + weights[2] + weights[5])
    )


@given(scored)
def test_sparse_scores_give_what_dense_ones_give(arrays):
    """Where the sparse array holds every label; nDCG as scikit-learn has it, but for ties."""
    truth, scores = arrays
    truth[:, 0] = True
    scores = scores + np.arange(4, dtype=np.float32) / 64
    assume(all(len(set(row)) == 4 for row in scores.tolist()))  # no ties within a document
    order = np.argsort(-scores, axis=1)
    sparse = csr_array(
        (
            np.take_along_axis(scores, order, 1).ravel(),
            order.ravel(),
            np.arange(len(scores) + 1) * 4,
        ),
        shape=scores.shape,
    )
    options = {"train_counts": np.array([5, 3, 1, 0]), "num_train": 9}
    dense = ranking_metrics(truth, scores, **options)
    assert ranking_metrics(csr_array(truth), sparse, **options) == pytest.approx(dense)
    assert dense["ndcg_at_5"] == pytest.approx(ndcg_score(truth, scores, k=5))
    threshold = tune_thresholds(truth, scores)
    assert tune_thresholds(csr_array(truth), sparse) == threshold
    preds = decode_sets(sparse, threshold)
    assert np.array_equal(preds.toarray(), decode_sets(scores, threshold))
    assert f1_scores(csr_array(truth), preds) == pytest.approx(f1_scores(truth, preds.toarray()))
    for function in (softmax, sigmoid):
        np.testing.assert_allclose(function(sparse).toarray(), function(scores), rtol=1e-5)


def test_ranking_and_threshold_are_given_where_label_sets_are_scored():
    truth, scores = [["a", "b"], ["c"]], np.array([[0.9, 0.6, 0.1, 0], [0.1, 0.2, 0.7, 0]])
    options = {"multi_label": True, "probabilities": True} | COUNTS
    metrics = run_metrics(truth, truth, scores, SPACE, threshold=0.5, **options)
    assert (metrics["threshold"], metrics["precision_at_1"], metrics["ece"]) == (0.5, 1, None)
    generated = run_metrics(truth, truth, scores, SPACE, **options)
    assert generated["threshold"] is generated["precision_at_1"] is None


def test_labels_that_a_classifier_does_not_know_score_lowest():
    inputs, targets = np.array([[0.0], [1.0], [0.1], [0.9]]), np.array([1, 3, 1, 3])
    model = LogisticRegression().fit(inputs, targets)
    scores = label_scores(model, inputs, np.array([1, 3]), 4)
    assert scores.argmax(axis=1).tolist() == targets.tolist()
    assert (scores[:, [0, 2]] == 0).all()


def test_empty_label_sets_are_predicted_and_counted_where_the_study_has_them():
    y = np.array([[1, 0], [0, 0], [0, 0], [1, 1]], dtype=bool)
    scores = np.array([[0.9, 0.2], [0.3, 0.1], [0.2, 0.1], [0.8, 0.7]])
    threshold = tune_thresholds(y, scores, may_be_empty=True)
    assert (decode_sets(scores, threshold, may_be_empty=True) == y).all()
    assert f1_scores(y, y) == dict.fromkeys(f1_scores(y, y), 1.0)
    assert decode_sets(scores, threshold).sum(axis=1).tolist() == [1, 1, 1, 2]


def test_the_word_for_an_empty_set_is_no_label_of_the_study():
    splits = DatasetDict(
        {s: Dataset.from_dict({"labels": [["None"], ["b"], []]}) for s in ("train", "test")}
    )
    space = LabelSpace.from_splits(splits)
    assert (space.names, space.none) == (("None", "b"), "no label")
    assert LabelSpace.from_splits(splits.map(lambda row: {"labels": ["b"]})).none == ""


def test_a_single_label_has_one_column_of_scores():
    X, y = np.arange(20.0)[:, None], np.arange(20)[:, None] >= 10
    model = OneVsRestClassifier(LinearSVC()).fit(X, y)
    scores = label_scores(model, X, np.array([0]), 1)
    assert scores.shape == (20, 1)
    assert scores[-1, 0] > scores[0, 0]


def test_one_label_that_applies_or_not_is_counted():
    y = np.array([[1], [0], [0], [1]], dtype=bool)
    pred = np.array([[1], [0], [1], [0]], dtype=bool)
    found = f1_scores(y, pred)
    assert found["micro_f1"] == found["macro_f1"] == found["weighted_f1"] == 0.5
    assert found["samples_f1"] == found["accuracy"] == 0.5


def test_an_answer_outside_the_set_is_not_the_empty_set():
    space = LabelSpace(("a", "b"), none="none")
    options = {"multi_label": True, "probabilities": False}
    options |= {"train_counts": np.array([1, 1]), "num_train": 2}
    truth, scores = [["a"], [], []], np.zeros((3, 2))
    said_none = run_metrics(truth, [["a"], [], []], scores, space, **options)
    outside = run_metrics(truth, [["a"], [], [""]], scores, space, **options)
    assert (said_none["accuracy"], said_none["samples_f1"]) == (1.0, 1.0)
    assert outside["accuracy"] == outside["samples_f1"] == pytest.approx(2 / 3)
    assert outside["out_of_set_rate"] == pytest.approx(1 / 3)
