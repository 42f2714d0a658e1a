"""Baselines: their features, their scikit-learn classifiers, and what they take."""

from functools import partial
from typing import Any

from sklearn.base import BaseEstimator
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from lib.config.arms import BaselineParams
from lib.data.words import find_words
from lib.model.load import load_tokenizer
from lib.runs.run import Run


def baseline_features(run: Run) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
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
    run.spent["train"] += run.spent["validation"]  # whose features choose pooling and penalty
    return features, {key: value for key, value in costs["train"].items() if key != "spent"}


def baseline_classifier(params: BaselineParams) -> tuple[BaseEstimator, BaseEstimator, str]:
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


def baseline_resources(
    run: Run, num_features: int, num_classes: int, about_model: dict[str, Any]
) -> dict[str, Any]:
    """Resources of a baseline: one weight per feature and class, one bias per class, its time.

    Parameters
    ----------
    about_model
        Resources of the frozen model (`baseline_features`); empty without one.
    """
    head_params = (num_features + 1) * num_classes
    seconds, joules = run.spent["train"]
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
