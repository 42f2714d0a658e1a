"""Which training documents stand in a prompt as examples."""

from collections.abc import Sequence

import numpy as np


def choose_examples(
    choice: str,
    labels: Sequence[Sequence[str]],
    *,
    num_examples: int,
    num_prompts: int,
    seed: int,
    similarities: np.ndarray | None = None,
) -> list[list[int]]:
    """Indices of `num_examples` training documents for each of N prompts, in prompt order.

    Parameters
    ----------
    choice
        "random": the same for every prompt. "balanced": the same for every prompt, of as many
        labels as there can be, and of labels equally often. "nearest": the most similar ones to the
        prompt's own document, the most similar last, next to it (arXiv 2101.06804, section 3).
    labels
        Of each training document; the first one counts for the balance.
    similarities
        (N, training documents) float, for "nearest".

    Raises
    ------
    ValueError
        There are fewer training documents than examples.
    """
    if num_examples > len(labels):
        raise ValueError(f"num_examples: {num_examples} of {len(labels)} training documents")
    if choice == "nearest":
        return np.argsort(similarities, axis=1, kind="stable")[:, -num_examples:].tolist()
    shuffled = np.random.default_rng(seed).permutation(len(labels)).tolist()
    if choice == "balanced":
        seen: dict[str, int] = {}
        turns = []
        for i in shuffled:
            seen[labels[i][0]] = turn = seen.get(labels[i][0], -1) + 1
            turns.append(turn)
        shuffled = [shuffled[j] for j in np.argsort(turns, kind="stable")]
    return [shuffled[:num_examples]] * num_prompts
