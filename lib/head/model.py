"""A backbone with a pooling head, and what it predicts."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lib.config.arms import EmbeddingParams
from lib.config.groups import HeadParams
from lib.evaluation.scores import Scores
from lib.head.losses import HeadLoss
from lib.head.pooling import PoolingHead, read_positions
from lib.model.batches import join_states, micro_batches, pad
from lib.model.forward import last_hidden_states, maybe_compiled, skips_padding


class EmbeddingModel(nn.Module):
    """A backbone and a `PoolingHead`; any transformers model that returns hidden states will do.

    Parameters
    ----------
    params, num_labels
        See `PoolingHead`.
    compute_dtype
        Of the backbone's arithmetic; the head computes in float32.
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
        targets: Tensor | None = None,
        loss: HeadLoss | None = None,
        cached_states: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """What `PoolingHead` makes of right-padded (B, T) input: logits, loss or best labels.

        `cached_states` are those that enter the first adapted layer, (S, H) of all S real tokens.
        """
        states = self._states(input_ids, attention_mask, cached_states)
        return self.head(states, attention_mask, targets, loss)

    def _states(
        self, input_ids: Tensor, attention_mask: Tensor, cached_states: Tensor | None
    ) -> Tensor:
        return last_hidden_states(
            self.backbone,
            input_ids,
            attention_mask,
            compute_dtype=self.compute_dtype,
            read=read_positions(attention_mask, self.head.mode),
            cached=cached_states,
        )


@torch.no_grad()
def predict_logits(
    model: nn.Module,
    documents: Sequence[Sequence[int]],
    *,
    token_budget: int,
    cached_states: Sequence[np.ndarray] = (),
) -> Scores:
    """Logits of an `EmbeddingModel` for N tokenized documents, in their order.

    Parameters
    ----------
    cached_states
        Of each document, from `lib.model.cache_lower_layers`; or none.

    Returns
    -------
    Scores
        float32. With more than `data.labels.DENSE_LABELS` labels only the `NUM_TOP` best of each
        document are kept.
    """
    model.eval()
    results = _in_batches(model, documents, token_budget, cached_states)
    if not isinstance(results[0], tuple):
        return Scores(np.stack(results))
    values, labels = (np.stack(part) for part in zip(*results, strict=True))
    return Scores(values, labels, model.head.num_labels)


def predict_probabilities(
    model: nn.Module,
    documents: Sequence[Sequence[int]],
    params: EmbeddingParams,
    cached_states: Sequence[np.ndarray] = (),
) -> Scores:
    """Probabilities of the labels of N tokenized documents: softmax, or sigmoid for label sets."""
    logits = predict_logits(
        model, documents, token_budget=params.token_budget, cached_states=cached_states
    )
    return logits.sigmoid() if params.multi_label else logits.softmax()


def _in_batches(
    model: nn.Module,
    documents: Sequence[Sequence[int]],
    token_budget: int,
    cached_states: Sequence[np.ndarray],
) -> list:
    """The model's output for each document, as arrays in their order."""
    device = next(model.parameters()).device
    lengths = [len(d) for d in documents]
    outputs: list = [None] * len(documents)
    with maybe_compiled(model, sum(lengths)):
        for batch in micro_batches(lengths, token_budget, packed=skips_padding(model)):
            ids, mask = pad([documents[i] for i in batch], model.config.pad_token_id)
            known = {}
            if cached_states:
                known["cached_states"] = join_states([cached_states[i] for i in batch]).to(device)
            result = model(ids.to(device), mask.to(device), **known)
            if isinstance(result, tuple):
                rows = zip(*(part.cpu().numpy() for part in result), strict=True)
            else:
                rows = result.cpu().numpy()
            for i, row in zip(batch, rows, strict=True):
                outputs[i] = row
    return outputs
