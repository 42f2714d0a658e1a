"""Attributions: how much each word of a text speaks for the answer of a finished run.

integrated_gradients   of a head's logit, over the embeddings of the tokens
deletion               of any approach: the answer's log-likelihood with a word and without it

Positive values speak for the answer and negative ones against it. Constants without a source are
our choices.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from captum.attr import IntegratedGradients
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from lib.config.arms import EmbeddingParams
from lib.data.labels import LabelSpace
from lib.data.words import word_spans
from lib.errors import InputError
from lib.evaluation.scores import Scores
from lib.machine import choose_device, choose_dtype
from lib.model.batches import pad
from lib.model.forward import maybe_compiled
from lib.model.parts import pretrained
from lib.model.tokens import text_encoder
from lib.model.weights import load_tokenizer
from lib.model.windows import count_windows, split_windows
from lib.runs.classifier import Classifier, read_run, readable
from lib.runs.finished import read_params
from lib.runs.models import load_arm_model
from lib.runs.reading import encode
from lib.storage import CHECKSUMS

TOLERANCE = 0.05  # of completeness: a share of the logit's difference
STEPS = (32, 64, 128, 256)  # of the integral, as many as the tolerance needs
MAX_WORDS = 100  # that are left out, one at a time
LEAST = 1e-9  # probability; lower ones count as this


@dataclass(frozen=True)
class Attribution:
    """The weight of each word of a text for a label.

    `values` of integrated gradients add up to `total`, the text's logit minus the baseline's. `gap`
    is the share of `total` that is missing, at most `TOLERANCE` unless `STEPS` were too few.
    Deletion has neither a total nor a gap: both are NaN.
    """

    label: str  # the run's answer, or a set's best label; "" if a free answer was no label
    spans: list[tuple[int, int]]  # start and end of each of W words in the text
    values: np.ndarray  # (W,) float; NaN of words that were not read, or not left out
    unit: str  # of the values, such as "logit"
    total: float = np.nan
    gap: float = np.nan


def has_head(run_dir: str | Path) -> bool:
    """True if the run's answers come from a trained head, of which gradients can be taken."""
    return read_params(Path(run_dir))["notebook"] == "03_finetune_embedding"


def deletion(classifier: Classifier, text: str, *, margins: bool = False) -> Attribution:
    """Drop of log p(answer) if one word is left out, for each of the first `MAX_WORDS` words.

    The answer is the best label, and p its probability among the labels, or on its own in a run for
    label sets. With `margins`, scores are decision values (of TF-IDF), whose drop is taken.

    Raises `InputError` if the text is not `lib.runs.classifier.readable`.
    """
    text = readable([text])[0]
    spans = word_spans(text)
    values = np.full(len(spans), np.nan)
    # A word is left out with the space behind it; a text's only word is not, as nothing would stay.
    rests = [text[:a] + text[b + text[b : b + 1].isspace() :] for a, b in spans[:MAX_WORDS]]
    left = [number for number, rest in enumerate(rests) if rest.strip()]
    scores = classifier.predict_scores([text, *(rests[number] for number in left)])
    label = int(scores.best()[0])
    if not (margins or scores.values[0].any()):  # a free answer that is no label
        return Attribution("", spans, values, "log-likelihood")
    found = _of_label(scores, label)
    if not margins:
        found = np.log(np.maximum(found, LEAST))
    values[left] = found[0] - found[1:]
    unit = "decision value" if margins else "log-likelihood"
    return Attribution(classifier.label_space.names[label], spans, values, unit)


def _of_label(scores: Scores, label: int) -> np.ndarray:
    """(N,) scores of one label; of a text whose kept scores lack it, the least of these."""
    kept = np.where(scores.columns == label, scores.values, -np.inf).max(axis=1)
    return np.where(np.isfinite(kept), kept, scores.values.min(axis=1)).astype(float)


def integrated_gradients(run_dir: str | Path, text: str) -> Attribution:
    """Integrated gradients of the best label's logit, summed over the tokens of each word.

    Sundararajan et al. (arXiv 1703.01365), by Captum. In the baseline every token of the text has
    the embedding of the padding token. The values add up to the text's logit minus the baseline's
    (completeness), within `gap`.

    Raises `InputError` if the run has no head, its tokenizer does not tell the places of tokens in
    a text, or the text is not `readable`.
    """
    if not has_head(run_dir):
        raise InputError(f"{run_dir}: a run without a head, which has no gradients; use deletion")
    finished = Path(run_dir) / CHECKSUMS
    head = _load(Path(run_dir), finished.stat().st_mtime_ns if finished.exists() else 0)
    text = readable([text])[0]
    document = encode(head.params, head.tokenizer, [text])[0]
    words, spans = _words_of(head.tokenizer, text, document), word_spans(text)
    of_text = torch.tensor([word is not None for word in words])
    with torch.no_grad():
        label = int(head.logits(document).argmax())
    for steps in STEPS:
        by_token, total = head.gradients(document, of_text, label, steps)
        gap = abs(float(by_token.sum()) - total) / max(abs(total), LEAST)
        if gap <= TOLERANCE:
            break
    values = np.full(len(spans), np.nan)
    for word, value in zip(words, by_token.tolist(), strict=True):
        if word is not None:
            values[word] = np.nan_to_num(values[word]) + value
    return Attribution(head.label_space.names[label], spans, values, "logit", total, gap)


