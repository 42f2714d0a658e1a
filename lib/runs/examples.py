"""Answered training documents that the prompts of an untrained model show, as a run keeps them.

The run's `model/` has what its prompts need, in no pickle:

    examples.json   {"texts": [...], "labels": [[...], ...]}, the examples of every prompt in their
                    order; of "nearest" all training documents
    examples.npy    (N, H) float32, of "nearest": the documents' frozen embeddings
"""

import json
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lib.config.arms import InstructionParams
from lib.data.labels import LabelSpace
from lib.errors import ModelError
from lib.model.weights import unusable
from lib.prompt.answers import answer_texts
from lib.prompt.examples import choose_examples
from lib.prompt.template import PromptTemplate
from lib.storage import atomic_path, read_json

DOCUMENTS, EMBEDDINGS = "examples.json", "examples.npy"
KIND = ("mean", 1)  # pooling and layer of the embeddings that are compared


class Examples(NamedTuple):
    """Documents that a prompt may show, with their labels."""

    texts: Sequence[str]
    labels: Sequence[Sequence[str]]
    embeddings: np.ndarray | None = None  # (N, H) float32, of "nearest"

    def chosen(
        self, params: InstructionParams, num_prompts: int, embeddings: np.ndarray | None = None
    ) -> list[list[int]]:
        """The numbers of the examples of each of M prompts, in their order.

        `embeddings` are those of the prompts' own documents, (M, H) float32, for "nearest".
        """
        if self.embeddings is None:
            return [list(range(len(self.texts)))] * num_prompts
        return choose_examples(
            params.example_choice,
            self.labels,
            num_examples=params.num_examples,
            num_prompts=num_prompts,
            seed=params.seed,
            embeddings=(embeddings, self.embeddings),
        )


def ask(
    template: PromptTemplate,
    prompt_labels: LabelSpace,
    texts: Sequence[str],
    rows: Sequence[Sequence[int]],
    examples: Examples,
) -> list[list[int]]:
    """Token ids of the prompts of M texts, each behind the examples of its row."""
    answered = {
        i: (examples.texts[i], answer_texts(examples.labels[i], prompt_labels))
        for i in set(chain.from_iterable(rows))
    }
    return [
        template.prompt_ids(text, [answered[i] for i in row])
        for text, row in zip(texts, rows, strict=True)
    ]


def write_examples(examples: Examples, folder: Path) -> None:
    """Write examples into a run's folder of the model."""
    about = {"texts": examples.texts, "labels": examples.labels}
    with atomic_path(folder / DOCUMENTS) as path:
        path.write_text(json.dumps(about, ensure_ascii=False), encoding="utf-8")
    if examples.embeddings is not None:
        with atomic_path(folder / EMBEDDINGS) as path:
            np.save(path, np.asarray(examples.embeddings), allow_pickle=False)


def read_examples(folder: Path, params: InstructionParams) -> Examples:
    """The examples that `write_examples` has written; none where prompts have none.

    Raises `ModelError` if they are missing, cannot be read, or do not belong together.
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
