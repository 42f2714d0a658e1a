"""Inputs and resources of the baselines: TF-IDF and frozen embeddings."""

from typing import Any

from lib.config.arms import BaselineParams
from lib.errors import DataError
from lib.machine import Cost
from lib.model.weights import load_tokenizer
from lib.runs.reading import texts_read
from lib.runs.run import Run


def features_of(run: Run) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Inputs of the classifiers per split, by kind of feature, and resources of their model.

    TF-IDF has texts, N str, cut if it reads no more than models do (`read: "max_length"`). A frozen
    embedding has (N, H) float32 for each pooling and layer. The seconds that it takes for training
    and validation documents count as training, those for test documents as answering.

    Raises `DataError` if a sample of the training documents has one class only.
    """
    params: BaselineParams = run.params
    train = run.splits["train"]["labels"]
    if len({label for row in train for label in row or [""]}) < 2:
        raise DataError(
            f"train_size: the sample of {len(train):,} training documents has one class only: "
            f"{train[0]}; there is nothing to learn; raise the smallest of train_sizes"
        )
    if params.method == "tfidf":
        texts = {}
        for name, split in run.splits.items():
            with run.timed(name, "texts"):
                texts[name] = {"words": texts_read(params, split["text"])}
        return texts, {}
    tokenizer = load_tokenizer(params.model_id, params.model_revision)
    features, costs = run.frozen_features(tokenizer, params.pooling_grid, params.layer_grid)
    # Features of validation choose pooling and penalty.
    run.pay("train", "features of validation", Cost(*costs["validation"]["spent"]))
    return features, {key: value for key, value in costs["train"].items() if key != "spent"}


def resources_of(
    run: Run, num_features: int, num_classes: int, about_model: dict[str, Any]
) -> dict[str, Any]:
    """Resources of a baseline, which trains a weight per feature and class and a bias per class.

    `about_model` has the resources of the frozen model (`features_of`), and is empty for TF-IDF.
    """
    head_params = (num_features + 1) * num_classes
    seconds, joules = run.cost("train")
    unknown = dict.fromkeys(("model_memory_gib", "quantization", "train_tokens_per_second"))
    own = {
        "trainable_params": head_params,
        "total_params": about_model.get("total_params", 0) + head_params,
        "train_seconds": seconds,
        "train_joules": joules,
        "train_docs_per_second": len(run.splits["train"]) / seconds,
    }
    return unknown | run.machine_resources() | about_model | own
