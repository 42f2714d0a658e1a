"""The model of a finished run as a function from texts to scores, for each kind of run."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from peft import PeftModel
from transformers import GenerationConfig

from lib.config.arms import BaselineParams, EmbeddingParams, InstructionParams, StudyParams
from lib.data.labels import LabelSpace
from lib.errors import InputError, ModelError
from lib.evaluation.scores import Scores
from lib.head.frozen import embed, kind_name
from lib.head.model import predict_probabilities
from lib.machine import choose_device, choose_dtype
from lib.model.int8 import use_int8
from lib.model.load import load_backbone
from lib.model.tokens import require_context
from lib.model.weights import load_tokenizer
from lib.model.windows import longest_window
from lib.prompt.decode import decode_labels
from lib.prompt.inputs import longest_answer
from lib.prompt.template import build_template
from lib.runs import estimators
from lib.runs.few_shot import KIND, ask, read_examples
from lib.runs.models import load_arm_model
from lib.runs.reading import encode, texts_read

NUM_SAMPLES = 64  # labels whose texts show how large inputs of layers are (our choice)

Score = Callable[[Sequence[str]], Scores]


class Measure(NamedTuple):
    """The meaning of a run's scores.

    `name` is "probability", "score" for decision values, or "" for answers without a measure: 1 at
    the labels that are answered, and 0 at the others.
    """

    name: str
    ranks: bool  # true if every label has a score; a search scores only labels that it found


def measure_of(params: StudyParams) -> Measure:
    """The meaning of the scores that a run has recorded and that its model gives for new texts."""
    if getattr(params, "method", "") == "tfidf":
        return Measure("score", True)
    if isinstance(params, InstructionParams) and not params.gives_probabilities:
        searched = params.decoding in ("greedy", "search")
        return Measure("probability" if searched else "", False)
    return Measure("probability", True)


def load_scorer(
    params: StudyParams, label_space: LabelSpace, folder: Path, *, int8: bool = False
) -> Score:
    """A function from N texts to their scores by C labels, with the model in a run's `folder`.

    With `int8`, adapters of a model with a head are merged, and linear layers multiply in int8
    where that is faster on this CPU (`lib.model.int8`).

    Raises `InputError` if files of the model or of its base are missing or cannot be read; or if
    `int8` is asked for and the model is no fine-tuned one with a head, or runs on a GPU.
    """
    return LOADERS[type(params)](params, label_space, folder, int8)


def _baseline(params: BaselineParams, label_space: LabelSpace, folder: Path, int8: bool) -> Score:
    if int8:
        raise InputError(f"int8: {params.method!r} trains no language model; omit it")
    saved = estimators.load(folder, params)
    if saved.learnable.max(initial=-1) >= len(label_space):
        raise ModelError(f"{folder}: knows more labels than the run has; run the arm again")
    read = _frozen(params, saved.features) if params.method == "frozen" else None

    def score(texts: Sequence[str]) -> Scores:
        inputs = saved.transform.transform(read(texts) if read else texts_read(params, texts))
        return estimators.label_scores(saved.model, inputs, saved.learnable, len(label_space))

    return score


def _frozen(params: BaselineParams, features: str) -> Callable[[Sequence[str]], np.ndarray]:
    """Frozen embeddings of texts, of the kind that validation chose."""
    kinds = [(mode, layer) for mode in params.pooling_grid for layer in params.layer_grid]
    if not (kind := {kind_name(kind): kind for kind in kinds}.get(features)):
        raise ModelError(f"frozen.json: {features!r} is none of the run's; run the arm again")
    device = choose_device(params.device)
    dtype = choose_dtype(device, params.dtype)
    tokenizer = load_tokenizer(params.model_id, params.model_revision)
    backbone = load_backbone(
        params.model_id,
        revision=params.model_revision,
        quantization=params.quantization,
        dtype=dtype,
        device=device,
        max_length=params.max_length,
        fast=params.fast,
    )
    budget = {"dtype": dtype, "token_budget": params.token_budget}
    return lambda texts: embed(backbone, encode(params, tokenizer, texts), kind, **budget)


def _embedding(params: EmbeddingParams, label_space: LabelSpace, folder: Path, int8: bool) -> Score:
    device = choose_device(params.device)
    dtype = choose_dtype(device, params.dtype)
    tokenizer = load_tokenizer(params.model_id, params.model_revision)
    options = {"device": device, "dtype": dtype, "trained": folder, "unpack": int8}
    model = load_arm_model(params, label_space, **options)
    if int8:
        model = model.merge_and_unload() if isinstance(model, PeftModel) else model
        samples = encode(params, tokenizer, label_space.texts[:NUM_SAMPLES])
        use_int8(model, samples, compute_dtype=dtype)

    def score(texts: Sequence[str]) -> Scores:
        return predict_probabilities(model, encode(params, tokenizer, texts), params)

    return score


def _instruction(
    params: InstructionParams, label_space: LabelSpace, folder: Path, int8: bool
) -> Score:
    if int8:  # 98.3 % of a prompt's answers stayed, and 99.7 % of a head's (docs/speed.md)
        raise InputError("int8: too many answers of a prompt would change; omit it")
    device = choose_device(params.device)
    dtype = choose_dtype(device, params.dtype)
    examples = read_examples(folder, params)
    tokenizer = load_tokenizer(params.model_id, params.model_revision)
    model = load_arm_model(params, label_space, device=device, dtype=dtype, trained=folder)
    template, labels = build_template(tokenizer, model.config, label_space, params)
    max_new_tokens = 0
    if params.decoding == "generate":
        max_new_tokens = GenerationConfig.from_pretrained(folder).max_new_tokens
    answer = max_new_tokens or longest_answer(template, labels, params)
    template = template.within(model.config, answer, num_examples=params.num_examples)
    budget = {"token_budget": params.token_budget}

    def score(texts: Sequence[str]) -> Scores:
        own = None
        if examples.embeddings is not None:
            own = embed(model, encode(params, tokenizer, texts), KIND, dtype=dtype, **budget)
        prompts = ask(params, template, labels, texts, examples, own)
        require_context(model.config, longest_window(prompts), answer)
        preds, scores = decode_labels(
            model,
            prompts=prompts,
            template=template,
            label_space=labels,
            strategy=params.decoding,
            multi_label=params.multi_label,
            max_new_tokens=max_new_tokens,
            compute_dtype=dtype,
            **budget,
        )
        if params.decoding == "steps":  # it decides on sets label by label, without a threshold
            return Scores(labels.encode(preds).astype(np.float32))
        return scores

    return score


LOADERS = {BaselineParams: _baseline, EmbeddingParams: _embedding, InstructionParams: _instruction}
