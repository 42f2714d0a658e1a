"""Scikit-learn estimators of the baselines: built, asked for scores, saved."""

import json
from functools import partial
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.base import BaseEstimator
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from lib.config.arms import BaselineParams
from lib.data.words import find_words
from lib.evaluation.scores import Scores
from lib.model.weights import unusable
from lib.storage import atomic_path, read_json

FEATURES, ARRAYS = "tfidf.json", "tfidf.npz"
# Of a vectorizer: all that decides features and weights but the words, which are this code's.
WEIGHTING = ("binary", "lowercase", "ngram_range", "norm", "smooth_idf", "sublinear_tf", "use_idf")


def build_classifier(params: BaselineParams) -> tuple[BaseEstimator, BaseEstimator, str]:
    """The transformer of features, the classifier, and the name of its penalty.

    A perceptron without hidden layer is logistic regression with one sigmoid per label.
    """
    if params.method == "tfidf":
        words = TfidfVectorizer(
            sublinear_tf=True,
            ngram_range=(1, 2),
            tokenizer=partial(find_words, least=2),  # of scripts without spaces, each character
            token_pattern=None,
        )
        svm = LinearSVC(max_iter=20_000, random_state=params.seed)
        if params.multi_label:
            return words, OneVsRestClassifier(svm), "estimator__C"
        return words, svm, "C"
    if params.multi_label:
        return StandardScaler(), MLPClassifier((), solver="lbfgs", max_iter=200), "alpha"
    return StandardScaler(), LogisticRegression(max_iter=2000), "C"


def label_scores(
    model: Any, inputs: np.ndarray | csr_matrix, learnable: np.ndarray, num_labels: int
) -> Scores:
    """A classifier's probabilities or, without any, its decision values, of all labels.

    Labels that it does not know score lowest.

    Parameters
    ----------
    inputs
        (N, F) features of N documents.
    learnable
        (K,) int, the label of each of its K classes.
    """
    several = isinstance(model, OneVsRestClassifier)  # of machines, which have none
    probabilities = not several and hasattr(model, "predict_proba")
    raw = (model.predict_proba if probabilities else model.decision_function)(inputs)
    if raw.ndim == 1 and len(learnable) == 2:  # one decision value, for the second of them
        raw = np.stack([-raw, raw], axis=1)
    raw = raw.reshape(len(raw), -1)[:, -len(learnable) :]  # of a single label: that it applies
    scores = np.full((len(raw), num_labels), 0.0 if probabilities else raw.min())
    scores[:, learnable] = raw
    return Scores(scores)


def save(
    vectorizer: TfidfVectorizer, model: BaseEstimator, learnable: np.ndarray, folder: Path
) -> None:
    """Save TF-IDF, the classifier of its F features, and (K,) the labels of its K classes.

    `tfidf.json` has the features in order and how they are weighted; `tfidf.npz` has `idf` (F,),
    `coef` (K, F), or (1, F) of two classes, `intercept` (K,), or (1,), and `learnable` (K,). There
    is no pickle, which would run code where it is read.
    """
    machines = getattr(model, "estimators_", [model])
    weights = [_weights(machine, len(vectorizer.idf_)) for machine in machines]
    vocabulary = sorted(vectorizer.vocabulary_, key=vectorizer.vocabulary_.__getitem__)
    options = {name: getattr(vectorizer, name) for name in WEIGHTING}
    with atomic_path(folder) as path:
        path.mkdir()
        about = json.dumps({"options": options, "vocabulary": vocabulary})
        (path / FEATURES).write_text(about, encoding="utf-8")
        coef, intercept = (np.concatenate(arrays) for arrays in zip(*weights, strict=True))
        arrays = {"idf": vectorizer.idf_, "coef": coef, "intercept": intercept}
        np.savez(path / ARRAYS, learnable=learnable, **arrays)


def load(folder: Path, params: BaselineParams) -> tuple[TfidfVectorizer, BaseEstimator, np.ndarray]:
    """The estimators that `save` has saved: they give the same scores, bit for bit.

    Raises
    ------
    ModelError
        The files cannot be read, or do not belong together.
    """
    vectorizer, model, _ = build_classifier(params)
    try:
        about = read_json(folder / FEATURES)
        with np.load(folder / ARRAYS, allow_pickle=False) as saved:
            idf, coef, intercept, learnable = (
                saved[name] for name in ("idf", "coef", "intercept", "learnable")
            )
        options, vocabulary = about["options"], about["vocabulary"]
        if set(options) != set(WEIGHTING) or coef.shape != (len(intercept), len(idf)):
            raise ValueError(f"{FEATURES} and {ARRAYS} do not belong together")
        vectorizer.set_params(**options | {"ngram_range": tuple(options["ngram_range"])})
        vectorizer.vocabulary_ = {word: at for at, word in enumerate(vocabulary)}
        vectorizer.idf_ = idf  # refuses another number of features
    except (OSError, EOFError, ValueError, LookupError, TypeError, BadZipFile) as error:
        raise unusable(str(folder), error) from error
    if params.multi_label:
        rows = zip(coef, intercept, strict=True)
        model.estimators_ = [_machine(LinearSVC(), c[None], i[None]) for c, i in rows]
        return vectorizer, model, learnable
    return vectorizer, _machine(model, coef, intercept), learnable


def _weights(machine: Any, num_features: int) -> tuple[np.ndarray, np.ndarray]:
    """`coef` and `intercept` of a fitted machine; of one for a label that all documents have, 0."""
    if isinstance(machine, LinearSVC):
        return machine.coef_, machine.intercept_
    return np.zeros((1, num_features)), machine.decision_function(np.zeros((1, num_features)))


def _machine(svm: LinearSVC, coef: np.ndarray, intercept: np.ndarray) -> LinearSVC:
    svm.coef_, svm.intercept_ = coef, intercept
    svm.classes_ = np.arange(max(2, len(coef)))
    return svm
