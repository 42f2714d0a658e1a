"""A backbone with a pooling head, and what it predicts."""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor, nn
from transformers import PreTrainedModel

from lib.head.losses import HeadLoss
from lib.head.pooling import PoolingHead, read_positions
from lib.machine import mixed_precision
from lib.model.batches import join_states, micro_batches, pad
from lib.model.fast.attention import hidden_states, is_packed
from lib.model.fast.blocks import compiled_if_it_pays, only_layers, reading_only


class EmbeddingModel(nn.Module):
    """A backbone and a `PoolingHead`; any transformers model that returns hidden states will do.

    Parameters
    ----------
    num_labels, mode, kind, bias
        See `PoolingHead`.
    compute_dtype
        Of the backbone's arithmetic; the head computes in float32.
    adapted_layers
        How many of the last layers will train; 0 for all. What is below may then be computed
        beforehand (`lib.model.fast.cached_layers`).
    """

    base_model_prefix = "backbone"  # where peft looks for the transformers model

    def __init__(
        self,
        backbone: PreTrainedModel,
        *,
        num_labels: int,
        mode: str,
        compute_dtype: torch.dtype,
        kind: str = "linear",
        bias: bool = True,
        adapted_layers: int = 0,
    ) -> None:
        super().__init__()
        depth = backbone.config.num_hidden_layers
        self.backbone = backbone
        self.config = backbone.config
        self.compute_dtype = compute_dtype
        self.first_layer = depth - (adapted_layers or depth)
        head = PoolingHead(
            backbone.config.hidden_size,
            num_labels,
            mode,
            kind=kind,
            bias=bias,
        )
        self.head = head.to(backbone.device)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        targets: Tensor | None = None,
        loss: HeadLoss | None = None,
        lower: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """What `PoolingHead` makes of right-padded (B, T) input: logits, loss or best labels.

        With `lower`, (S, H) of all S real tokens, layers start from what `cached_layers` has kept.
        """
        states = self._states(input_ids, attention_mask, lower)
        return self.head(states, attention_mask, targets, loss)

    def _states(
        self, input_ids: Tensor, attention_mask: Tensor, lower: Tensor | None = None
    ) -> Tensor:
        backbone = self.backbone
        if lower is not None:
            backbone = only_layers(backbone, range(self.first_layer, len(backbone.layers)))
        read = read_positions(attention_mask, self.head.mode)
        with (
            mixed_precision(input_ids.device, self.compute_dtype),
            reading_only(backbone, read[attention_mask.bool()]),
        ):
            (states,) = hidden_states(backbone, input_ids, attention_mask, inputs_embeds=lower)
        return states


@torch.no_grad()
def predict_logits(
    model: nn.Module,
    documents: Sequence[Sequence[int]],
    *,
    token_budget: int,
    lower: Sequence[np.ndarray] = (),
) -> np.ndarray | csr_array:
    """Logits of an `EmbeddingModel` for N tokenized documents, in their order.

    Parameters
    ----------
    lower
        For each document what `lib.model.fast.cached_layers` has kept of it, or nothing.

    Returns
    -------
    ndarray or csr_array
        (N, C) float32. With more than `data.labels.DENSE_LABELS` labels only the `NUM_TOP` best of
        each document are kept, in a sparse array.
    """
    model.eval()
    results = _in_batches(model, documents, token_budget, lower)
    if not isinstance(results[0], tuple):
        return np.stack(results)
    scores, labels = (np.concatenate(part) for part in zip(*results, strict=True))
    starts = np.arange(len(documents) + 1) * (len(scores) // len(documents))
    return csr_array((scores, labels, starts), shape=(len(documents), model.head.num_labels))


def _in_batches(
    model: nn.Module,
    documents: Sequence[Sequence[int]],
    token_budget: int,
    lower: Sequence[np.ndarray],
) -> list:
    """The model's output for each document, as arrays in their order."""
    device = next(model.parameters()).device
    lengths = [len(d) for d in documents]
    outputs: list = [None] * len(documents)
    with compiled_if_it_pays(model, sum(lengths)):
        for batch in micro_batches(lengths, token_budget, packed=is_packed(model)):
            ids, mask = pad([documents[i] for i in batch], model.config.pad_token_id)
            below = {"lower": join_states([lower[i] for i in batch]).to(device)} if lower else {}
            result = model(ids.to(device), mask.to(device), **below)
            if isinstance(result, tuple):
                rows = zip(*(part.cpu().numpy() for part in result), strict=True)
            else:
                rows = result.cpu().numpy()
            for i, row in zip(batch, rows, strict=True):
                outputs[i] = row
    return outputs
