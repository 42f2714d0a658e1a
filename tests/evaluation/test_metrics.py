import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.sparse import csr_array
from sklearn.metrics import f1_score, ndcg_score, precision_recall_fscore_support

from lib.data.labels import LabelSpace
from lib.evaluation.metrics import (
    f1_by_label,
    f1_scores,
    ranking_metrics,
    run_metrics,
    tune_threshold,
)
from lib.evaluation.scores import Scores

SPACE = LabelSpace(("a", "b", "c", "d"))


def metrics_of(y_true, y_pred, scores, space=SPACE, **options):
    """`run_metrics` of label lists."""
    options |= {"outside": space.outside(y_pred)}
    return run_metrics(space.encode(y_true), space.encode(y_pred), Scores(scores), **options)


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
    """2 of 4 labels have no test document."""
    answers = [["a"], ["b"]]
    metrics = metrics_of(answers, answers, np.eye(2, 4), multi_label=False, probabilities=True)
    assert metrics["micro_f1"] == 1
    assert metrics["macro_f1"] == 0.5
    assert metrics["macro_f1_supported"] == 1
    assert metrics["num_labels_without_test"] == 2


def test_answers_outside_the_set_are_errors_and_counted():
    metrics = metrics_of(
        [["a"], ["b"], ["a"], ["c"]], [["a"], [], [], ["c"]], np.zeros((4, 4)),
        multi_label=False, probabilities=False,
    )  # fmt: skip
    assert metrics["out_of_set_rate"] == 0.5
    assert metrics["accuracy"] == 0.5
    assert metrics["ece"] is None


scored = st.integers(2, 12).flatmap(
    lambda n: st.tuples(
        hnp.arrays(bool, (n, 4)),
        hnp.arrays(np.float32, (n, 4), elements=st.floats(-8, 8, width=16)),
    )
)


@settings(max_examples=40)
@given(scored)
def test_no_other_threshold_has_a_better_micro_f1(arrays):
    truth, scores = arrays[0], Scores(arrays[1])
    threshold = tune_threshold(truth, scores)

    def micro_f1(value):
        return f1_scores(truth, scores.labels_above(value))["micro_f1"]

    values = np.unique(scores.values)
    middles = (values[1:] + values[:-1]) / 2
    everywhere = [micro_f1(value) for value in (*values, *middles, np.inf)]
    assert micro_f1(threshold) == pytest.approx(max(everywhere))


def test_ranking_by_hand():
    """Hits at ranks 1 and 3 of the first, none of the second; nDCG by its definition."""
    truth = np.array([[1, 0, 1, 0, 0, 0], [0, 0, 0, 0, 0, 1]], dtype=bool)
    metrics = ranking_metrics(truth, Scores(np.array([[0.9, 0.8, 0.7, 0.3, 0.2, 0.1]] * 2)))
    assert metrics["precision_at_1"] == 1 / 2
    assert metrics["precision_at_3"] == pytest.approx(2 / 6)
    assert metrics["precision_at_5"] == pytest.approx(2 / 10)
    ideal = 1 + 1 / np.log2(3)
    assert metrics["ndcg_at_5"] == pytest.approx((1 + 1 / np.log2(4)) / ideal / 2)


@settings(max_examples=30)
@given(scored)
def test_the_best_scores_give_what_all_scores_give(arrays):
    """Where the best ones are all; nDCG as scikit-learn has it, but for ties."""
    truth, values = arrays
    truth[:, 0] = True
    values = values + np.arange(4, dtype=np.float32) / 64
    assume(all(len(set(row)) == 4 for row in values.tolist()))  # no ties within a document
    order = np.argsort(-values, axis=1)
    whole, best = Scores(values), Scores(np.take_along_axis(values, order, 1), order, 4)
    sparse = csr_array(truth)
    metrics = ranking_metrics(truth, whole)
    assert ranking_metrics(sparse, best) == pytest.approx(metrics)
    assert metrics["ndcg_at_5"] == pytest.approx(ndcg_score(truth, values, k=5))
    threshold = tune_threshold(truth, whole)
    assert tune_threshold(sparse, best) == threshold
    preds = best.labels_above(threshold)
    assert np.array_equal(preds.toarray(), whole.labels_above(threshold))
    assert f1_scores(sparse, preds) == f1_scores(truth, preds.toarray())
    assert np.array_equal(best.best(), whole.best())
    for name in ("softmax", "sigmoid"):
        probs = getattr(whole, name)().values
        expected = np.take_along_axis(probs, order, 1)
        np.testing.assert_allclose(getattr(best, name)().values, expected, rtol=1e-5)


