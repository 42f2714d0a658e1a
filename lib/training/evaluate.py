"""F1 scores of a head or a prompt on validation, and of one prompt model by each decoding."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from lib.config.arms import InstructionParams
from lib.config.choices import SET_THRESHOLDS
from lib.data.labels import LabelSpace
from lib.evaluation.metrics import f1_scores, tune_threshold
from lib.evaluation.scores import Labels
from lib.head.model import predict_logits
from lib.prompt.decode import decode_labels


def evaluate_embedding(
    model: nn.Module,
    *,
    documents: Sequence[Sequence[int]],
    y_true: Labels,
    multi_label: bool,
    may_be_empty: bool = False,
    **options: Any,
) -> dict[str, float]:
    """F1 scores of an `EmbeddingModel` for N tokenized documents; `y_true` is (N, C) bool.

    With one label per document, the best one is predicted. Label sets have the labels above the
    threshold of highest micro-F1 on these documents; `may_be_empty` is true if a document may have
    no label. Other options are those of `predict_logits`.
    """
    logits = predict_logits(model, documents, **options)
    if not multi_label:
        return f1_scores(y_true, logits.labels_above(np.inf))
    threshold = tune_threshold(y_true, logits, may_be_empty=may_be_empty)
    return f1_scores(y_true, logits.labels_above(threshold, may_be_empty=may_be_empty))


def evaluate_instruction(
    model: nn.Module,
    *,
    label_space: LabelSpace,
    y_true: np.ndarray,
    strategy: str,
    multi_label: bool = False,
    **decoding: Any,
) -> dict[str, float]:
    """F1 scores and `out_of_set_rate` of `decode_labels`; `y_true` is (N, C) bool.

    Label sets by scores have the threshold of highest micro-F1, as in `evaluate_embedding`. Other
    options are those of `decode_labels`.
    """
    preds, scores = decode_labels(
        model, label_space=label_space, strategy=strategy, multi_label=multi_label, **decoding
    )
    answered, outside = label_space.encode(preds), label_space.outside(preds)
    if multi_label and strategy in SET_THRESHOLDS:
        empty = {"may_be_empty": bool(label_space.none)}
        answered = scores.labels_above(tune_threshold(y_true, scores, **empty), **empty)
        outside &= False
    f1 = f1_scores(y_true, answered, outside=outside)
    return {"out_of_set_rate": float(outside.mean())} | f1


def climb_ladder(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    y_true: Labels,
    params: InstructionParams,
    decoding: Mapping[str, Any],
) -> pd.DataFrame:
    """F1 scores, out-of-set rate and speed of each decoding of the arm's ladder (`params.ladder`).

    The ladder has all decodings, ways to read an answer from the model, that apply to the arm. One
    row per decoding: `decoding num_documents docs_per_second out_of_set_rate` and F1 scores, on the
    first `num_generated` of N prompts of validation; no rows if that is 0. `y_true` is (N, C) bool;
    `decoding` has the other arguments of `decode_labels`.
    """
    num = min(params.num_generated, len(prompts))
    if not num:
        return pd.DataFrame()
    rungs = []
    decode_labels(model, prompts=prompts[:1], strategy="score", **decoding)  # warm-up, not timed
    for strategy in params.ladder:
        start = time.perf_counter()
        metrics = evaluate_instruction(
            model, prompts=prompts[:num], y_true=y_true[:num], strategy=strategy, **decoding
        )
        speed = num / (time.perf_counter() - start)
        rung = {"decoding": strategy, "num_documents": num, "docs_per_second": speed}
        rungs.append(rung | metrics)
    return pd.DataFrame(rungs)
