"""From hidden states to one embedding a document, and from embeddings to logits."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lib.attention import hidden_states
from lib.data import micro_batches
from lib.device import mixed_precision


def pool(hidden_states: Tensor, attention_mask: Tensor, mode: str) -> Tensor:
    """One embedding a document, (B, H) float32, the same under left, right and no padding.

    Parameters
    ----------
    hidden_states
        (B, T, H), any float dtype.
    attention_mask
        (B, T), 1 at real tokens. Token ids are never looked at: a pad token may occur in a text.
    mode
        "last": the last real token (arXiv 2512.12677). "mean": the mean over real tokens.

    Raises
    ------
    ValueError
        Unknown mode, or a row of padding alone.
    """
    mask = attention_mask.to(hidden_states.device)
    if not mask.any(dim=1).all():
        rows = (~mask.any(dim=1)).nonzero().flatten().tolist()
        raise ValueError(f"attention_mask: rows {rows} hold no token, so there is nothing to pool")
    if mode == "last":
        positions = torch.arange(mask.shape[1], device=mask.device)
        last = (positions * mask).argmax(dim=1)  # (B,)
        return hidden_states[torch.arange(len(last), device=last.device), last].float()
    if mode == "mean":
        weights = mask.float().unsqueeze(-1)  # (B, T, 1)
        return (hidden_states.float() * weights).sum(dim=1) / weights.sum(dim=1)
    raise ValueError(f'pooling: {mode!r} is not known; use "last" or "mean"')


class PoolingHead(nn.Module):
    """Pools first and classifies then: C logits for B documents, never for B x T positions.

    The weights are float32 and stay out of autocast and of 4-bit quantization. With
    `num_labels=0` the pooled embedding itself is returned.
    """

    def __init__(self, hidden_size: int, num_labels: int, mode: str) -> None:
        super().__init__()
        self.mode = mode
        linear = nn.Linear(hidden_size, num_labels, dtype=torch.float32) if num_labels else None
        self.linear = linear or nn.Identity()

    @torch.no_grad()
    def init_bias(self, label_counts: np.ndarray, num_documents: int) -> None:
        """Let the untrained head give each label its share of the training documents.

        Without it most steps of a multi-label training go into learning that labels are rare
        (arXiv 1708.02002, section 3.3). Shares are (n + 1) / (N + 2), so never 0 or 1.

        Parameters
        ----------
        label_counts
            (C,) training documents of each label.
        """
        shares = (torch.as_tensor(label_counts) + 1) / (num_documents + 2)
        self.linear.bias.copy_(torch.logit(shares))

    def forward(self, hidden_states: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits, (B, C) float32, of (B, T, H) hidden states."""
        pooled = pool(hidden_states, attention_mask, self.mode)  # (B, H)
        with torch.autocast(pooled.device.type, enabled=False):
            return self.linear(pooled)


class EmbeddingModel(nn.Module):
    """A backbone and a `PoolingHead`; any transformers model that returns hidden states will do."""

    def __init__(
        self, backbone: PreTrainedModel, *, num_labels: int, mode: str, compute_dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.config = backbone.config
        self.compute_dtype = compute_dtype
        self.head = PoolingHead(backbone.config.hidden_size, num_labels, mode).to(backbone.device)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits, (B, C) float32, of right-padded (B, T) input."""
        with mixed_precision(input_ids.device, self.compute_dtype):
            states = hidden_states(self.backbone, input_ids, attention_mask)
        return self.head(states, attention_mask)


def pad(documents: Sequence[Sequence[int]], pad_token_id: int) -> tuple[Tensor, Tensor]:
    """Right-padded `input_ids` and `attention_mask`, both (B, T) int64."""
    length = max(map(len, documents))
    input_ids = torch.full((len(documents), length), pad_token_id)
    attention_mask = torch.zeros_like(input_ids)
    for i, tokens in enumerate(documents):
        input_ids[i, : len(tokens)] = torch.tensor(tokens)
        attention_mask[i, : len(tokens)] = 1
    return input_ids, attention_mask


@torch.no_grad()
@torch.compiler.set_stance("force_eager")  # one arithmetic, whether training was compiled or not
def predict_logits(
    model: nn.Module, documents: Sequence[Sequence[int]], *, token_budget: int
) -> np.ndarray:
    """Outputs of an `EmbeddingModel`, (N, C) float32, for N tokenized documents in their order."""
    model.eval()
    device = next(model.parameters()).device
    outputs: list[np.ndarray] = [np.empty(0)] * len(documents)
    for batch in micro_batches([len(d) for d in documents], token_budget):
        ids, mask = pad([documents[i] for i in batch], model.config.pad_token_id)
        for i, row in zip(batch, model(ids.to(device), mask.to(device)).cpu().numpy(), strict=True):
            outputs[i] = row
    return np.stack(outputs)
