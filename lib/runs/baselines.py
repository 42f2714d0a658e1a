"""Inputs and resources of the baselines: TF-IDF and frozen embeddings."""

from typing import Any

from lib.config.arms import BaselineParams
from lib.machine import Cost
from lib.model.weights import load_tokenizer
from lib.runs.reading import texts_read
from lib.runs.run import Run


def features_of(run: Run) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Inputs of the classifiers per split, by kind of feature, and resources of their model.

    TF-IDF has texts, N str, cut if it reads no more than models do. A frozen embedding has (N, H)
    float32 for each pooling and layer; what it took counts as training, or as answering test.
    """
    params: BaselineParams = run.params
    if params.method == "tfidf":
        texts = {}
        for name, split in run.splits.items():
            with run.timed(name, "texts"):
                texts[name] = {"words": texts_read(params, split["text"])}
        return texts, {}
    features, costs = run.frozen_features(
        load_tokenizer(params.model_id, params.model_revision),
        params.pooling_grid,
        params.layer_grid,
    )
    # Features of validation choose pooling and penalty.
    run.pay("train", "features of validation", Cost(*costs["validation"]["spent"]))
    return features, {key: value for key, value in costs["train"].items() if key != "spent"}


def resources_of(
    run: Run, num_features: int, num_classes: int, about_model: dict[str, Any]
) -> dict[str, Any]:
    """Resources of a baseline: one weight per feature and class, one bias per class, its time.

    Parameters
    ----------
    about_model
        Resources of the frozen model (`features_of`); empty without one.
    """
    head_params = (num_features + 1) * num_classes
    seconds, joules = run.cost("train")
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
