"""From prompts to labels by every decoding, for one label and for label sets.

The decodings form a ladder: free generation, search among the labels alone, likelihoods of all
labels. Each rung restricts or informs the model more, and costs more.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from typing import Any

import numpy as np
import torch
from scipy.special import logsumexp
from torch import nn
from transformers import PreTrainedModel

from lib.config.choices import AVERAGED
from lib.data.labels import LabelSpace
from lib.evaluation.scores import Scores
from lib.machine import mixed_precision
from lib.model.batches import micro_batches, pad
from lib.model.checks import generates_padded, greedily
from lib.model.parts import pretrained
from lib.model.probes import alone_beyond, probes_of
from lib.model.windows import split_windows, window_lengths
from lib.prompt.answers import parse_labels
from lib.prompt.label_scores import score_labels
from lib.prompt.label_sets import score_label_sets, score_questions
from lib.prompt.search import search_labels
from lib.prompt.template import NEUTRAL, PromptTemplate

log = logging.getLogger(__name__)

LEAST = np.finfo(np.float32).tiny  # the least probability of the best label of a search


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
    """Greedy free answers to N prompts of token ids, as texts up to their end token, in order."""
    model, tokenizer = pretrained(model).eval(), template.tokenizer
    answers = [""] * len(prompts)
    lengths = [len(p) + max_new_tokens for p in prompts]
    batches = micro_batches(lengths, token_budget)
    alone = alone_beyond(model)
    far = alone is not None and max(lengths, default=0) > alone
    probes, stops = probes_of(model), stop_ids(model, template)
    if prompts and (far or not probes.ask("left padding", lambda: generates_padded(model))):
        log.info("%s: prompts are answered one by one, since padding changes its answers",
                 type(model).__name__)  # fmt: skip
        batches = [[i] for i in range(len(prompts))]
    for batch in batches:
        # Padded on the left: all answers begin at one position.
        ids, mask = pad([prompts[i] for i in batch], tokenizer.pad_token_id, side="left")
        with mixed_precision(model.device, compute_dtype), greedily(model):
            output = model.generate(
                input_ids=ids.to(model.device),
                attention_mask=mask.to(model.device),
                max_new_tokens=max_new_tokens,
                eos_token_id=stops,
                pad_token_id=tokenizer.pad_token_id,
            )
        # A token that ends an answer need not be special, so that decoding would keep its text.
        rows = output[:, ids.shape[1] :].tolist()
        rows = [list(takewhile(lambda token: token not in stops, row)) for row in rows]
        texts = tokenizer.batch_decode(rows, skip_special_tokens=True)
        for i, text in zip(batch, texts, strict=True):
            answers[i] = text
    return answers


def stop_ids(model: PreTrainedModel, template: PromptTemplate) -> list[int]:
    """Tokens that end a free answer: the template's, the tokenizer's and the model's own."""
    own = model.generation_config.eos_token_id
    own = own if isinstance(own, list) else [own]
    return sorted({template.end_id, template.tokenizer.eos_token_id, *own} - {None})


@dataclass(frozen=True)
class _Request:
    """Prompts to answer, and the model and labels to answer them with.

    `prompts` has W prompts, one per window of a document, and `counts` the number of windows of
    each of N documents. `options` are `token_budget` and `compute_dtype`; `lower` comes from
    `lib.prompt.cached_states.lower_states`.
    """

    model: nn.Module
    template: PromptTemplate
    prompts: Sequence[Sequence[int]]
    label_space: LabelSpace
    max_new_tokens: int
    options: Mapping[str, Any]
    counts: Sequence[int]
    lower: Sequence[np.ndarray]

    def averaged(self, scores: np.ndarray) -> np.ndarray:
        """Scores of N documents, (N, C): means of the scores of their windows' prompts, (W, C)."""
        if len(scores) == len(self.counts):
            return scores
        starts = np.cumsum([0, *self.counts[:-1]])
        counts = np.array(self.counts, dtype=scores.dtype)[:, None]
        return np.add.reduceat(scores, starts, axis=0) / counts

    @property
    def answers(self) -> list[list[int]]:
        """Token ids of every label as an answer."""
        return [self.template.answer_ids(text) for text in self.label_space.texts]

    def likelihoods(self) -> np.ndarray:
        """Log-probabilities of whole labels, (N, C), each a mean over a document's windows."""
        inputs = (self.model, self.prompts, self.answers)
        return self.averaged(score_labels(*inputs, lower=self.lower, **self.options))


Decoded = tuple[list[list[str]], Scores]  # labels of N documents, and (N, C) float32 scores


def _generate(request: _Request, *, multi_label: bool) -> Decoded:
    inputs, space = (request.model, request.template, request.prompts), request.label_space
    texts = generate_answers(*inputs, max_new_tokens=request.max_new_tokens, **request.options)
    preds = [parse_labels(text, space, multi_label=multi_label) for text in texts]
    return preds, Scores(space.encode(preds).astype(np.float32))


