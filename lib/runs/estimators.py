"""Scikit-learn estimators of the baselines: built, asked for scores, saved."""

import json
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
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
from lib.errors import ModelError
from lib.evaluation.scores import Scores
from lib.model.weights import unusable
from lib.storage import atomic_path, read_json

TFIDF, FROZEN = "tfidf", "frozen"  # methods; each names a .json and an .npz file
# Options of a vectorizer that decide features and weights; words are cut by `build_classifier`.
WEIGHTING = ("binary", "lowercase", "ngram_range", "norm", "smooth_idf", "sublinear_tf", "use_idf")


def build_classifier(params: BaselineParams) -> tuple[BaseEstimator, BaseEstimator, str]:
    """The transformer of features, the classifier, and the name of the classifier's penalty.

    For label sets of a frozen embedding, a perceptron without hidden layer is logistic regression
    with one sigmoid per label.
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
    """Probabilities of all labels or, of a classifier without any, decision values, (N, C).

    `inputs` are (N, F) features of N documents; `learnable`, (K,) int, is the label of each of the
    classifier's K classes. All other labels, which no training document has, score lowest.
    """
    several = isinstance(model, OneVsRestClassifier)  # of SVMs, which give no probabilities
    probabilities = not several and hasattr(model, "predict_proba")
    raw = (model.predict_proba if probabilities else model.decision_function)(inputs)
    if raw.ndim == 1 and len(learnable) == 2:  # one decision value: that of the second class
        raw = np.stack([-raw, raw], axis=1)
    # Of a single label there may be two columns; the last is that it applies.
    raw = raw.reshape(len(raw), -1)[:, -len(learnable) :]
    # If every document has every label, decision values are constant integers.
    scores = np.full((len(raw), num_labels), 0.0 if probabilities else float(raw.min()))
    scores[:, learnable] = raw
    return Scores(scores)


def save(
    transform: TfidfVectorizer | StandardScaler,
    model: BaseEstimator,
    learnable: np.ndarray,
    folder: Path,
    features: str = "words",
) -> None:
    """Save the estimators of F features, and `learnable`, (K,) the labels of K classes.

    `tfidf.json` has the features in order and how they are weighted, `frozen.json` the kind of the
    embedding (`lib.head.frozen.kind_name`). The `.npz` beside it has `coef` (K, F), or (1, F) of
    two classes, `intercept` (K,), or (1,), `learnable` (K,), and `idf` (F,) of words, or `mean` and
    `scale` (F,) of an embedding. There is no pickle, which would run code where it is read.
    """
    if isinstance(transform, TfidfVectorizer):
        name, arrays = TFIDF, {"idf": transform.idf_}
        vocabulary = sorted(transform.vocabulary_, key=transform.vocabulary_.__getitem__)
        options = {name: getattr(transform, name) for name in WEIGHTING}
        about = {"options": options, "vocabulary": vocabulary}
    else:
        name, arrays = FROZEN, {"mean": transform.mean_, "scale": transform.scale_}
        about = {"features": features}
    num_features = len(next(iter(arrays.values())))
    parts = getattr(model, "estimators_", [model])
    weights = [_weights(part, num_features) for part in parts]
    coef, intercept = (np.concatenate(parts) for parts in zip(*weights, strict=True))
    with atomic_path(folder) as path:
        path.mkdir()
        (path / f"{name}.json").write_text(json.dumps(about), encoding="utf-8")
        arrays |= {"coef": coef, "intercept": intercept, "learnable": learnable}
        np.savez(path / f"{name}.npz", **arrays)


class Saved(NamedTuple):
    """The arguments that `save` was given."""

    transform: TfidfVectorizer | StandardScaler
    model: BaseEstimator
    learnable: np.ndarray
    features: str


def load(folder: Path, params: BaselineParams) -> Saved:
    """The estimators that `save` has saved: they give the same scores, bit for bit.

    Raises `ModelError` if files are missing, cannot be read, or do not belong together.
    """
    name = FROZEN if params.method == "frozen" else TFIDF
    if not (folder / f"{name}.json").exists():
        raise ModelError(
            f"{folder}: holds no {name}.json: an earlier version kept no such model; run the arm "
            "again"
        )
    transform, model, _ = build_classifier(params)
    try:
        about = read_json(folder / f"{name}.json")
        with np.load(folder / f"{name}.npz", allow_pickle=False) as saved:
            arrays = dict(saved)
        coef, intercept, learnable = (arrays[k] for k in ("coef", "intercept", "learnable"))
        num_features = len(arrays["idf" if name == TFIDF else "mean"])
        whole = coef.shape == (len(intercept), num_features) and len(learnable) in (
            {len(coef), 2} if len(coef) == 1 else {len(coef)}  # two classes have one row
        )
        floats = all(a.dtype.kind == "f" for key, a in arrays.items() if key != "learnable")
        columns = learnable.dtype.kind == "i" and not (np.diff(learnable, prepend=-1) <= 0).any()
        if not (whole and floats and columns):
            raise ValueError(f"{name}.json and {name}.npz do not belong together")
        if name == TFIDF:
            _restore_words(transform, about, arrays["idf"])
            features = "words"
        else:
            transform.mean_, transform.scale_ = arrays["mean"], arrays["scale"]
            transform.n_features_in_ = num_features
            features = str(about["features"])
    except (OSError, EOFError, ValueError, LookupError, TypeError, BadZipFile) as error:
        raise unusable(str(folder), error) from error
    return Saved(transform, _restored(model, coef, intercept), learnable, features)


def _restore_words(vectorizer: TfidfVectorizer, about: dict[str, Any], idf: np.ndarray) -> None:
    options = about["options"]
    if set(options) != set(WEIGHTING):
        raise ValueError(f"options are not {', '.join(WEIGHTING)}")
    vectorizer.set_params(**options | {"ngram_range": tuple(options["ngram_range"])})
    words = about["vocabulary"]
    if not (isinstance(words, list) and all(isinstance(word, str) for word in words)):
        raise ValueError("the vocabulary is no list of words")
    vectorizer.vocabulary_ = {word: at for at, word in enumerate(words)}
    vectorizer.idf_ = idf  # refuses another number of features


def _weights(model: Any, num_features: int) -> tuple[np.ndarray, np.ndarray]:
    """`coef` (K, F) and `intercept` (K,) of a fitted model.

    Scikit-learn gives a label that all documents have a constant model: its `coef` is 0.
    """
    if isinstance(model, MLPClassifier):
        return model.coefs_[0].T, model.intercepts_[0]
    if hasattr(model, "coef_"):
        return model.coef_, model.intercept_
    none = np.zeros((1, num_features))
    return none, model.decision_function(none).astype(float)


def _restored(model: Any, coef: np.ndarray, intercept: np.ndarray) -> Any:
    """The model with its weights; their order in memory is a perceptron's, for equal rounding."""
    if isinstance(model, MLPClassifier):
        model.coefs_, model.intercepts_ = [np.ascontiguousarray(coef.T)], [intercept]
        model.n_layers_, model.n_outputs_, model.out_activation_ = 2, len(coef), "logistic"
        model.n_features_in_ = coef.shape[1]
    elif isinstance(model, OneVsRestClassifier):
        rows = zip(coef, intercept, strict=True)
        model.estimators_ = [_restored(LinearSVC(), c[None], i[None]) for c, i in rows]
    else:
        model.coef_, model.intercept_ = coef, intercept
        model.classes_ = np.arange(max(2, len(coef)))
    return model
