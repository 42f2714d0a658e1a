import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.svm import LinearSVC

from lib.runs.estimators import label_scores


def test_labels_that_a_classifier_does_not_know_score_lowest():
    inputs, targets = np.array([[0.0], [1.0], [0.1], [0.9]]), np.array([1, 3, 1, 3])
    model = LogisticRegression().fit(inputs, targets)
    scores = label_scores(model, inputs, np.array([1, 3]), 4)
    assert scores.best().tolist() == targets.tolist()
    assert (scores.values[:, [0, 2]] == 0).all()


def test_one_decision_value_of_two_classes_is_that_of_the_second():
    inputs, targets = np.array([[0.0], [1.0], [0.1], [0.9]]), np.array([1, 3, 1, 3])
    model = LinearSVC().fit(inputs, targets)
    scores = label_scores(model, inputs, np.array([1, 3]), 4)
    assert scores.best().tolist() == targets.tolist()
    assert (scores.values[:, 1] == -scores.values[:, 3]).all()


def test_a_single_label_has_one_column_of_scores():
    X, y = np.arange(20.0)[:, None], np.arange(20)[:, None] >= 10
    model = OneVsRestClassifier(LinearSVC()).fit(X, y)
    scores = label_scores(model, X, np.array([0]), 1)
    assert scores.shape == (20, 1)
    assert scores.values[-1, 0] > scores.values[0, 0]
