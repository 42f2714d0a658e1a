"""From hidden states to one embedding per document, and from there to logits."""

import numpy as np
import torch
from torch import Tensor, nn

from lib.config.choices import POOLINGS
from lib.config.groups import HeadParams
from lib.data.labels import NUM_TOP
from lib.head.chunked import chunked_loss, chunked_top
from lib.head.classifiers import KINDS
from lib.head.losses import HeadLoss

NUM_LATENTS = 64  # of attention pooling; our choice, since NV-Embed trains 512 on far more text


def pool(hidden_states: Tensor, attention_mask: Tensor, mode: str) -> Tensor:
    """One embedding per document, (B, H) float32, the same under left, right and no padding.

    Parameters
    ----------
    hidden_states
        (B, T, H), any float dtype; computed in float32.
    attention_mask
        (B, T), 1 at real tokens, 0 at padding. Ids would not show padding: a text may contain the
        pad token.
    mode
        "last": the last real token (arXiv 2512.12677). "cls": the first one, where an encoder has
        its [CLS]. "mean": the mean over real tokens. "weighted_mean": real token t of 1..n weighs
        t, since a causal model has read more by then (SGPT, arXiv 2202.08904). "max": the largest
        value of each dimension.

    Raises
    ------
    ValueError
        Unknown mode, or a row of padding alone.
    """
    mask = attention_mask.to(hidden_states.device).bool()
    if not mask.any(dim=1).all():
        rows = (~mask.any(dim=1)).nonzero().flatten().tolist()
        raise ValueError(f"attention_mask: rows {rows} hold no token, so there is nothing to pool")
    if mode in ("cls", "last"):
        return hidden_states[read_positions(mask, mode)].float()
    if mode == "max":
        return hidden_states.float().masked_fill(~mask[..., None], -torch.inf).amax(dim=1)
    if mode in ("mean", "weighted_mean"):
        weights = mask.float() if mode == "mean" else mask * mask.cumsum(dim=1).float()  # (B, T)
        states = hidden_states.float().masked_fill(~mask[..., None], 0.0)
        return torch.einsum("bth,bt->bh", states, weights / weights.sum(dim=1, keepdim=True))
    raise ValueError(f"pooling: {mode!r} is not known; use {', '.join(POOLINGS)}")


def read_positions(attention_mask: Tensor, mode: str) -> Tensor:
    """Positions that `mode` reads, (B, T) bool: one real token of each row, or all real tokens."""
    mask = attention_mask.bool()
    if mode == "cls":
        return mask & (mask.cumsum(dim=1) == 1)
    if mode == "last":
        return mask & (mask.flip(1).cumsum(dim=1).flip(1) == 1)
    return mask


class AttentionPooling(nn.Module):
    """Latent attention in float32: tokens attend to latents, pass an MLP, and are averaged.

    With X the (T, H) hidden states, Q = LayerNorm(X) and K = V the R trained latents, (R, H):
    O = softmax(Q K^T / sqrt(H)) V and Y = X + W O + b; the result is the mean over tokens of
    Y + MLP(Y). It is the latent attention of NV-Embed (arXiv 2405.17428), with the residuals of its
    authors' code. W, b and the MLP's last layer start at zero: untrained, it is the mean of X.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(NUM_LATENTS, hidden_size) / hidden_size**0.5)
        self.norm = nn.LayerNorm(hidden_size)
        self.output = nn.Linear(hidden_size, hidden_size)
        self.mlp = nn.Sequential(
            nn.LayerNorm(hidden_size),
            nn.Linear(hidden_size, hidden_size),
            nn.GELU(),
            nn.Linear(hidden_size, hidden_size),
        )
        for last in (self.output, self.mlp[-1]):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, hidden_states: Tensor, attention_mask: Tensor) -> Tensor:
        """(B, H) float32 of (B, T, H) hidden states; see `pool`."""
        states = hidden_states.float()
        keys = self.latents[None].expand(len(states), -1, -1)  # (B, R, H)
        attended = nn.functional.scaled_dot_product_attention(self.norm(states), keys, keys)
        states = states + self.output(attended)
        return pool(states + self.mlp(states), attention_mask, "mean")


class PoolingHead(nn.Module):
    """A pooling and a classifier: C logits for each of B documents, never for B x T positions.

    The weights are float32; the head computes outside of autocast and of 4-bit quantization.
    `params.pooling` is a mode of `pool`, or "attention" for `AttentionPooling`; `params.head` and
    `params.head_bias` choose the classifier (`lib.head.classifiers`).
    """

    def __init__(self, hidden_size: int, num_labels: int, params: HeadParams) -> None:
        super().__init__()
        self.mode = params.pooling
        self.num_labels = num_labels
        self.attention = AttentionPooling(hidden_size) if self.mode == "attention" else None
        self.classifier = KINDS[params.head](hidden_size, num_labels, params.head_bias)

    @torch.no_grad()
    def init_bias(self, label_counts: np.ndarray, num_documents: int) -> None:
        """Set the bias so that each label starts at its share of the training documents.

        `label_counts` are the documents of each label, (C,). Without this, most steps of a
        multi-label training would go into learning that labels are rare (arXiv 1708.02002, section
        3.3). Shares are (n + 1) / (N + 2) for n of N documents, so never 0 or 1. The classifier has
        to have a bias.
        """
        shares = (torch.as_tensor(label_counts) + 1) / (num_documents + 2)
        self.classifier.bias.copy_(torch.logit(shares))

    def forward(self, hidden_states: Tensor, attention_mask: Tensor) -> Tensor:
        """(B, C) float32 logits of (B, T, H) hidden states and their (B, T) mask; see `pool`."""
        with torch.autocast(attention_mask.device.type, enabled=False):
            return nn.functional.linear(*self._factors(hidden_states, attention_mask))

    def loss(
        self, hidden_states: Tensor, attention_mask: Tensor, targets: Tensor, loss: HeadLoss
    ) -> Tensor:
        """Loss, a scalar summed over documents, by `chunked_loss`; targets are described there."""
        with torch.autocast(attention_mask.device.type, enabled=False):
            return chunked_loss(*self._factors(hidden_states, attention_mask), targets, loss)

    def top(self, hidden_states: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        """The `NUM_TOP` best labels by `chunked_top`, if (N, C) logits would not fit in memory."""
        with torch.autocast(attention_mask.device.type, enabled=False):
            return chunked_top(*self._factors(hidden_states, attention_mask), NUM_TOP)

    def _factors(
        self, hidden_states: Tensor, attention_mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """(B, D) features of the pooled states, (C, D) weight and (C,) bias of the classifier."""
        if self.attention is not None:
            pooled = self.attention(hidden_states, attention_mask)
        else:
            pooled = pool(hidden_states, attention_mask, self.mode)
        return self.classifier.features(pooled), self.classifier.weight, self.classifier.bias
