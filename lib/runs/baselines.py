"""Baselines: their features, their scikit-learn classifiers, and what they take."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from lib.model.load import load_tokenizer
from lib.storage import atomic_path

if TYPE_CHECKING:  # a run may have a teacher, whose scores are loaded with what is saved here
    from lib.runs.run import Run

BASELINE = "tfidf.joblib"


def features_of(run: "Run") -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Inputs of the classifiers per split, by kind of feature, and resources of their model.

    TF-IDF has texts, N str. A frozen embedding has (N, H) float32 for each pooling and layer; what
    it took counts as training, or as answering test.
    """
    params: BaselineParams = run.params
    if params.method == "tfidf":
        return {name: {"words": list(split["text"])} for name, split in run.splits.items()}, {}
    features, costs = run.frozen_features(
        load_tokenizer(params.model_id), params.pooling_grid, params.layer_grid
    )
    run.costs["train"] += run.costs["validation"]  # whose features choose pooling and penalty
    return features, {key: value for key, value in costs["train"].items() if key != "spent"}


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


def resources_of(
    run: "Run", num_features: int, num_classes: int, about_model: dict[str, Any]
) -> dict[str, Any]:
    """Resources of a baseline: one weight per feature and class, one bias per class, its time.

    Parameters
    ----------
    about_model
        Resources of the frozen model (`features_of`); empty without one.
    """
    head_params = (num_features + 1) * num_classes
    seconds, joules = run.costs["train"]
    return (
        run.machine_resources()
        | about_model
        | {
            "trainable_params": head_params,
            "total_params": about_model.get("total_params", 0) + head_params,
            "model_memory_gib": about_model.get("model_memory_gib"),
            "quantization": about_model.get("quantization"),
            "nf4_share": about_model.get("nf4_share"),
            "train_seconds": seconds,
            "train_joules": joules,
            "train_docs_per_second": len(run.splits["train"]) / seconds,
            "train_tokens_per_second": None,
        }
    )


def save(
    vectorizer: TfidfVectorizer, model: BaseEstimator, learnable: np.ndarray, folder: Path
) -> None:
    """Save TF-IDF, the classifier of its features, and (K,) the labels of its K classes."""
    with atomic_path(folder) as path:
        path.mkdir()
        joblib.dump((vectorizer, model, learnable), path / BASELINE)


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
