"""A finished run as a classifier for new texts, whichever approach trained it."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import joblib
import numpy as np
import torch
import yaml
from peft import PeftModel
from safetensors.torch import load_model
from safetensors.torch import save_model as save_weights
from sklearn.base import BaseEstimator
from sklearn.feature_extraction.text import TfidfVectorizer
from torch import nn
from transformers import GenerationConfig, PreTrainedTokenizerBase

from lib.model.adapters import load_lora
from lib.prompt.decode import decode_labels
from lib.machine import choose_device, choose_dtype
from lib.head.model import EmbeddingModel, predict_logits
from lib.data.labels import LabelSpace
from lib.prompt.template import build_template
from lib.model.load import load_backbone, load_tokenizer
from lib.evaluation.metrics import Scores, decode_sets, label_scores, sigmoid, softmax
from lib.config.arms import NOTEBOOK_PARAMS, BaselineParams, EmbeddingParams, InstructionParams, StudyParams
from lib.config.strict_yaml import parse_params
from lib.runs.record import FINGERPRINTS, read_label_space
from lib.storage import atomic_path
from lib.model.tokens import encode_documents, require_context

WEIGHTS = "model.safetensors"
BASELINE = "tfidf.joblib"


@dataclass(frozen=True)
class Classifier:
    """Labels for texts; made by `load_classifier`.

    Attributes
    ----------
    label_space
        The run's labels.
    score_texts
        Scores of N texts without spaces around them, (N, C) float32.
    multi_label
        Whether a text may have several labels.
    threshold
        From which score on a label is given; None where one label is chosen or sets are generated.
    """

    label_space: LabelSpace
    score_texts: Callable[[Sequence[str]], Scores]
    multi_label: bool
    threshold: float | None

    def predict_scores(self, texts: Sequence[str]) -> Scores:
        """Scores, (N, C) float32, over the run's labels in label order; sparse if they are many.

        Probabilities that add up to 1 where a text has one label, a probability for each label
        where it may have several, and 1 or 0 where a label set is generated; of TF-IDF the decision
        values of its support vector machine.

        Raises
        ------
        ValueError
            A text is empty. Spaces around a text are no part of it, as in training.
        """
        texts = [text.strip() for text in texts]
        if not all(texts):
            raise ValueError(f"text {texts.index('') + 1} of {len(texts)} is empty; leave it out")
        if not texts:
            return np.zeros((0, len(self.label_space)), dtype=np.float32)
        return self.score_texts(texts)

    def predict(self, texts: Sequence[str]) -> list[str] | list[list[str]]:
        """The most probable label of each text, or the list of its labels."""
        scores = self.predict_scores(texts)
        if not self.multi_label:
            return [labels[0] for labels in self.label_space.decode_best(scores)]
        generated = self.threshold is None  # and may be empty, if the answer was no label
        may_be_empty = bool(self.label_space.none)
        chosen = scores > 0
        if not generated:
            chosen = decode_sets(scores, self.threshold, may_be_empty=may_be_empty)
        return self.label_space.decode(chosen)

    def predict_stream(
        self, texts: Iterable[str], *, chunk_size: int = 4096
    ) -> Iterator[str | list[str]]:
        """As `predict`, one answer after the other, for more texts than memory holds.

        Texts are read, sorted by length and answered in chunks of `chunk_size`; an empty text is
        named by its place in its chunk. A short last chunk may be computed without the compiler
        (`lib.model.fast.blocks.compiled_if_it_pays`), so that its scores are rounded otherwise.
        """
        remaining = iter(texts)
        while chunk := list(islice(remaining, chunk_size)):
            yield from self.predict(chunk)


def save_model(model: nn.Module, folder: Path) -> None:
    """Save what training changed: adapter and head, or every weight after full fine-tuning."""
    with atomic_path(folder) as path:
        path.mkdir()
        if isinstance(model, PeftModel):
            model.save_pretrained(path)
        else:
            save_weights(model, str(path / WEIGHTS))


def save_baseline(
    vectorizer: TfidfVectorizer, model: BaseEstimator, known: np.ndarray, folder: Path
) -> None:
    """Save TF-IDF, the classifier of its features, and (K,) the labels of its K classes."""
    with atomic_path(folder) as path:
        path.mkdir()
        joblib.dump((vectorizer, model, known), path / BASELINE)


def load_classifier(run_dir: str | Path) -> Classifier:
    """The classifier that a TF-IDF, embedding, encoder or instruction run has saved.

    An instruction run answers as it was evaluated; where that gives no score for every label, with
    the label of highest likelihood.

    Raises
    ------
    ValueError
        The folder holds no finished run, or one of a frozen embedding or with examples in its
        prompts, which are not kept.
    """
    folder = Path(run_dir)
    params, label_space = read_run(folder)
    threshold = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["threshold"]
    score = SCORES[type(params)](params, label_space, folder / "model")
    return Classifier(label_space, score, params.multi_label, threshold)


def read_run(folder: Path) -> tuple[StudyParams, LabelSpace]:
    """The parameters and the labels of a finished run; a `ValueError` where it cannot be used."""
    if not (folder / "metrics.json").exists():
        raise ValueError(f"{folder}: holds no finished run (no metrics.json)")
    values = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    values = {key: value for key, value in values.items() if key not in FINGERPRINTS}
    kind = NOTEBOOK_PARAMS[values["notebook"]]
    params = parse_params(kind, values, source=str(folder / "params.yaml"))
    return params, read_label_space(folder)


def load_embedding(
    params: EmbeddingParams, label_space: LabelSpace, folder: Path, *, unpack: bool = False
) -> tuple[PreTrainedTokenizerBase, nn.Module]:
    """A run's tokenizer and `EmbeddingModel`; with `unpack`, on weights that are not packed."""
    tokenizer = load_tokenizer(params.model_id)
    device = choose_device("cpu" if unpack else params.device)
    dtype = choose_dtype(device, params.dtype)
    backbone = load_backbone(
        params.model_id,
        quantization=params.quantization,
        dtype=dtype if params.lora_r else torch.float32,
        device=device,
        bidirectional=params.bidirectional,
        max_length=params.max_length,
        memory_gib=params.memory_gib,
    )
    if unpack and getattr(backbone, "is_quantized", False):
        backbone = backbone.dequantize(dtype)
    model: nn.Module = EmbeddingModel(
        backbone, num_labels=len(label_space), compute_dtype=dtype, **params.head_options
    )
    if params.lora_r:
        return tokenizer, load_lora(model, folder)
    load_model(model, str(folder / WEIGHTS))
    return tokenizer, model


