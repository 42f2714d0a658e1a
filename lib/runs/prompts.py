"""Prompts of a run's held-out documents, with the examples that an untrained model is shown."""

import numpy as np

from lib.config.arms import InstructionParams
from lib.data.labels import LabelSpace
from lib.machine import NO_COST
from lib.prompt.answers import answer_texts
from lib.prompt.examples import choose_examples
from lib.prompt.template import PromptTemplate
from lib.runs.run import Run


def build_prompts(
    run: Run, template: PromptTemplate, prompt_labels: LabelSpace
) -> dict[str, list[list[int]]]:
    """Token ids of the prompts of validation and test.

    Examples are the same for all documents, or those whose frozen embeddings are nearest to the
    document's own; computing these is part of answering.
    """
    params: InstructionParams = run.params
    train = run.splits["train"]
    nearest = params.num_examples and params.example_choice == "nearest"
    embeddings = _frozen_embeddings(run, template) if nearest else None
    prompts = {}
    for name in ("validation", "test"):
        with run.timed(name, "prompts"):
            rows = choose_examples(
                params.example_choice,
                train["labels"],
                num_examples=params.num_examples,
                num_prompts=len(run.splits[name]),
                seed=params.seed,
                embeddings=(embeddings[name], embeddings["train"]) if nearest else None,
            )
            answered = {
                i: (train[i]["text"], answer_texts(train[i]["labels"], prompt_labels))
                for i in {i for row in rows for i in row}
            }
            prompts[name] = [
                template.prompt_ids(text, [answered[i] for i in row])
                for text, row in zip(run.splits[name]["text"], rows, strict=True)
            ]
    return prompts


def _frozen_embeddings(run: Run, template: PromptTemplate) -> dict[str, np.ndarray]:
    features, _ = run.frozen_features(template.tokenizer, ["mean"], [1])
    run.pay("train", "frozen features", NO_COST)  # an untrained model has no training
    return {name: next(iter(kinds.values())) for name, kinds in features.items()}
