"""Scikit-learn estimators of the baselines: built, asked for scores, saved."""

from functools import partial
from pathlib import Path
from typing import Any

import joblib
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
from lib.storage import atomic_path

BASELINE = "tfidf.joblib"


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
    probabilities = hasattr(model, "predict_proba")
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
    """Save TF-IDF, the classifier of its features, and (K,) the labels of its K classes."""
    with atomic_path(folder) as path:
        path.mkdir()
        joblib.dump((vectorizer, model, learnable), path / BASELINE)
