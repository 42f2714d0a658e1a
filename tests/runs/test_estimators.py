import pickle

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.svm import LinearSVC

from lib.config.arms import BaselineParams
from lib.errors import ModelError
from lib.runs import estimators
from lib.runs.estimators import label_scores
from lib.runs.scoring import _frozen


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


TEXTS = [
    "cocoa prices rose",
    "grain and cocoa fell",
    "rates of banks",
    "banks and grain",
    "ｆｕｌｌ É 漢字",
]
SETS = np.array([[1, 1, 0], [1, 1, 1], [1, 0, 0], [1, 0, 1], [1, 0, 1]], dtype=bool)


OF_ALL = np.ones((5, 2), dtype=bool)  # every document has every label
TARGETS = {"sets": SETS, "one set": SETS[:, 1:2], "same sets": OF_ALL}


@pytest.fixture(params=[2, 3, *TARGETS])
def saved(request, tmp_path):
    """Parameters, fitted estimators and their folder: of classes, or of label sets."""
    several = isinstance(request.param, str)
    params = BaselineParams(label_mode="multi" if several else "single")
    vectorizer, model, _ = estimators.build_classifier(params)
    x = vectorizer.fit_transform(TEXTS)
    targets = TARGETS[request.param] if several else np.arange(5) % request.param
    model.fit(x, targets)
    learnable = np.arange(targets.shape[1] if several else request.param)
    estimators.save(vectorizer, model, learnable, tmp_path / "model")
    return params, (vectorizer, model, learnable), tmp_path / "model"


def test_a_saved_baseline_gives_the_same_scores_bit_for_bit(saved):
    params, (vectorizer, model, learnable), folder = saved
    again = estimators.load(folder, params)
    texts = [*TEXTS, "new words and cocoa prices", "none"]
    expected = label_scores(model, vectorizer.transform(texts), learnable, 4)
    found = label_scores(again[1], again[0].transform(texts), again[2], 4)
    assert found.values.tobytes() == expected.values.tobytes()


@pytest.mark.parametrize("num_classes", [2, 3, *TARGETS])
def test_a_saved_regression_gives_the_same_scores_bit_for_bit(tmp_path, num_classes):
    """Of a frozen embedding: logistic, or a perceptron of one sigmoid per label."""
    several = isinstance(num_classes, str)
    params = BaselineParams(method="frozen", label_mode="multi" if several else "single")
    scaler, model, _ = estimators.build_classifier(params)
    inputs = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    x = scaler.fit_transform(inputs)
    targets = TARGETS[num_classes] if several else np.arange(5) % num_classes
    model.fit(x, targets)
    learnable = np.arange(targets.shape[1] if several else num_classes)
    estimators.save(scaler, model, learnable, tmp_path / "model", "mean of layer -1")
    again = estimators.load(tmp_path / "model", params)
    expected = label_scores(model, scaler.transform(inputs), learnable, 4)
    found = label_scores(again.model, again.transform.transform(inputs), again.learnable, 4)
    assert found.values.tobytes() == expected.values.tobytes()
    assert again.features == "mean of layer -1"
    (tmp_path / "model" / "frozen.json").unlink()
    with pytest.raises(ModelError, match=r"holds no frozen.json: .*; run the arm again"):
        estimators.load(tmp_path / "model", params)


def test_a_frozen_embedding_of_another_layer_is_refused_before_a_model_is_loaded():
    params = BaselineParams(method="frozen", pooling_grid=["mean"], layer_grid=[1])
    with pytest.raises(ModelError, match=r"frozen.json: 'mean of layer -9' is none of the run's"):
        _frozen(params, "mean of layer -9")


@pytest.mark.parametrize("saved", [3], indirect=True)
def test_a_saved_baseline_runs_no_code_of_a_stranger(saved, tmp_path):
    class Code:
        def __reduce__(self):
            return (tmp_path.joinpath("ran").touch, ())

    params, _, folder = saved
    arrays = dict(np.load(folder / "tfidf.npz"))
    np.savez(folder / "tfidf.npz", **arrays | {"idf": np.array([Code()], dtype=object)})
    with pytest.raises(ModelError, match="Object arrays cannot be loaded"):
        estimators.load(folder, params)
    for content in (b"", b"PK", pickle.dumps(Code())):
        (folder / "tfidf.npz").write_bytes(content)
        with pytest.raises(ModelError, match=r"model: cannot be loaded") as caught:
            estimators.load(folder, params)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()
