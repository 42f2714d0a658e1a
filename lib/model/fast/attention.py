"""Attention over documents packed end to end, causal or in both directions.

A packed micro-batch is one row of all its tokens. Positions start anew at each document, and
attention stays within it, so that no padding is ever computed:

```
padded (B, T)          packed (1, S)              boundaries (B + 1,)
a a a . . . . .
b b b b b b b b   ->   a a a b b b b b b b b c c      0 3 11 13
c c . . . . . .        0 1 2 0 1 2 3 4 5 6 7 0 1      positions
```

transformers passes the boundaries on to whatever attention is registered with its
`AttentionInterface`, under the names that it uses for FlashAttention (`cu_seq_lens_q`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, AttentionMaskInterface, Cache, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.modeling_outputs import BaseModelOutput

from lib.model.fast.packed_attention import packed_attention

NAME = "packed"
_expecting = False  # True during a packed pass: attention then has to get boundaries


def is_causal(model: nn.Module) -> bool:
    """True if every token attends to the left alone."""
    attentions = [m.is_causal for m in model.modules() if hasattr(m, "is_causal")]
    return bool(attentions) and all(attentions)


def is_packed(model: nn.Module) -> bool:
    """True if `lib.model.fast.packing.use_packing` has switched the model, or the one inside it."""
    inner = next((m for m in model.modules() if isinstance(m, PreTrainedModel)), None)
    return inner is not None and inner.config._attn_implementation == NAME


@contextmanager
def boundaries_expected() -> Iterator[None]:
    """Let attention refuse to run without the boundaries of documents.

    Models that do not pass them on would mix documents without a word.
    """
    global _expecting
    before, _expecting = _expecting, True
    try:
        yield
    finally:
        _expecting = before


def packed_pass(
    decoder: PreTrainedModel,
    input_ids: Tensor,
    attention_mask: Tensor,
    *,
    num_layers: int = 1,
    embeds: Tensor | None = None,
) -> BaseModelOutput:
    """The decoder's output, states of (1, S, H), for the S real tokens of (B, T) input.

    `embeds`, (S, H), take the place of the tokens' embeddings. With `num_layers` above 1 the output
    has the states of all layers.
    """
    real = attention_mask.bool()
    positions = (attention_mask.cumsum(dim=1) - 1)[real]  # (S,)
    offsets = nn.functional.pad(attention_mask.sum(dim=1).cumsum(dim=0), (1, 0)).int()  # (B + 1,)
    tokens = {"input_ids": input_ids[real][None]}
    if embeds is not None:
        tokens = {"inputs_embeds": embeds[None]}
    with boundaries_expected():
        return decoder(
            **tokens,
            position_ids=positions[None],
            use_cache=False,
            cu_seq_lens_q=offsets,
            max_length_q=input_ids.shape[1],
            output_hidden_states=num_layers > 1,
        )


def packed_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    cu_seq_lens_q: Tensor | None = None,
    sliding_window: int | None = None,
    prefix: Cache | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: (1, heads, S, D) in, (1, S, heads, D) out.

    Without document boundaries (decoding, scoring) it is transformers' own `sdpa`; with a `prefix`
    that all rows share, it is `attend_with_shared_prefix`.

    Raises
    ------
    ValueError
        Documents are packed, and the model does not pass their boundaries on.
    """
    # Decoding and scoring.
    if prefix is not None:
        shared = prefix.layers[module.layer_idx]
        out = attend_with_shared_prefix(
            shared.keys, shared.values, query, key, value, attention_mask, scaling
        )
        return out.transpose(1, 2), None
    if cu_seq_lens_q is None:
        if _expecting:
            raise ValueError("cu_seq_lens_q: packed documents need their boundaries")
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    # Packed documents. Under autocast, rotary positions may leave queries and keys in fp32, while
    # values have the dtype of the arithmetic.
    q, k, v = (x[0].transpose(0, 1).to(value.dtype) for x in (query, key, value))  # (S, heads, D)
    window, causal = sliding_window or 0, module.is_causal
    if q.is_cuda and _flash_suits(q):
        longest = kwargs["max_length_q"]
        out = varlen_attn(
            q, k, v, cu_seq_lens_q, cu_seq_lens_q, longest, longest, scale=scaling,
            window_size=(window - 1 if window else -1, 0 if causal else -1), enable_gqa=True,
        )  # fmt: skip
    else:
        out = packed_attention(q, k, v, cu_seq_lens_q, scaling, window, causal)
    return out[None], None


def _flash_suits(q: Tensor) -> bool:
    """True if FlashAttention-2 takes such queries on this GPU: 16 bits, heads of at most 256."""
    modern = torch.cuda.get_device_capability(q.device) >= (8, 0)
    return modern and q.dtype != torch.float32 and q.shape[-1] % 8 == 0 and q.shape[-1] <= 256


def packed_mask(*args: Any, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor | None:
    """The mask of `sdpa` if one is given, else None: packed documents have boundaries instead."""
    given = attention_mask is not None
    return sdpa_mask(*args, attention_mask=attention_mask, **kwargs) if given else None


AttentionInterface.register(NAME, packed_attention_forward)
AttentionMaskInterface.register(NAME, packed_mask)


def attend_with_shared_prefix(
    prefix_keys: Tensor,
    prefix_values: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor,
    scale: float,
) -> Tensor:
    """Attention of B rows to a prefix that they share and to their own keys, (B, heads, T, D).

    The prefix is in memory once, and all rows attend to it in one product. The attention to each
    part is weighted by the part's share in the sum of exponentials: the decomposition of Hydragen
    (arXiv 2402.05099, section 3.1).

    Parameters
    ----------
    prefix_keys, prefix_values
        (1, key heads, P, D); every query sees all P.
    query, key, value, mask
        (B, heads, T, D), (B, key heads, L, D) twice, and (B, 1, T, L) to be added to the scores.
    """
    # Queries by their K key heads, R to each; for the prefix, those of all rows side by side.
    rows, key_heads = query.shape[0], key.shape[1]
    q = query.unflatten(1, (key_heads, -1)).to(value.dtype)  # (B, K, R, T, D)
    shared = q.transpose(0, 1).flatten(1, 3)[None]  # (1, K, B R T, D)
    near = mask.expand(-1, q.shape[2], -1, -1).flatten(1, 2)[:, None]  # (B, 1, R T, L)
    # Each part by itself, with the sum of its exponentials.
    far, far_sum = _attend(shared, prefix_keys, prefix_values, 0.0, scale)
    far = far[0].unflatten(1, (rows, -1)).transpose(0, 1)  # (B, K, R T, D)
    far_sum = far_sum[0].unflatten(1, (rows, -1)).transpose(0, 1)
    own, own_sum = _attend(q.flatten(2, 3), key, value, near, scale)
    # The mean of both, weighted by these sums: sigmoid(log a - log b) = a / (a + b).
    share = (far_sum - own_sum).sigmoid().to(own.dtype)
    return (own + share * (far - own)).unflatten(2, q.shape[2:4]).flatten(1, 2)


def _attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | float, scale: float
) -> tuple[Tensor, Tensor]:
    """Attention, and the log of the sum of exponentials, (..., 1) float32."""
    scores = (q @ k.to(v.dtype).mT).float() * scale + mask
    return scores.softmax(-1).to(v.dtype) @ v, scores.logsumexp(-1, keepdim=True)
