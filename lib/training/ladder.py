"""The ladder: one model answers the same documents in every way, from free to forced."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from torch import nn

from lib.config.arms import InstructionParams
from lib.evaluation.scores import Labels
from lib.prompt.decode import decode_labels
from lib.training.finetune import evaluate_instruction


def climb_ladder(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    y_true: Labels,
    params: InstructionParams,
    decoding: Mapping[str, Any],
) -> pd.DataFrame:
    """F1 scores, out-of-set rate and speed of each decoding that applies to the arm.

    One row per decoding: `decoding num_documents docs_per_second out_of_set_rate` and F1 scores.

    Parameters
    ----------
    prompts, y_true
        Of validation, of which the first `num_generated` are answered.
    decoding
        Other arguments of `decode_labels`.
    """
    num = min(params.num_generated, len(prompts))
    rungs = []
    if num:  # warm-up, not timed
        decode_labels(model, prompts=prompts[:1], strategy="score", **decoding)
    for strategy in params.ladder if num else ():
        start = time.perf_counter()
        metrics = evaluate_instruction(
            model, prompts=prompts[:num], y_true=y_true[:num], strategy=strategy, **decoding
        )
        speed = num / (time.perf_counter() - start)
        rung = {"decoding": strategy, "num_documents": num, "docs_per_second": speed}
        rungs.append(rung | metrics)
    return pd.DataFrame(rungs)