def _search(request: _Request, *, greedy: bool) -> Decoded:
    inputs = (request.model, request.prompts, request.answers)
    scores = search_labels(*inputs, greedy=greedy, **request.options)
    probs, best = np.exp(scores), (np.arange(len(scores)), scores.argmax(axis=1))
    # In float32 the probability of a long label may be zero, as that of unfinished labels is.
    probs[best] = np.maximum(probs[best], LEAST)
    return request.label_space.best_names(scores), Scores(probs)


def _best(request: _Request, scores: np.ndarray) -> Decoded:
    return request.label_space.best_names(scores), Scores(scores).softmax()


def _score(request: _Request) -> Decoded:
    return _best(request, request.likelihoods())


def _score_per_token(request: _Request) -> Decoded:
    scores = request.likelihoods()
    scores /= [len(ids) for ids in request.answers]
    return _best(request, scores)


def _score_calibrated(request: _Request) -> Decoded:
    """Contextual calibration (arXiv 2102.09690, section 5): W = diag(p)^-1.

    p is the mean of the labels' probabilities over `NEUTRAL` documents.
    """
    scores = request.likelihoods()
    neutral = [request.template.prompt_ids(text) for text in NEUTRAL]
    priors = score_labels(request.model, neutral, request.answers, **request.options)
    priors = priors.astype(np.float64)
    priors -= logsumexp(priors, axis=1, keepdims=True)
    scores -= logsumexp(priors, axis=0)  # log p, up to a constant
    return _best(request, scores)


def _sets_by_steps(request: _Request, *, tuned: bool) -> Decoded:
    space = request.label_space
    inputs = (request.model, request.template, request.prompts, space.texts)
    sets, scores = score_label_sets(*inputs, none=space.none, **request.options)
    if tuned:
        return _above_half(space, request.averaged(scores))
    return space.to_names(sets), Scores(scores)


def _sets_by_questions(request: _Request) -> Decoded:
    space = request.label_space
    inputs = (request.model, request.template, request.prompts, space.texts)
    return _above_half(space, request.averaged(score_questions(*inputs, **request.options)))


def _above_half(space: LabelSpace, probs: np.ndarray) -> Decoded:
    """Labels with a probability of at least one half, and the best unless sets may be empty."""
    scores = Scores(probs)
    sets = scores.labels_above(0.5, may_be_empty=bool(space.none))
    return space.to_names(sets), scores


DECODERS: dict[str, Callable[[_Request], Decoded]] = {  # one label per document
    "generate": partial(_generate, multi_label=False),
    "greedy": partial(_search, greedy=True),
    "search": partial(_search, greedy=False),
    "score": _score,
    "score_length": _score_per_token,
    "score_prior": _score_calibrated,
}
SET_DECODERS: dict[str, Callable[[_Request], Decoded]] = {
    "generate": partial(_generate, multi_label=True),
    "steps": partial(_sets_by_steps, tuned=False),
    "score": partial(_sets_by_steps, tuned=True),
    "yes_no": _sets_by_questions,
}


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
    lower: Sequence[np.ndarray] = (),
) -> Decoded:
    """Predicted labels of N documents, and scores of all C labels, (N, C) float32.

    Parameters
    ----------
    prompts
        Token ids of each document's prompt. A document of several windows has a prompt for each, as
        `lib.model.windows.Windows`. Their log-likelihoods (for label sets, their probabilities) are
        averaged before labels are chosen.
    label_space
        The labels with their texts in prompts, of `build_template`.
    strategy
        The decoding. For one label per document:

        - "generate": free generation and `parse_labels`; scores are 1 at the parsed labels and 0
          elsewhere, and an answer outside the set predicts nothing.
        - "greedy", "search": `search_labels`; scores are the probabilities of the labels that it
          has finished, 0 elsewhere.
        - "score": the label of highest likelihood (`score_labels`); "score_length": of highest mean
          log-probability per token; "score_prior": of highest likelihood relative to its mean
          over documents without content (`NEUTRAL`). Scores sum to 1.

        For label sets: "generate"; "steps", the sets of `score_label_sets`; "score", the labels
        whose score by `score_label_sets` is at least one half; "yes_no", those whose score by
        `score_questions` is. Callers may tune another threshold for the last two.
    max_new_tokens
        Most tokens of a free answer.
    token_budget
        Most tokens of one forward pass.
    lower
        What `lower_states` has returned for these prompts.

    Raises
    ------
    ValueError
        The strategy does not give such labels; or documents have several windows, and it gives no
        scores to average over them.
    """
    decoders = SET_DECODERS if multi_label else DECODERS
    if strategy not in decoders:
        kind = "label sets" if multi_label else "single labels"
        raise ValueError(
            f"decoding: {strategy!r} does not answer with {kind}; use one of {', '.join(decoders)}"
        )
    options = {"token_budget": token_budget, "compute_dtype": compute_dtype}
    counts = [len(window_lengths(prompt)) for prompt in prompts]
    if sum(counts) > len(counts) and strategy not in AVERAGED:
        raise ValueError(f"decoding: {strategy!r} gives no scores to average over windows")
    rows = [window for prompt in prompts for window in split_windows(prompt)]
    request = _Request(model, template, rows, label_space, max_new_tokens, options, counts, lower)
    return decoders[strategy](request)
