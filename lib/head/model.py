"""A backbone with a pooling head, and what it predicts."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils.output_capturing import maybe_install_capturing_hooks

from lib.head.losses import HeadLoss
from lib.head.pooling import PoolingHead, read_positions
from lib.model.batches import join_states, micro_batches, pad
from lib.model.forward import hidden_layers, maybe_compiled, skips_padding


class EmbeddingModel(nn.Module):
    """A backbone and a `PoolingHead`; any transformers model that returns hidden states will do.

    Parameters
    ----------
    num_labels, mode, kind, bias, mixed_layers
        See `PoolingHead`.
    compute_dtype
        Of the backbone's arithmetic; the head computes in float32.

    Raises
    ------
    ValueError
        More layers are to be mixed than the backbone has.
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
        mixed_layers: int = 1,
    ) -> None:
        super().__init__()
        depth = backbone.config.num_hidden_layers
        if mixed_layers > depth:
            raise ValueError(
                f"mixed_layers: {mixed_layers} were asked for, but the model has {depth}"
            )
        if mixed_layers > 1:
            # transformers records hidden states by hooks that it hangs on the blocks, once a model:
            # the views of `decoder_slice` would each hang their own on the blocks that they share.
            maybe_install_capturing_hooks(backbone)
        self.backbone = backbone
        self.config = backbone.config
        self.compute_dtype = compute_dtype
        self.mixed_layers = mixed_layers
        head = PoolingHead(
            backbone.config.hidden_size,
            num_labels,
            mode,
            kind=kind,
            bias=bias,
            mixed_layers=mixed_layers,
        )
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

    def embed(
        self, input_ids: Tensor, attention_mask: Tensor, cached_states: Tensor | None = None
    ) -> Tensor:
        """Pooled embeddings, (B, H) float32, of right-padded (B, T) input; see `forward`."""
        states = self._states(input_ids, attention_mask, cached_states)
        return self.head.embed(states, attention_mask)

    def _states(
        self, input_ids: Tensor, attention_mask: Tensor, cached_states: Tensor | None
    ) -> Tensor | tuple[Tensor, ...]:
        layers = hidden_layers(
            self.backbone,
            input_ids,
            attention_mask,
            num_layers=self.mixed_layers,
            compute_dtype=self.compute_dtype,
            read=read_positions(attention_mask, self.head.mode),
            cached=cached_states,
        )
        return layers if self.mixed_layers > 1 else layers[0]


@torch.no_grad()
def predict_logits(
    model: nn.Module,
    documents: Sequence[Sequence[int]],
    *,
    token_budget: int,
    cached_states: Sequence[np.ndarray] = (),
) -> np.ndarray | csr_array:
    """Logits of an `EmbeddingModel` for N tokenized documents, in their order.

    Parameters
    ----------
    cached_states
        Of each document, from `lib.model.cache_lower_layers`; or none.

    Returns
    -------
    ndarray or csr_array
        (N, C) float32. With more than `data.labels.DENSE_LABELS` labels only the `NUM_TOP` best of
        each document are kept, in a sparse array.
    """
    model.eval()
    results = _in_batches(model, documents, token_budget, model=model, cached_states=cached_states)
    if not isinstance(results[0], tuple):
        return np.stack(results)
    scores, labels = (np.concatenate(part) for part in zip(*results, strict=True))
    starts = np.arange(len(documents) + 1) * (len(scores) // len(documents))
    return csr_array((scores, labels, starts), shape=(len(documents), model.head.num_labels))


@torch.no_grad()
def predict_embeddings(
    model: nn.Module, documents: Sequence[Sequence[int]], *, token_budget: int
) -> np.ndarray:
    """Pooled embeddings of an `EmbeddingModel`, (N, H) float32, for N tokenized documents."""
    model.eval()
    return np.stack(_in_batches(model.embed, documents, token_budget, model=model))


def _in_batches(
    forward: Callable[..., Tensor | tuple[Tensor, ...]],
    documents: Sequence[Sequence[int]],
    token_budget: int,
    *,
    model: nn.Module,
    cached_states: Sequence[np.ndarray] = (),
) -> list:
    """What `forward` gives for each document, as arrays in their order."""
    device = next(model.parameters()).device
    lengths = [len(d) for d in documents]
    outputs: list = [None] * len(documents)
    with maybe_compiled(model, sum(lengths)):
        for batch in micro_batches(lengths, token_budget, packed=skips_padding(model)):
            ids, mask = pad([documents[i] for i in batch], model.config.pad_token_id)
            known = {}
            if cached_states:
                known["cached_states"] = join_states([cached_states[i] for i in batch]).to(device)
            result = forward(ids.to(device), mask.to(device), **known)
            if isinstance(result, tuple):
                rows = zip(*(part.cpu().numpy() for part in result), strict=True)
            else:
                rows = result.cpu().numpy()
            for i, row in zip(batch, rows, strict=True):
                outputs[i] = row
    return outputs
