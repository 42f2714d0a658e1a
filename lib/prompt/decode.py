"""From prompts to labels by every strategy of the ladder, for one label and for label sets."""

import logging
from collections.abc import Sequence

import numpy as np
import torch
from scipy.special import expit, logsumexp
from torch import nn

from lib.data.labels import LabelSpace
from lib.evaluation.scores import Scores
from lib.machine import mixed_precision
from lib.model.batches import micro_batches
from lib.model.checks import generates_padded
from lib.model.parts import pretrained
from lib.model.probes import probes_of
from lib.prompt.answers import parse_labels
from lib.prompt.label_scores import score_labels
from lib.prompt.search import search_labels
from lib.prompt.template import NEUTRAL, NO, YES, PromptTemplate

log = logging.getLogger(__name__)

MAX_LABELS = 20  # of a generated set (chosen here)


@torch.inference_mode()
@torch.compiler.set_stance("force_eager")
def generate_answers(
    model: nn.Module,
    template: PromptTemplate,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    token_budget: int,
    compute_dtype: torch.dtype,
) -> list[str]:
    """Greedy free answers to N prompts, as text without special tokens."""
    model, tokenizer = pretrained(model).eval(), template.tokenizer
    answers = [""] * len(prompts)
    lengths = [len(p) + max_new_tokens for p in prompts]
    batches = micro_batches(lengths, token_budget)
    if prompts and not probes_of(model).ask("left padding", lambda: generates_padded(model)):
        log.info("%s: prompts are answered one by one, since padding changes its answers",
                 type(model).__name__)  # fmt: skip
        batches = [[i] for i in range(len(prompts))]
    for batch in batches:
        longest = max(len(prompts[i]) for i in batch)
        ids = torch.full((len(batch), longest), tokenizer.pad_token_id)
        mask = torch.zeros_like(ids)
        for row, i in enumerate(batch):  # padded on the left: all answers begin at one position
            ids[row, longest - len(prompts[i]) :] = torch.tensor(prompts[i])
            mask[row, longest - len(prompts[i]) :] = 1
        with mixed_precision(model.device, compute_dtype):
            output = model.generate(
                input_ids=ids.to(model.device),
                attention_mask=mask.to(model.device),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                repetition_penalty=1.0,  # a model's own settings may ask for another
                eos_token_id=sorted({template.end_id, tokenizer.eos_token_id} - {None}),
                pad_token_id=tokenizer.pad_token_id,
            )
        texts = tokenizer.batch_decode(output[:, longest:], skip_special_tokens=True)
        for i, text in zip(batch, texts, strict=True):
            answers[i] = text
    return answers


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
    """Answer with label sets, label by label; no label twice, nothing but labels.

    Each step scores every label as the next one, by the likelihood of its whole text with what ends
    it, the end token or a separator; the best label that is not yet in the set joins it, and its
    own ending tells whether the set is complete. A label's score is its largest probability over
    the steps (arXiv 2505.17510, section 5): the first step alone is near 0 for all labels but one.

    Parameters
    ----------
    prompts
        Token ids of N prompts.
    label_texts
        What C labels are called; none holds the separator.
    none
        The answer for an empty set, which competes in the first step; "" where there is none.

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
    active = np.arange(len(prompts))
    for step in range(min(MAX_LABELS, num_labels)):
        pieces = [template.piece_ids(text, first=step == 0) for text in label_texts]
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
        if empty:  # the empty set is likelier than any first label
            some = log_probs[:, -1] < scores.max(axis=1)
            active, scores, ends, continues = (x[some] for x in (active, scores, ends, continues))
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
    """Whether each label applies, asked one by one: p(Yes) / (p(Yes) + p(No)), (N, C) float32.

    The questions are branches behind the document (`score_labels`): its keys are computed once for
    all labels that fit a pass with it, and what questions begin with once as well.

    Parameters
    ----------
    prompts
        As rendered for label answers; the question is put in behind the document.
    label_texts
        What C labels are called.
    """
    documents = [prompt[: len(prompt) - len(template.suffix_ids)] for prompt in prompts]
    words = [template.piece_ids(word, first=True) for word in (YES, NO)]
    questions = [template.question_ids(text) for text in label_texts]
    room = token_budget - max(map(len, documents))
    log_odds = np.empty((len(prompts), len(label_texts)), dtype=np.float32)
    at_once = max(1, room // max(map(len, questions)))
    for start in range(0, len(questions), at_once):
        asked = questions[start : start + at_once]
        yes, no = np.split(
            score_labels(
                model,
                documents,
                [question + word for word in words for question in asked],
                given=[len(question) for question in asked] * 2,
                token_budget=token_budget,
                compute_dtype=compute_dtype,
            ),
            2,
            axis=1,
        )
        log_odds[:, start : start + at_once] = yes - no
    return expit(log_odds)


def decode_labels(
    model: nn.Module,
    *,
    template: PromptTemplate,
    prompts: Sequence[Sequence[int]],
    label_space: LabelSpace,
    strategy: str,
    multi_label: bool = False,
    max_new_tokens: int,
    token_budget: int,
    compute_dtype: torch.dtype,
) -> tuple[list[list[str]], Scores]:
    """Predicted labels of N prompts and their scores, float32.

    Parameters
    ----------
    strategy
        "generate": free generation and `parse_labels`; scores are 1 at the parsed labels and 0
        elsewhere, and an answer outside the set predicts nothing.

        "greedy", "search": see `search_labels`; scores are the probabilities of the labels that
        the search has finished, 0 elsewhere.

        "score": the label of highest likelihood (`score_labels`). "score_length": of highest mean
        log-probability a token. "score_prior": of highest likelihood relative to what the model
        answers where the document says nothing (contextual calibration, arXiv 2102.09690,
        section 5: W = diag(p)^-1, p the mean over `NEUTRAL` documents). Scores sum to 1.

        For label sets there are "generate", "steps" (`score_label_sets`) and "score", the labels
        whose score there is at least a half; callers may tune another threshold. So is "yes_no",
        where each label is asked about (`score_questions`).
    max_new_tokens
        Longest free answer.
    """
    options = {"token_budget": token_budget, "compute_dtype": compute_dtype}
    if strategy == "generate":
        answers = generate_answers(
            model, template, prompts, max_new_tokens=max_new_tokens, **options
        )
        preds = [parse_labels(a, label_space, multi_label=multi_label) for a in answers]
        return preds, Scores(label_space.encode(preds).astype(np.float32))
    if multi_label and strategy in ("steps", "score"):
        sets, probs = score_label_sets(
            model, template, prompts, label_space.texts, none=label_space.none, **options
        )
        scores = Scores(probs)
        chosen = (
            sets
            if strategy == "steps"
            else scores.labels_above(0.5, may_be_empty=bool(label_space.none))
        )
        return label_space.decode(chosen), scores
    if multi_label and strategy == "yes_no":
        probs = score_questions(model, template, prompts, label_space.texts, **options)
        scores = Scores(probs)
        sets = scores.labels_above(0.5, may_be_empty=bool(label_space.none))
        return label_space.decode(sets), scores
    label_texts = [template.answer_ids(text) for text in label_space.texts]
    if not multi_label and strategy in ("greedy", "search"):
        greedy = strategy == "greedy"
        scores = search_labels(model, prompts, label_texts, greedy=greedy, **options)
        return label_space.decode_best(scores), Scores(np.exp(scores))
    if not multi_label and strategy in ("score", "score_length", "score_prior"):
        scores = score_labels(model, prompts, label_texts, **options)
        if strategy == "score_length":
            scores /= [len(ids) for ids in label_texts]
        if strategy == "score_prior":
            neutral = [template.render(text) for text in NEUTRAL]
            priors = score_labels(model, neutral, label_texts, **options).astype(np.float64)
            priors -= logsumexp(priors, axis=1, keepdims=True)
            scores -= logsumexp(priors, axis=0)  # the mean, up to a constant
        return label_space.decode_best(scores), Scores(scores).softmax()
    kind = "label sets" if multi_label else "single labels"
    raise ValueError(f"decoding: {strategy!r} does not answer with {kind}")
