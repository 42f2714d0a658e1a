import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import precision_recall_fscore_support

from lib.data import LabelSpace
from lib.metrics import expected_calibration_error, f1_scores, run_metrics, softmax

SPACE = LabelSpace(("a", "b", "c", "d"))


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
    metrics = run_metrics([["a"], ["b"]], [["a"], ["b"]], np.eye(2, 4), SPACE, probabilities=True)
    assert metrics["micro_f1"] == 1
    assert metrics["macro_f1"] == 0.5
    assert metrics["num_labels_without_test"] == 2


def test_answers_outside_the_set_are_errors_and_counted():
    """TRAPS 13."""
    metrics = run_metrics(
        [["a"], ["b"], ["a"], ["c"]], [["a"], [], [], ["c"]], np.zeros((4, 4)), SPACE,
        probabilities=False,
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
