"""Answered training documents that the prompts of an untrained model show, as a run keeps them.

The run's `model/` has what its prompts need, in no pickle:

    examples.json   {"texts": [...], "labels": [[...], ...]}, the examples of every prompt in their
                    order; if each prompt has its own, all N training documents
    examples.npy    only then: (N, H) float32, frozen embeddings of these documents

Each prompt has its own with `example_choice: "nearest"`: the documents whose embeddings are nearest
to that of the prompt's text.
"""

import json
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerBase

from lib.config.arms import InstructionParams
from lib.data.labels import LabelSpace
from lib.errors import ModelError
from lib.machine import NO_COST
from lib.model.weights import unusable
from lib.prompt.answers import answer_texts
from lib.prompt.examples import choose_examples
from lib.prompt.template import PromptTemplate
from lib.storage import atomic_path, read_json

if TYPE_CHECKING:
    from lib.runs.run import Run

DOCUMENTS, EMBEDDINGS = "examples.json", "examples.npy"
KIND = ("mean", 1)  # pooling and layer (1: the last) of the embeddings that are compared


class Examples(NamedTuple):
    """Documents that a prompt may show, with their labels."""

    texts: Sequence[str]
    labels: Sequence[Sequence[str]]
    embeddings: np.ndarray | None = None  # (N, H) float32, of "nearest"


def build_prompts(
    run: "Run", template: PromptTemplate, prompt_labels: LabelSpace
) -> dict[str, list[list[int]]]:
    """Token ids of the prompts of validation and test.

    Examples are the same for all documents, or those whose frozen embeddings are nearest to the
    document's own; computing these is part of answering.
    """
    features = _embeddings(run, template.tokenizer)
    examples, prompts = _examples(run, features), {}
    for name in ("validation", "test"):
        texts = run.splits[name]["text"]
        with run.timed(name, "prompts"):
            own = features.get(name)
            prompts[name] = ask(run.params, template, prompt_labels, texts, examples, own)
    return prompts


def ask(
    params: InstructionParams,
    template: PromptTemplate,
    prompt_labels: LabelSpace,
    texts: Sequence[str],
    examples: Examples,
    embeddings: np.ndarray | None = None,
) -> list[list[int]]:
    """Token ids of the prompts of M texts, each text behind its examples.

    `embeddings` are the frozen ones of the texts, (M, H) float32; only "nearest" needs them.
    """
    # Per prompt, the numbers of its examples.
    rows = [list(range(len(examples.texts)))] * len(texts)
    if examples.embeddings is not None:
        rows = choose_examples(
            params.example_choice,
            examples.labels,
            num_examples=params.num_examples,
            num_prompts=len(texts),
            seed=params.seed,
            embeddings=(embeddings, examples.embeddings),
        )
    answered = {
        i: (examples.texts[i], answer_texts(examples.labels[i], prompt_labels))
        for i in set(chain.from_iterable(rows))
    }
    return [
        template.prompt_ids(text, [answered[i] for i in row])
        for text, row in zip(texts, rows, strict=True)
    ]


def save_examples(run: "Run", tokenizer: PreTrainedTokenizerBase) -> None:
    """Write the examples of the run's prompts, if any, into `model/` of the run's folder."""
    if not run.params.num_examples:
        return
    examples, folder = _examples(run, _embeddings(run, tokenizer)), run.folder / "model"
    about = {"texts": examples.texts, "labels": examples.labels}
    with atomic_path(folder / DOCUMENTS) as path:
        path.write_text(json.dumps(about, ensure_ascii=False), encoding="utf-8")
    if examples.embeddings is not None:
        with atomic_path(folder / EMBEDDINGS) as path:
            np.save(path, np.asarray(examples.embeddings), allow_pickle=False)


def read_examples(folder: Path, params: InstructionParams) -> Examples:
    """The examples that `save_examples` has written into `folder`; empty if prompts have none.

    Raises `ModelError` if files are missing, cannot be read, or do not belong together.
    """
    if not params.num_examples:
        return Examples([], [])
    if not (folder / DOCUMENTS).exists():
        raise ModelError(
            f"{folder}: holds no {DOCUMENTS}: an earlier version kept no examples; run the arm "
            "again"
        )
    nearest = params.example_choice == "nearest"
    try:
        about: dict[str, Any] = read_json(folder / DOCUMENTS)
        texts, labels = about["texts"], about["labels"]
        embeddings = np.load(folder / EMBEDDINGS, allow_pickle=False) if nearest else None
        counts = {len(texts), len(labels), len(texts if embeddings is None else embeddings)}
        if len(counts) > 1 or len(texts) < params.num_examples:
            raise ValueError(f"{DOCUMENTS} and {EMBEDDINGS} do not belong together")
    except (OSError, EOFError, ValueError, LookupError, TypeError) as error:
        raise unusable(str(folder), error) from error
    return Examples(texts, labels, embeddings)


def _examples(run: "Run", features: Mapping[str, np.ndarray]) -> Examples:
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


def _embeddings(run: "Run", tokenizer: PreTrainedTokenizerBase) -> dict[str, np.ndarray]:
    """Frozen embeddings of each split, (N, H) float32; empty unless they choose the examples."""
    params: InstructionParams = run.params
    if not (params.num_examples and params.example_choice == "nearest"):
        return {}
    features, _ = run.frozen_features(tokenizer, KIND[:1], KIND[1:])
    run.pay("train", "frozen features", NO_COST)  # an untrained model has no training
    return {name: next(iter(kinds.values())) for name, kinds in features.items()}
