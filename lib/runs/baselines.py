"""Scores of scikit-learn classifiers, which know only the labels that training documents have."""

from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from lib.evaluation.scores import Scores


def label_scores(
    model: Any, inputs: np.ndarray | csr_matrix, known: np.ndarray, num_labels: int
) -> Scores:
    """A classifier's probabilities or, without any, its decision values, of all labels.

    Labels that it does not know score lowest.

    Parameters
    ----------
    inputs
        (N, F) features of N documents.
    known
        (K,) int, the label of each of its K classes.
    """
    probabilities = hasattr(model, "predict_proba")
    raw = (model.predict_proba if probabilities else model.decision_function)(inputs)
    if raw.ndim == 1 and len(known) == 2:  # one decision value, for the second of them
        raw = np.stack([-raw, raw], axis=1)
    raw = raw.reshape(len(raw), -1)[:, -len(known) :]  # of a single label: that it applies
    scores = np.full((len(raw), num_labels), 0.0 if probabilities else raw.min())
    scores[:, known] = raw
    return Scores(scores)
