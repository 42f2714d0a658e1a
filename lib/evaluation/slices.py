"""F1 over parts of the test split: rare labels, long documents, levels of a label hierarchy."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import pandas as pd

from lib.evaluation.intervals import f1_intervals
from lib.evaluation.metrics import f1_scores


def parts_by_support(train_counts: np.ndarray) -> pd.Categorical:
    """The part of each label, (C,), by its number of training documents, (C,) int; rarest first."""
    bounds = [-1, 0, 5, 20, 100, np.inf]
    names = ["unseen", "1–5 documents", "6–20", "21–100", "over 100"]
    return pd.cut(np.asarray(train_counts), bounds, labels=names)


def parts_by_length(num_words: Sequence[int]) -> pd.Categorical:
    """The part of each document, (N,), by its number of words: quarters, the shortest first.

    There are fewer parts if many documents are equally long.
    """
    lengths = np.asarray(num_words)
    bounds = np.unique(np.quantile(lengths, [0, 0.25, 0.5, 0.75, 1], method="lower"))
    upper = bounds[1:] if len(bounds) > 1 else bounds
    lower = [bounds[0], *(upper[:-1] + 1)]
    names = [
        f"{a}–{b} words" if a < b else f"{b} {'word' if b == 1 else 'words'}"
        for a, b in zip(lower, upper, strict=True)
    ]
    return pd.cut(lengths, [-1, *upper], labels=names)


def f1_by_part(
    y_true: np.ndarray,
    y_preds: Mapping[str, np.ndarray],
    *,
    documents: pd.Categorical | None = None,
    labels: pd.Categorical | None = None,
    groups: np.ndarray | None = None,
) -> pd.DataFrame:
    """Micro-F1 of each arm over parts of the documents, or of the labels, with 95 % intervals.

    A row per arm and part, parts in their order: `arm part size micro_f1 low high`. F1 is a mean
    over seeds; `size` is the number of documents or labels of the part. A part without a true label
    has no row, so that the table may be empty.

    Parameters
    ----------
    y_true, y_preds, groups
        See `f1_intervals`.
    documents, labels
        The part of each document, (N,), or of each label, (C,): one of the two.

    Raises
    ------
    ValueError
        Neither or both of `documents` and `labels` are given, or their number is not N or C.
    """
    if (documents is None) == (labels is None):
        raise ValueError("f1_by_part: give the parts of the documents or those of the labels")
    parts, axis = (documents, 0) if labels is None else (labels, 1)
    if len(parts) != y_true.shape[axis]:
        kind = ("documents", "labels")[axis]
        raise ValueError(f"{kind}: {len(parts)} parts for {y_true.shape[axis]} {kind}")
    tables = {}
    for part in parts.categories:
        chosen = np.flatnonzero(parts == part)
        truth = y_true.take(chosen, axis)
        if truth.any():
            preds = {arm: p.take(chosen, axis + 1) for arm, p in y_preds.items()}
            of_part = groups[chosen] if groups is not None and axis == 0 else groups
            tables[part] = f1_intervals(truth, preds, groups=of_part).assign(size=len(chosen))
    columns = ["arm", "part", "size", "micro_f1", "low", "high"]
    if not tables:
        return pd.DataFrame(columns=columns).astype({"part": parts.dtype})
    table = pd.concat(tables, names=["part"]).reset_index("part").reset_index(drop=True)
    table = table.rename(columns={"micro_f1_low": "low", "micro_f1_high": "high"})
    table["part"] = pd.Categorical(table["part"], list(tables), ordered=True)
    return table[columns]


def f1_by_level(
    y_true: np.ndarray, y_preds: Mapping[str, np.ndarray], levels: Mapping[str, np.ndarray]
) -> pd.DataFrame:
    """Micro-F1, mean over seeds, with labels cut to each level: a row per arm, a column per level.

    Parameters
    ----------
    y_true, y_preds
        (N, C) bool, and for each arm (S, N, C) bool.
    levels
        (C, C') bool for each level, from the coarsest to that of the labels: True where one of the
        level's C' labels contains the label (`LabelSpace.rolled_up`).
    """
    table = pd.DataFrame(index=list(y_preds), columns=list(levels), dtype=float)
    for level, contains in levels.items():
        contains = contains.astype(np.float32)  # (C, C')
        truth = (y_true @ contains) > 0
        for arm, preds in y_preds.items():
            scores = [f1_scores(truth, (p @ contains) > 0)["micro_f1"] for p in preds]
            table.loc[arm, level] = np.mean(scores)
    return table


def errors_by_level(
    y_true: np.ndarray, y_preds: Mapping[str, np.ndarray], levels: Mapping[str, np.ndarray]
) -> pd.DataFrame:
    """The coarsest level at which answers are wrong: shares of documents, a row per arm.

    Columns are `no answer`, `wrong section`, `right section, wrong class`, ..., `right`. A row is
    over documents and seeds, and sums to 1. For parameters see `f1_by_level`; here documents have
    one label, and answers one at most.

    Raises
    ------
    ValueError
        A document has several labels: "wrong" has no single level then; see `f1_by_level`.
    """
    if (y_true.sum(axis=1) != 1).any():
        raise ValueError("y_true: errors by level need one label per document; use f1_by_level")
    coarse = [contains.argmax(axis=1) for contains in levels.values()]  # each (C,)
    names = [level.replace("_", " ") for level in levels]
    steps = [f"right {a}, wrong {b}" for a, b in pairwise(names)]
    outcomes = ["no answer", f"wrong {names[0]}", *steps, "right"]
    rows, true = {}, y_true.argmax(axis=1)  # (N,)
    for arm, preds in y_preds.items():
        # the number of each answer's outcome, from 0: levels that agree from the coarsest on
        answered = preds.argmax(axis=2)  # (S, N)
        agree = np.stack([labels[answered] == labels[true] for labels in coarse])  # (L, S, N)
        reached = 1 + np.cumprod(agree, axis=0).sum(axis=0)  # 1: not even the coarsest level
        reached[~preds.any(axis=2)] = 0
        rows[arm] = np.bincount(reached.ravel(), minlength=len(outcomes)) / reached.size
    return pd.DataFrame.from_dict(rows, orient="index", columns=outcomes)
