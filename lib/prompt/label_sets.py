"""Scores of label sets: labels one after another, or one question per label."""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.special import expit
from torch import nn

from lib.prompt.label_scores import score_labels
from lib.prompt.template import NO, YES, PromptTemplate

MAX_LABELS = 20  # of an answered set; our choice


def score_label_sets(
    model: nn.Module,
    template: PromptTemplate,
    prompts: Sequence[Sequence[int]],
    label_texts: Sequence[str],
    *,
    none: str = "",
    token_budget: int,
    compute_dtype: torch.dtype,
) -> tuple[np.ndarray, np.ndarray]:
    """Label sets answered label by label: no label comes twice, and nothing but labels comes.

    Each step scores every label as the next one, by the likelihood of its text followed by the end
    token or by a separator. The best label that is not yet in the set joins it. The set is complete
    if the end token is likelier behind that label than the separator, or with `MAX_LABELS` labels.
    A label's score is its largest probability over the steps (arXiv 2505.17510, section 5): that of
    the first step alone is near 0 for all labels but one.

    Parameters
    ----------
    prompts, label_texts
        Token ids of N prompts, and texts of C labels; no text contains the separator.
    none
        The answer for an empty set, which competes in the first step; "" if sets are never empty.

    Returns
    -------
    sets, scores
        (N, C) bool, and (N, C) float32 probabilities.
    """
    num_labels = len(label_texts)
    separator, end = template.separator_ids, [template.end_id]
    sets = np.zeros((len(prompts), num_labels), dtype=bool)
    best_scores = np.zeros((len(prompts), num_labels), dtype=np.float32)
    answered = [list(prompt) for prompt in prompts]
    active = np.arange(len(prompts))  # prompts whose set is not complete
    for step in range(min(MAX_LABELS, num_labels)):
        # Score each label as the last one of the set and as one that others follow.
        pieces = [template.label_ids(text, first=step == 0) for text in label_texts]
        empty = [template.answer_ids(none)] if none and step == 0 else []
        log_probs = score_labels(
            model,
            [answered[i] for i in active],
            [piece + ending for ending in (end, separator) for piece in pieces] + empty,
            token_budget=token_budget,
            compute_dtype=compute_dtype,
        )
        ends, continues = log_probs[:, :num_labels], log_probs[:, num_labels : 2 * num_labels]
        scores = np.where(sets[active], -np.inf, np.logaddexp(ends, continues))
        best_scores[active] = np.maximum(best_scores[active], np.exp(scores))
        # A set stays empty if the answer for an empty set is likelier than any first label.
        if empty:
            some = log_probs[:, -1] < scores.max(axis=1)
            active, scores, ends, continues = (x[some] for x in (active, scores, ends, continues))
        # The best label joins its set; prompts whose set goes on stay active.
        best, rows = scores.argmax(axis=1), np.arange(len(active))
        sets[active, best] = True
        for i, label in zip(active, best, strict=True):
            answered[i] += pieces[label] + separator
        active = active[continues[rows, best] > ends[rows, best]]
        if not len(active):
            break
    return sets, best_scores


def score_questions(
    model: nn.Module,
    template: PromptTemplate,
    prompts: Sequence[Sequence[int]],
    label_texts: Sequence[str],
    *,
    token_budget: int,
    compute_dtype: torch.dtype,
) -> np.ndarray:
    """Probability of Yes per label, (N, C) float32, in answer to one question per label.

    It is p(Yes) / (p(Yes) + p(No)). `prompts` are N prompts that ask for labels; the questions take
    the place of what follows the document in them, as branches (`score_labels`), with as many
    questions per pass as fit into the budget.
    """
    documents = [prompt[: len(prompt) - len(template.suffix_ids)] for prompt in prompts]
    words = [template.label_ids(word, first=True) for word in (YES, NO)]
    questions = [template.question_ids(text) for text in label_texts]
    room = token_budget - max(map(len, documents))
    at_once = max(1, room // max(map(len, questions)))
    log_odds = np.empty((len(prompts), len(label_texts)), dtype=np.float32)
    for start in range(0, len(questions), at_once):
        some = questions[start : start + at_once]
        log_probs = score_labels(
            model,
            documents,
            [question + word for word in words for question in some],
            given=[len(question) for question in some] * 2,
            token_budget=token_budget,
            compute_dtype=compute_dtype,
        )
        yes, no = np.split(log_probs, 2, axis=1)
        log_odds[:, start : start + at_once] = yes - no
    return expit(log_odds)
