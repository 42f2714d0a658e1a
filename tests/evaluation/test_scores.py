import numpy as np
import pytest

from lib.data.labels import LabelSpace
from lib.evaluation import Scores

SPACE = LabelSpace(("a", "b", "c", "d"))


def test_softmax_is_stable_for_large_and_very_unlikely_logits():
    probs = Scores(np.array([[1e4, 0.0], [-900.0, -900.0]])).softmax()
    np.testing.assert_allclose(probs, [[1, 0], [0.5, 0.5]])


def test_a_set_is_never_empty_and_holds_what_reaches_the_threshold():
    scores = Scores(np.array([[0.9, 0.6, 0.1, 0.5], [0.1, 0.3, 0.2, 0.0]]))
    sets = scores.labels_above(0.5)
    assert SPACE.to_names(sets) == [["a", "b", "d"], ["b"]]


@pytest.mark.parametrize("labels", [None, np.array([[2, 0], [1, 2]])])
def test_scores_come_back_from_a_table_as_they_were(labels):
    values = np.array([[0.75, 0.5], [0.25, 0.125]], dtype=np.float32)
    scores = Scores(values, labels, 0 if labels is None else 3)
    back = Scores.from_rows(scores.to_rows(), scores.num_labels)
    assert back.shape == scores.shape == ((2, 2) if labels is None else (2, 3))
    assert np.array_equal(back.values, values)
    assert np.array_equal(back.columns, scores.columns)
    assert back.best().tolist() == ([0, 0] if labels is None else [2, 1])


def test_the_best_scores_alone_are_no_array_of_all():
    assert np.array_equal(np.asarray(Scores(np.eye(2))), np.eye(2))
    with pytest.raises(ValueError, match="of 3 labels only the best 1 are kept per document"):
        np.asarray(Scores(np.ones((2, 1)), np.array([[0], [2]]), 3))
