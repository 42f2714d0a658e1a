"""A backbone with a pooling head, and what it predicts."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lib.config.arms import EmbeddingParams
from lib.config.groups import HeadParams
from lib.data.labels import DENSE_LABELS
from lib.evaluation.scores import Scores
from lib.head.losses import HeadLoss
from lib.head.pooling import PoolingHead, read_positions
from lib.model.batches import join_states, micro_batches, pad
from lib.model.forward import last_hidden_states, maybe_compiled, skips_padding
from lib.model.windows import Documents, count_windows, documents_mask, regroup, window_lengths


class EmbeddingModel(nn.Module):
    """A backbone and a `PoolingHead`; the backbone is any model that returns hidden states.

    The backbone computes in `compute_dtype`, the head in float32. B counts rows of tokens, D
    documents: they differ if documents have several windows (`lib.model.windows`).
    """

    base_model_prefix = "backbone"  # where peft looks for the transformers model

    def __init__(
        self,
        backbone: PreTrainedModel,
        params: HeadParams,
        *,
        num_labels: int,
        compute_dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.config = backbone.config
        self.compute_dtype = compute_dtype
        head = PoolingHead(backbone.config.hidden_size, num_labels, params)
        self.head = head.to(backbone.device)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        cached_states: Tensor | None = None,
        windows: Tensor | None = None,
    ) -> Tensor:
        """Float32 logits, (B, C), of right-padded (B, T) int64 input.

        `cached_states`, (S, H) of all S real tokens, enter the first adapted layer, and the layers
        below are left out. `windows`, (D,) int64, is the number of rows of each document; the
        logits are then (D, C).
        """
        return self.head(*self._states(input_ids, attention_mask, cached_states, windows))

    def loss(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        targets: Tensor,
        loss: HeadLoss,
        cached_states: Tensor | None = None,
        windows: Tensor | None = None,
    ) -> Tensor:
        """Loss, a scalar summed over documents, of input as in `forward`.

        `targets` are those of `lib.head.chunked.chunked_loss`.
        """
        states, mask = self._states(input_ids, attention_mask, cached_states, windows)
        return self.head.loss(states, mask, targets, loss)

    def top(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        cached_states: Tensor | None = None,
        windows: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """The largest logits and their labels (`PoolingHead.top`); input as in `forward`."""
        return self.head.top(*self._states(input_ids, attention_mask, cached_states, windows))

    def _states(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        cached_states: Tensor | None,
        windows: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """States of all tokens of each document, (D, T', H), and their mask, (D, T')."""
        mask = documents_mask(attention_mask, windows)
        states = last_hidden_states(
            self.backbone,
            input_ids,
            attention_mask,
            compute_dtype=self.compute_dtype,
            read=regroup(read_positions(mask, self.head.mode), mask, attention_mask),
            cached=cached_states,
        )
        return regroup(states, attention_mask, mask), mask


@torch.no_grad()
def predict_logits(
    model: nn.Module,
    documents: Documents,
    *,
    token_budget: int,
    cached_states: Sequence[np.ndarray] = (),
) -> Scores:
    """Logits of an `EmbeddingModel` for N tokenized documents, float32, in their order.

    If there are more than `lib.data.labels.DENSE_LABELS` labels, only the `NUM_TOP` best of each
    document are kept. `cached_states` has an array per document (`lib.model.cache_lower_layers`),
    or is empty.
    """
    inputs, num_labels = (documents, token_budget, cached_states), model.head.num_labels
    if num_labels <= DENSE_LABELS:
        (logits,) = _in_batches(model, model, *inputs)
        return Scores(logits)
    values, labels, _ = _in_batches(model, model.top, *inputs)
    return Scores(values, labels, num_labels)


def predict_probabilities(
    model: nn.Module,
    documents: Documents,
    params: EmbeddingParams,
    cached_states: Sequence[np.ndarray] = (),
) -> Scores:
    """Probabilities of the labels of N tokenized documents: softmax, or sigmoid for label sets.

    They are float32. Of very many labels the best are kept, as in `predict_logits`.
    """
    # Softmax divides by a sum over all labels, those that are not kept among them.
    if model.head.num_labels > DENSE_LABELS and not params.multi_label:
        inputs = (documents, params.token_budget, cached_states)
        values, labels, total = _in_batches(model, model.top, *inputs)
        return Scores(np.exp(values - total[:, None]), labels, model.head.num_labels)
    logits = predict_logits(
        model, documents, token_budget=params.token_budget, cached_states=cached_states
    )
    return logits.sigmoid() if params.multi_label else logits.softmax()


def _in_batches(
    model: nn.Module,
    predict: Callable[..., Tensor | tuple[Tensor, ...]],
    documents: Documents,
    token_budget: int,
    cached_states: Sequence[np.ndarray],
) -> list[np.ndarray]:
    """Each output of `predict` for all documents, (N, ...), in their order."""
    model.eval()
    device = next(model.parameters()).device
    lengths = [window_lengths(d) for d in documents]
    batches = micro_batches(lengths, token_budget, packed=skips_padding(model))
    results = []
    with maybe_compiled(model, sum(map(sum, lengths))):
        for batch in batches:
            chosen = [documents[i] for i in batch]
            ids, mask = pad(chosen, model.config.pad_token_id)
            windows = count_windows(chosen)
            known = {} if windows is None else {"windows": windows}
            if cached_states:
                known["cached_states"] = join_states([cached_states[i] for i in batch]).to(device)
            result = predict(ids.to(device), mask.to(device), **known)
            parts = result if isinstance(result, tuple) else (result,)
            results.append([part.cpu().numpy() for part in parts])
    order = np.argsort(np.concatenate(batches))  # micro-batches are cut by length
    return [np.concatenate(parts)[order] for parts in zip(*results, strict=True)]
