"""A finished run as a classifier for new texts, whichever approach trained it."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from threading import Lock

import numpy as np
from transformers import GenerationConfig

from lib.config.arms import (
    NOTEBOOK_PARAMS,
    BaselineParams,
    EmbeddingParams,
    InstructionParams,
    StudyParams,
)
from lib.config.strict_yaml import parse_params
from lib.data.labels import LabelSpace
from lib.errors import InputError, ModelError
from lib.evaluation.scores import Scores
from lib.head.model import predict_probabilities
from lib.machine import choose_device, choose_dtype
from lib.model.load import load_config, load_tokenizer
from lib.model.tokens import require_context
from lib.model.weights import model_fingerprint
from lib.model.windows import longest_window
from lib.prompt.decode import decode_labels
from lib.prompt.template import build_template
from lib.runs import estimators
from lib.runs.models import load_arm_model
from lib.runs.reading import encode, texts_read
from lib.runs.record import INPUTS, read_label_space, read_params, require_whole

FIRST_CHUNK = 32  # texts (our choice)


@dataclass(frozen=True)
class Classifier:
    """Labels for texts; made by `load_classifier`. Several threads may share it: they take turns.

    Attributes
    ----------
    label_space
        The run's labels.
    score_texts
        Scores of N texts without spaces around them, of C labels.
    multi_label
        True if a text may have several labels.
    threshold
        From which score on a label is given; None where one label is chosen or sets are generated.
    """

    label_space: LabelSpace
    score_texts: Callable[[Sequence[str]], Scores]
    multi_label: bool
    threshold: float | None
    _turn: Lock = field(default_factory=Lock, repr=False, compare=False)

    def predict_scores(self, texts: Sequence[str]) -> Scores:
        """Scores over the run's labels; `values` is (N, C), in label order, unless C is large.

        Probabilities that add up to 1 where a text has one label, a probability for each label
        where it may have several, and 1 or 0 where a label set is generated; of TF-IDF the decision
        values of its support vector machine.

        Raises
        ------
        InputError
            A text is no text or is empty. Spaces around it are no part of it, as in training.
        """
        texts = readable(texts)
        if not texts:
            return Scores(np.zeros((0, len(self.label_space)), dtype=np.float32))
        with self._turn:
            return self.score_texts(texts)

    def predict(self, texts: Sequence[str]) -> list[str] | list[list[str]]:
        """The most probable label of each text, or the list of its labels."""
        scores = self.predict_scores(texts)
        if not self.multi_label:
            return [self.label_space.names[c] for c in scores.best()]
        # a generated set scores 1 at its labels, and is empty if the answer was no label
        generated = self.threshold is None
        threshold = 1.0 if generated else self.threshold
        may_be_empty = generated or bool(self.label_space.none)
        return self.label_space.to_names(scores.labels_above(threshold, may_be_empty=may_be_empty))

    def predict_stream(
        self, texts: Iterable[str], *, chunk_size: int = 4096
    ) -> Iterator[str | list[str]]:
        """As `predict`, one answer after the other, for more texts than memory holds.

        Texts are read, sorted by length and answered in chunks, which grow from `FIRST_CHUNK` to
        `chunk_size`, so that the first answers come soon. A small chunk may be computed without the
        compiler (`lib.model.forward.maybe_compiled`), so that its scores are rounded otherwise. A
        text that cannot be answered is named by its place in its chunk.
        """
        if chunk_size < 1:
            raise InputError(f"chunk_size: {chunk_size}; write 1 or more")
        remaining, size = iter(texts), min(FIRST_CHUNK, chunk_size)
        while chunk := list(islice(remaining, size)):
            yield from self.predict(chunk)
            size = min(2 * size, chunk_size)


def readable(texts: Iterable[str]) -> list[str]:
    """The texts without spaces around them.

    Raises
    ------
    InputError
        One text instead of several, or a text that is none, is empty or is no Unicode text.
    """
    if isinstance(texts, str | bytes) or not isinstance(texts, Iterable):
        raise InputError(f"texts: {type(texts).__name__}, not a list of texts; write [text]")
    texts, found = list(texts), []
    for number, text in enumerate(texts, 1):
        place = f"text {number} of {len(texts)}"
        if not isinstance(text, str):
            raise InputError(f"{place} is {type(text).__name__}, not a text (str)")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InputError(
                f"{place}: character {error.start + 1} is half of a surrogate pair, no text"
            ) from None
        if not text.strip():
            raise InputError(f"{place} is empty; leave it out")
        found.append(text.strip())
    return found


def load_classifier(run_dir: str | Path) -> Classifier:
    """The classifier that a TF-IDF, embedding, encoder or instruction run has saved.

    An instruction run answers as it was evaluated; where that gives no score for every label, with
    the label of highest likelihood.

    Raises
    ------
    InputError
        The folder holds no finished run, one that was changed since, or one of a frozen embedding
        or with examples in its prompts, which are not kept.
    """
    folder = Path(run_dir)
    params, label_space = read_run(folder)
    threshold = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["threshold"]
    score = SCORES[type(params)](params, label_space, folder / "model")
    return Classifier(label_space, score, params.multi_label, threshold)


def read_run(folder: Path) -> tuple[StudyParams, LabelSpace]:
    """The parameters and the labels of a finished run; see `require_whole`."""
    require_whole(folder)
    values = {key: value for key, value in read_params(folder).items() if key not in INPUTS}
    values = {key: value for key, value in values.items() if not key.startswith("search")}
    kind = NOTEBOOK_PARAMS[values["notebook"]]
    params = parse_params(kind, values, source=str(folder / "params.yaml"))
    recorded = read_params(folder).get("model_fingerprint", "none")
    name, _, commit = recorded.rpartition("@")
    if name == params.model_id and not params.model_revision:  # of the hub, which goes on
        params = params.model_copy(update={"model_revision": commit})
    require_same_base(folder, params, recorded)
    return params, read_label_space(folder)


def require_same_base(folder: Path, params: StudyParams, recorded: str) -> None:
    """Raise `ModelError` if a run's model is not the one that was recorded when it was trained.

    Of a hub id, commits are compared where both are known.
    """
    if recorded == "none":
        return
    load_config(params.model_id, params.model_revision)  # brings the commit
    found = model_fingerprint(params.model_id, params.model_revision)
    if params.model_id not in (recorded, found) and found != recorded:
        raise ModelError(
            f"{params.model_id}: the base model has changed since the run in {folder}: its "
            f"fingerprint is {found}, not {recorded}; bring that model back or run the arm again"
        )


def _baseline_scores(params: BaselineParams, label_space: LabelSpace, folder: Path) -> Callable:
    if params.method == "frozen":
        raise InputError(f"{folder.parent}: a frozen embedding's regression is not kept")
    vectorizer, model, learnable = estimators.load(folder, params)

    def score(texts: Sequence[str]) -> Scores:
        inputs = vectorizer.transform(texts_read(params, texts))
        return estimators.label_scores(model, inputs, learnable, len(label_space))

    return score


def _embedding_scores(params: EmbeddingParams, label_space: LabelSpace, folder: Path) -> Callable:
    device = choose_device(params.device)
    dtype = choose_dtype(device, params.dtype)
    tokenizer = load_tokenizer(params.model_id, params.model_revision)
    model = load_arm_model(params, label_space, device=device, dtype=dtype, trained=folder)

    def score(texts: Sequence[str]) -> Scores:
        return predict_probabilities(model, encode(params, tokenizer, texts), params)

    return score


def _instruction_scores(
    params: InstructionParams, label_space: LabelSpace, folder: Path
) -> Callable:
    if params.num_examples:
        raise InputError(f"{folder.parent}: examples in prompts (num_examples) are not kept")
    device = choose_device(params.device)
    dtype = choose_dtype(device, params.dtype)
    tokenizer = load_tokenizer(params.model_id, params.model_revision)
    model = load_arm_model(params, label_space, device=device, dtype=dtype, trained=folder)
    template, labels = build_template(tokenizer, model.config, label_space, params)
    scored = params.multi_label or params.decoding.startswith("score")
    strategy = params.decoding if scored else "score"
    generated = strategy == "generate"
    max_new_tokens = GenerationConfig.from_pretrained(folder).max_new_tokens if generated else 0
    answer = max_new_tokens or max(len(template.answer_ids(text)) for text in labels.texts)
    if strategy == "yes_no":
        answer = max(len(template.question_ids(text)) for text in labels.texts)

    def score(texts: Sequence[str]) -> Scores:
        prompts = [template.prompt_ids(text) for text in texts]
        require_context(model.config, longest_window(prompts), answer)
        preds, scores = decode_labels(
            model,
            prompts=prompts,
            template=template,
            label_space=labels,
            strategy=strategy,
            multi_label=params.multi_label,
            max_new_tokens=max_new_tokens,
            token_budget=params.token_budget,
            compute_dtype=dtype,
        )
        answered = strategy == "steps"  # a set, whatever its labels' scores
        return Scores(labels.encode(preds).astype(np.float32)) if answered else scores

    return score


SCORES = {
    BaselineParams: _baseline_scores,
    EmbeddingParams: _embedding_scores,
    InstructionParams: _instruction_scores,
}
