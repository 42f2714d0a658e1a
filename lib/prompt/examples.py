"""Examples in a prompt, and questions to train on."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from lib.errors import ParamsError


def choose_examples(
    choice: str,
    labels: Sequence[Sequence[str]],
    *,
    num_examples: int,
    num_prompts: int,
    seed: int,
    embeddings: tuple[np.ndarray, np.ndarray] | None = None,
) -> list[list[int]]:
    """Indices of `num_examples` training documents for each of N prompts, in prompt order.

    Parameters
    ----------
    choice
        "random": the same for every prompt. "balanced": the same for every prompt, with as many
        different labels as possible, equally often. "nearest": those of the largest cosine with the
        prompt's own document, the nearest one last (arXiv 2101.06804, section 3).
    labels
        Labels of each of M training documents. "balanced" counts a document by its first label;
        documents without a label count as a label of their own.
    embeddings
        For "nearest": (N, H) float of the prompts' documents, and (M, H) of the training documents.

    Raises
    ------
    ParamsError
        There are fewer training documents than examples.
    """
    if num_examples > len(labels):
        raise ParamsError(
            f"num_examples: {num_examples} are more than the {len(labels)} training documents"
        )
    if num_examples == 0:
        return [[]] * num_prompts
    if choice == "nearest":
        documents, train = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in embeddings)
        order = np.argsort(documents @ train.T, axis=1, kind="stable")
        return order[:, -num_examples:].tolist()
    shuffled = np.random.default_rng(seed).permutation(len(labels)).tolist()
    if choice == "balanced":
        # The first document of each label, then the second of each, and so on.
        seen: Counter[str] = Counter()
        turns = []
        for i in shuffled:
            first = labels[i][0] if labels[i] else ""  # of an empty set
            turns.append(seen[first])
            seen[first] += 1
        shuffled = [shuffled[j] for j in np.argsort(turns, kind="stable")]
    return [shuffled[:num_examples]] * num_prompts


def choose_questions(
    labels: Sequence[Sequence[int]], *, num_labels: int, seed: int
) -> list[tuple[int, int, bool]]:
    """Questions to train on, in document order: a document, a label, and True if it applies.

    `labels` are the columns of each document's labels. Each document is asked about all of its
    labels and about as many others. These are drawn in proportion to the documents that have them,
    so that the answer cannot be guessed from the label alone.
    """
    generator = np.random.default_rng(seed)
    counts = np.bincount([c for row in labels for c in row], minlength=num_labels).astype(float)
    questions = []
    for i, row in enumerate(labels):
        others = counts.copy()
        others[list(row)] = 0
        size = min(len(row), int((others > 0).sum()))
        drawn = []
        if size:
            drawn = generator.choice(num_labels, size, replace=False, p=others / others.sum())
        questions += [(i, c, True) for c in row] + [(i, int(c), False) for c in drawn]
    return questions
