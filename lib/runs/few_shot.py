"""Prompts of a run's held-out documents, with the examples that an untrained model is shown."""

from collections.abc import Mapping

import numpy as np
from transformers import PreTrainedTokenizerBase

from lib.config.arms import InstructionParams
from lib.data.labels import LabelSpace
from lib.machine import NO_COST
from lib.prompt.examples import choose_examples
from lib.prompt.template import PromptTemplate
from lib.runs.examples import KIND, Examples, ask, write_examples
from lib.runs.run import Run


def build_prompts(
    run: Run, template: PromptTemplate, prompt_labels: LabelSpace
) -> dict[str, list[list[int]]]:
    """Token ids of the prompts of validation and test.

    Examples are the same for all documents, or those whose frozen embeddings are nearest to the
    document's own; computing these is part of answering.
    """
    params: InstructionParams = run.params
    features = _embeddings(run, template.tokenizer)
    examples, prompts = _examples(run, features), {}
    for name in ("validation", "test"):
        texts = run.splits[name]["text"]
        with run.timed(name, "prompts"):
            rows = examples.chosen(params, len(texts), features.get(name))
            prompts[name] = ask(template, prompt_labels, texts, rows, examples)
    return prompts


def save_examples(run: Run, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write the run's examples, if its prompts have any, into its folder of the model."""
    if run.params.num_examples:
        write_examples(_examples(run, _embeddings(run, tokenizer)), run.folder / "model")


def _examples(run: Run, features: Mapping[str, np.ndarray]) -> Examples:
    """The examples of a run: those of all prompts, or all documents with their embeddings."""
    params, train = run.params, run.splits["train"]
    if features:
        return Examples(list(train["text"]), list(train["labels"]), features["train"])
    (row,) = choose_examples(
        params.example_choice,
        train["labels"],
        num_examples=params.num_examples,
        num_prompts=1,
        seed=params.seed,
    )
    chosen = train.select(row)
    return Examples(list(chosen["text"]), list(chosen["labels"]))


def _embeddings(run: Run, tokenizer: PreTrainedTokenizerBase) -> dict[str, np.ndarray]:
    """Frozen embeddings of each split, where examples are chosen by them."""
    params: InstructionParams = run.params
    if not (params.num_examples and params.example_choice == "nearest"):
        return {}
    features, _ = run.frozen_features(tokenizer, KIND[:1], KIND[1:])
    run.pay("train", "frozen features", NO_COST)  # an untrained model has no training
    return {name: next(iter(kinds.values())) for name, kinds in features.items()}