def _baseline_scores(params: BaselineParams, label_space: LabelSpace, folder: Path) -> Callable:
    if params.method == "frozen":
        raise ValueError(f"{folder.parent}: a frozen embedding's regression is not kept")
    vectorizer, model, known = joblib.load(folder / BASELINE)

    def score(texts: Sequence[str]) -> np.ndarray:
        return label_scores(model, vectorizer.transform(texts), known, len(label_space))

    return score


def _embedding_scores(params: EmbeddingParams, label_space: LabelSpace, folder: Path) -> Callable:
    tokenizer, model = load_embedding(params, label_space, folder)

    def score(texts: Sequence[str]) -> Scores:
        documents = encode_documents(
            tokenizer, texts, max_length=params.max_length, add_special_tokens=True
        )
        logits = predict_logits(model, documents, token_budget=params.token_budget)
        return sigmoid(logits) if params.multi_label else softmax(logits)

    return score


def _instruction_scores(
    params: InstructionParams, label_space: LabelSpace, folder: Path
) -> Callable:
    if params.num_examples:
        raise ValueError(f"{folder.parent}: examples in prompts (num_examples) are not kept")
    tokenizer = load_tokenizer(params.model_id)
    device = choose_device(params.device)
    dtype = choose_dtype(device, params.dtype)
    model = load_backbone(
        params.model_id,
        quantization=params.quantization,
        dtype=torch.float32 if params.num_epochs and not params.lora_r else dtype,
        device=device,
        head="lm",
        max_length=params.max_length,
        memory_gib=params.memory_gib,
    )
    if params.num_epochs and params.lora_r:
        model = load_lora(model, folder)
    elif params.num_epochs:
        load_model(model, str(folder / WEIGHTS))
    template, called = build_template(tokenizer, model.config, label_space, **params.prompt_options)
    scored = params.multi_label or params.decoding.startswith("score")
    strategy = params.decoding if scored else "score"
    generated = strategy == "generate"
    max_new_tokens = GenerationConfig.from_pretrained(folder).max_new_tokens if generated else 0

    answer = max_new_tokens or max(len(template.answer_ids(text)) for text in called.texts)
    if strategy == "yes_no":
        answer = max(len(template.question_ids(text)) for text in called.texts)

    def score(texts: Sequence[str]) -> np.ndarray:
        prompts = [template.prompt_ids(text) for text in texts]
        require_context(model.config, max(map(len, prompts), default=0), answer)
        preds, scores = decode_labels(
            model,
            template=template,
            prompts=prompts,
            label_space=called,
            strategy=strategy,
            multi_label=params.multi_label,
            max_new_tokens=max_new_tokens,
            token_budget=params.token_budget,
            compute_dtype=dtype,
        )
        answered = strategy == "steps"  # a set, whatever its labels' scores
        return called.encode(preds).astype(np.float32) if answered else scores

    return score


SCORES = {
    BaselineParams: _baseline_scores,
    EmbeddingParams: _embedding_scores,
    InstructionParams: _instruction_scores,
}
