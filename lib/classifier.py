"""A finished run as a classifier for new texts, whichever approach trained it."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import yaml
from peft import PeftModel
from safetensors.torch import load_model
from safetensors.torch import save_model as save_weights
from torch import nn
from transformers import GenerationConfig

from lib.decoding import decode_labels, score_labels
from lib.device import choose_device, choose_dtype
from lib.labels import LabelSpace
from lib.loader import load_backbone, load_lora, load_tokenizer
from lib.metrics import decode_sets, sigmoid, softmax
from lib.params import EmbeddingParams, InstructionParams, parse_params
from lib.pooling import EmbeddingModel, predict_logits
from lib.prompts import PromptTemplate, encode_documents
from lib.results import FINGERPRINTS, atomic_path, read_label_space

WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Classifier:
    """Labels for texts; made by `load_classifier`.

    Attributes
    ----------
    label_space
        The run's labels.
    score
        Scores of N texts, (N, C) float32.
    multi_label
        Whether a text may have several labels.
    threshold
        From which score on a label is given; None where one label is chosen or sets are generated.
    """

    label_space: LabelSpace
    score: Callable[[Sequence[str]], np.ndarray]
    multi_label: bool
    threshold: float | None

    def predict_scores(self, texts: Sequence[str]) -> np.ndarray:
        """Scores, (N, C) float32, over the run's labels in label order.

        Probabilities that add up to 1 where a text has one label, a probability for each label
        where it may have several, and 1 or 0 where a label set is generated.
        """
        return self.score(texts)

    def predict(self, texts: Sequence[str]) -> list[str] | list[list[str]]:
        """The most probable label of each text, or the list of its labels."""
        scores = self.score(texts)
        if not self.multi_label:
            return [labels[0] for labels in self.label_space.decode_best(scores)]
        generated = self.threshold is None  # and may be empty, if the answer was no label
        chosen = scores > 0 if generated else decode_sets(scores, self.threshold)
        return self.label_space.decode(chosen)

    def predict_stream(
        self, texts: Iterable[str], *, chunk_size: int = 4096
    ) -> Iterator[str | list[str]]:
        """As `predict`, one answer after the other, for more texts than memory holds.

        Texts are read, sorted by length and answered in chunks of `chunk_size`.
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


def load_classifier(run_dir: str | Path) -> Classifier:
    """The classifier that an embedding, encoder or instruction run has saved.

    An instruction run answers with the label of highest likelihood, also if it was evaluated by
    free generation; where a text may have several labels, it generates the set.

    Raises
    ------
    ValueError
        The folder holds no finished fine-tuning run.
    """
    folder = Path(run_dir)
    if not (folder / "metrics.json").exists():
        raise ValueError(f"{folder}: holds no finished run (no metrics.json)")
    values = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    values = {key: value for key, value in values.items() if key not in FINGERPRINTS}
    kinds = {
        "03_finetune_embedding": (EmbeddingParams, _embedding_scores),
        "04_finetune_instruction": (InstructionParams, _instruction_scores),
    }
    if values["notebook"] not in kinds:
        raise ValueError(
            f"{folder}: {values['notebook']} saves no model; only {', '.join(kinds)} do"
        )
    kind, scores = kinds[values["notebook"]]
    params = parse_params(kind, values, source=str(folder / "params.yaml"))
    label_space = read_label_space(folder)
    threshold = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["threshold"]
    score = scores(params, label_space, folder / "model")
    return Classifier(label_space, score, params.multi_label, threshold)


def _embedding_scores(params: EmbeddingParams, label_space: LabelSpace, folder: Path) -> Callable:
    tokenizer = load_tokenizer(params.model_id)
    device = choose_device(params.device)
    dtype = choose_dtype(device, params.dtype)
    backbone = load_backbone(
        params.model_id,
        quantization=params.quantization,
        dtype=dtype if params.lora_r else torch.float32,
        device=device,
        max_length=params.max_length,
        memory_gib=params.memory_gib,
    )
    model: nn.Module = EmbeddingModel(
        backbone, num_labels=len(label_space), mode=params.pooling, compute_dtype=dtype
    )
    if params.lora_r:
        model = load_lora(model, folder)
    else:
        load_model(model, str(folder / WEIGHTS))

    def score(texts: Sequence[str]) -> np.ndarray:
        documents = encode_documents(
            tokenizer, texts, max_length=params.max_length, add_special_tokens=True
        )
        logits = predict_logits(model, documents, token_budget=params.token_budget)
        return sigmoid(logits) if params.multi_label else softmax(logits)

    return score


def _instruction_scores(
    params: InstructionParams, label_space: LabelSpace, folder: Path
) -> Callable:
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
    template = PromptTemplate.build(
        tokenizer,
        instruction=params.instruction,
        labels=label_space.texts if params.labels_in_prompt else (),
        max_length=params.max_length,
    )
    generation = GenerationConfig.from_pretrained(folder) if params.multi_label else None
    options = {
        "tokenizer": tokenizer,
        "label_texts": [template.answer_ids(text) for text in label_space.texts],
        "token_budget": params.token_budget,
        "compute_dtype": dtype,
    }

    def score(texts: Sequence[str]) -> np.ndarray:
        prompts = [template.render(text) for text in texts]
        if not params.multi_label:
            return softmax(score_labels(model, prompts=prompts, **options))
        _, scores = decode_labels(
            model,
            prompts=prompts,
            label_space=label_space,
            strategy="generate",
            max_new_tokens=generation.max_new_tokens,
            multi_label=True,
            **options,
        )
        return scores

    return score