@dataclass(frozen=True)
class _Head:
    """A run's model with its head, and its logits as a function of embeddings."""

    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    params: EmbeddingParams
    label_space: LabelSpace

    def logits(self, document: Sequence[int], embeddings: Tensor | None = None) -> Tensor:
        """(B, C) logits of a document, with B other embeddings of its S tokens, (B, S, H), if any.

        Tokens of several windows follow one another.
        """
        copies = 1 if embeddings is None else len(embeddings)
        documents = [document] * copies
        ids, mask = (x.to(self._layer.weight.device) for x in pad(documents, self._pad_id))
        windows = count_windows(documents)

        def replace(layer: nn.Module, inputs: tuple, output: Tensor) -> Tensor:
            rows = embeddings.reshape(-1, embeddings.shape[-1]).to(output.dtype)
            if output.shape[:2] != mask.shape:  # packed: the real tokens of all rows in one
                return rows.reshape(output.shape)
            return output.masked_scatter(mask.bool()[..., None], rows)

        hook = self._layer.register_forward_hook(replace) if embeddings is not None else None
        try:
            with maybe_compiled(self.model, 0):
                return self.model(ids, mask, windows=windows)
        finally:
            if hook:
                hook.remove()

    def gradients(
        self, document: Sequence[int], of_text: Tensor, label: int, steps: int
    ) -> tuple[Tensor, float]:
        """Integrated gradients of each token, (S,), and the difference that they add up to."""
        weights = self._layer.weight
        ids = torch.as_tensor(list(document), device=weights.device)
        neutral = torch.where(of_text.to(ids.device), self._pad_id, ids)
        # By the layer itself: some models scale what they look up.
        ends = [self._layer(x)[None].detach().float() for x in (ids, neutral)]
        method = IntegratedGradients(lambda x: self.logits(document, x)[:, label])
        rows = max(1, self.params.token_budget // len(ids))
        by_dimension = method.attribute(*ends, n_steps=steps, internal_batch_size=rows)
        with torch.no_grad():
            there, here = (float(self.logits(document, x)[0, label]) for x in ends)
        return by_dimension[0].sum(dim=-1).cpu(), there - here

    @property
    def _layer(self) -> nn.Module:
        return pretrained(self.model).get_input_embeddings()

    @property
    def _pad_id(self) -> int:
        return self.model.config.pad_token_id


@lru_cache(maxsize=2)
def _load(folder: Path, finished: int) -> _Head:
    """The head of a run, kept until the run is `finished` at another time, in nanoseconds."""
    params, label_space = read_run(folder)
    device = choose_device(params.device)
    options = {"device": device, "dtype": choose_dtype(device, params.dtype)}
    model = load_arm_model(params, label_space, trained=folder / "model", **options)
    tokenizer = load_tokenizer(params.model_id, params.model_revision)
    return _Head(model.eval(), tokenizer, params, label_space)


def _words_of(
    tokenizer: PreTrainedTokenizerBase, text: str, document: Sequence[int]
) -> list[int | None]:
    """The number of each token's word; None for special tokens, which frame every window.

    ```
    text       two words, cut                    frame [CLS] and [SEP], windows of two tokens
    document   [CLS] two words [SEP]  [CLS] , [SEP]
    words       None  0    1   None    None 1  None
    ```
    """
    if not tokenizer.is_fast:
        raise InputError(f"{tokenizer.name_or_path}: its tokenizer does not tell places in a text")
    encoder = text_encoder(tokenizer)
    encoder.backend.no_truncation()
    plain = encoder.backend.encode(text, add_special_tokens=False)
    frame = encoder.backend.num_special_tokens_to_add(False)
    windows = split_windows(document)
    total = sum(len(window) - frame for window in windows)
    at = len(plain.ids) - total if tokenizer.truncation_side == "left" else 0
    starts = [start for start, _ in word_spans(text)]
    words: list[int | None] = []
    for window in windows:
        size = len(window) - frame
        ids = plain.ids[at : at + size]
        # Number of special tokens in front of the text's, such as [CLS].
        before = next(i for i in range(frame + 1) if window[i : i + size] == ids)
        ends = [end for _, end in plain.offsets[at : at + size]]
        words += [None] * before
        words += [max(bisect_right(starts, end - 1) - 1, 0) for end in ends]
        words += [None] * (frame - before)
        at += size
    return words