def test_ranking_and_threshold_are_given_where_label_sets_are_scored():
    truth, scores = [["a", "b"], ["c"]], np.array([[0.9, 0.6, 0.1, 0], [0.1, 0.2, 0.7, 0]])
    options = {"multi_label": True, "probabilities": True}
    metrics = metrics_of(truth, truth, scores, threshold=0.5, **options)
    assert (metrics["threshold"], metrics["precision_at_1"], metrics["ece"]) == (0.5, 1, None)
    generated = metrics_of(truth, truth, scores, **options)
    assert generated["threshold"] is generated["precision_at_1"] is None


def test_empty_label_sets_are_predicted_and_counted_where_the_study_has_them():
    y = np.array([[1, 0], [0, 0], [0, 0], [1, 1]], dtype=bool)
    scores = Scores(np.array([[0.9, 0.2], [0.3, 0.1], [0.2, 0.1], [0.8, 0.7]]))
    threshold = tune_threshold(y, scores, may_be_empty=True)
    assert (scores.labels_above(threshold, may_be_empty=True) == y).all()
    assert f1_scores(y, y) == dict.fromkeys(f1_scores(y, y), 1.0)
    assert scores.labels_above(threshold).sum(axis=1).tolist() == [1, 1, 1, 2]


def test_one_label_that_applies_or_not_is_counted():
    y = np.array([[1], [0], [0], [1]], dtype=bool)
    pred = np.array([[1], [0], [1], [0]], dtype=bool)
    found = f1_scores(y, pred)
    assert found["micro_f1"] == found["macro_f1"] == found["weighted_f1"] == 0.5
    assert found["samples_f1"] == found["accuracy"] == 0.5


def test_documents_without_any_label_have_scores_of_zero():
    nothing, scores = np.zeros((5, 3), dtype=bool), Scores(np.full((5, 3), 0.2, np.float32))
    options = {"outside": np.zeros(5, dtype=bool), "multi_label": True, "probabilities": True}
    metrics = run_metrics(nothing, nothing, scores, threshold=0.5, **options)
    assert metrics["num_labels_without_test"] == 3
    assert metrics["micro_f1"] == metrics["macro_f1_supported"] == 0


def test_a_label_that_every_document_gets_has_a_threshold():
    scores, always = (
        Scores(np.linspace(0, 1, 5, dtype=np.float32)[:, None]),
        np.ones((5, 1), dtype=bool),
    )
    threshold = tune_threshold(always, scores)
    assert np.isfinite(threshold)
    assert (scores.labels_above(threshold) == always).all()


def test_an_answer_outside_the_set_is_not_the_empty_set():
    space = LabelSpace(("a", "b"), none="none")
    options = {"space": space, "multi_label": True, "probabilities": False}
    truth, scores = [["a"], [], []], np.zeros((3, 2))
    said_none = metrics_of(truth, [["a"], [], []], scores, **options)
    outside = metrics_of(truth, [["a"], [], [""]], scores, **options)
    assert (said_none["accuracy"], said_none["samples_f1"]) == (1.0, 1.0)
    assert outside["accuracy"] == outside["samples_f1"] == pytest.approx(2 / 3)
    assert outside["out_of_set_rate"] == pytest.approx(1 / 3)


def test_f1_by_label_is_scikit_learns_mean_over_seeds():
    generator = np.random.default_rng(0)
    y_true, y_preds = generator.random((50, 7)) < 0.2, generator.random((3, 50, 7)) < 0.3
    y_true[:, 3] = y_preds[..., 3] = False  # a label that nobody has
    options = {"average": None, "zero_division": 0}
    expected = np.mean([f1_score(y_true, y_pred, **options) for y_pred in y_preds], axis=0)
    np.testing.assert_allclose(f1_by_label(y_true, y_preds), expected)
