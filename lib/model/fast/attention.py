"""Attention over documents packed end to end, causal or in both directions.

A packed micro-batch is one row of all its tokens; positions start anew at each document and
attention stays within it, so that no padding is ever computed. transformers passes the boundaries
on to whatever attention is registered with its `AttentionInterface`, under the names it uses for
FlashAttention (`cu_seq_lens_q`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    Cache,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput

from lib.errors import ModelError
from lib.model.fast.packed_attention import packed_attention
from lib.model.probes import alone_beyond

NAME = "packed"
# Whether the pass that is running has packed documents: boundaries then have to arrive.
_packing = False


def is_causal(model: nn.Module) -> bool:
    """Whether every token attends to the left alone."""
    attentions = [m.is_causal for m in model.modules() if hasattr(m, "is_causal")]
    return bool(attentions) and all(attentions)


def is_packed(model: nn.Module) -> bool:
    """Whether `use_packing` has switched the model, or the model inside it."""
    inner = next((m for m in model.modules() if isinstance(m, PreTrainedModel)), None)
    return inner is not None and inner.config._attn_implementation == NAME


def bidirectional(config: PretrainedConfig) -> PretrainedConfig:
    """The config of a decoder in which every token also attends to those after it.

    The change of mask of LLM2Vec (arXiv 2404.05961, section 2.1), by the switches that the mask
    functions of transformers read. The model made of it goes through `attend_both_ways`.
    """
    changes = {"is_causal": False}
    if hasattr(config, "use_bidirectional_attention"):  # Gemma's own; it halves the window too
        changes["use_bidirectional_attention"] = True
    return type(config).from_dict(config.to_dict() | changes)


@torch.no_grad()
def attend_both_ways(model: PreTrainedModel) -> None:
    """Tell the attention of a model made with a `bidirectional` config that it is not causal.

    Raises
    ------
    ValueError
        Its first token still cannot see its last one: the model builds its mask by itself. Or some
        of its layers have no attention.
    """
    blocks = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not all(any(hasattr(m, "is_causal") for m in block.modules()) for block in blocks):
        raise ValueError(
            f"bidirectional: some layers of {type(model).__name__} have no attention and read from "
            "left to right alone; use another model or leave bidirectional out"
        )
    for module in model.modules():
        if hasattr(module, "is_causal"):
            module.is_causal = False
    input_ids = torch.tensor([[5, 6, 7], [5, 6, 8]], device=model.device)
    first, second = model(input_ids=input_ids).last_hidden_state[:, 0]
    if torch.equal(first, second):
        raise ValueError(
            f"bidirectional: {type(model).__name__} keeps its causal mask, whatever its config "
            "says; use another model or leave bidirectional out"
        )


@contextmanager
def _packed_pass() -> Iterator[None]:
    """Let attention refuse to run without the boundaries of documents."""
    global _packing
    before, _packing = _packing, True
    try:
        yield
    finally:
        _packing = before


def hidden_states(
    backbone: PreTrainedModel,
    input_ids: Tensor,
    attention_mask: Tensor,
    *,
    num_layers: int = 1,
    inputs_embeds: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """Hidden states of the last `num_layers` layers, (B, T, H) each, of right-padded (B, T) input.

    A packed backbone takes `inputs_embeds`, (S, H) of all S real tokens, in place of their ids.

    Packed where `use_packing` has found it exact: zeros stand where there is padding. Otherwise
    padding is computed, what stands there means nothing, and a causal backbone is spared the mask,
    because no real token sees the padding behind it.
    """
    if _beyond(backbone, attention_mask):
        if any(getattr(m, "rope_type", None) == "dynamic" for m in backbone.modules()):
            raise ModelError(
                f"max_length: {type(backbone).__name__} has dynamic rotary positions, so texts of "
                f"more than {alone_beyond(backbone):,} tokens depend on those before; lower it"
            )
        if len(input_ids) > 1:
            return _each_alone(backbone, input_ids, attention_mask, num_layers, inputs_embeds)
    several = {"output_hidden_states": num_layers > 1}
    if not is_packed(backbone):
        mask = None if is_causal(backbone) else attention_mask
        output = backbone(input_ids=input_ids, attention_mask=mask, **several)
        return _last_layers(output, num_layers)
    real = attention_mask.bool()
    if not real.any(dim=1).all():
        raise ValueError("attention_mask: a row holds no token, so it has no hidden state")
    positions = (attention_mask.cumsum(dim=1) - 1)[real]  # (S,): S real tokens
    offsets = nn.functional.pad(attention_mask.sum(dim=1).cumsum(dim=0), (1, 0)).int()  # (B + 1,)
    if inputs_embeds is None:
        tokens = {"input_ids": input_ids[real][None]}
    else:
        tokens = {"inputs_embeds": inputs_embeds[None]}
    with _packed_pass():
        output = backbone(
            **tokens,
            position_ids=positions[None],
            use_cache=False,
            cu_seq_lens_q=offsets,
            max_length_q=input_ids.shape[1],
            **several,
        )
    return tuple(
        packed.new_zeros(*input_ids.shape, packed.shape[-1]).masked_scatter(real[..., None], packed)
        for (packed,) in _last_layers(output, num_layers)  # (S, H)
    )


def _beyond(backbone: PreTrainedModel, attention_mask: Tensor) -> bool:
    """True if a text is so long that its states depend on what stands beside it in the batch."""
    limit = alone_beyond(backbone)
    return limit is not None and int(attention_mask.sum(dim=1).max()) > limit


def _each_alone(
    backbone: PreTrainedModel,
    input_ids: Tensor,
    attention_mask: Tensor,
    num_layers: int,
    inputs_embeds: Tensor | None,
) -> tuple[Tensor, ...]:
    """`hidden_states` of rows that each have a pass of their own; zeros stand at padding."""
    lengths, rows = attention_mask.sum(dim=1).tolist(), []
    embeds = [None] * len(lengths) if inputs_embeds is None else inputs_embeds.split(lengths)
    for i, (length, own) in enumerate(zip(lengths, embeds, strict=True)):
        part = (input_ids[i : i + 1, :length], attention_mask[i : i + 1, :length])
        layers = hidden_states(backbone, *part, num_layers=num_layers, inputs_embeds=own)
        beyond = (0, 0, 0, input_ids.shape[1] - length)
        rows.append([nn.functional.pad(states, beyond) for states in layers])
    return tuple(torch.cat(layer) for layer in zip(*rows, strict=True))


def _last_layers(output: BaseModelOutput, num_layers: int) -> tuple[Tensor, ...]:
    return output.hidden_states[-num_layers:] if num_layers > 1 else (output.last_hidden_state,)


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

    Without document boundaries (decoding, scoring) it is transformers' own `sdpa`; or, behind a
    `prefix` that all rows share, `attend_behind`.

    Raises
    ------
    ValueError
        Documents are packed, and the model does not hand their boundaries on.
    """
    if prefix is not None:
        shared = prefix.layers[module.layer_idx]
        out = attend_behind(shared.keys, shared.values, query, key, value, attention_mask, scaling)
        return out.transpose(1, 2), None
    if cu_seq_lens_q is None:
        if _packing:
            raise ValueError("cu_seq_lens_q: packed documents need their boundaries")
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    # Under autocast rotary positions may leave queries and keys in fp32; values tell the dtype.
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
    """FlashAttention-2 wants 16 bits, compute capability 8.0 and heads of at most 256."""
    modern = torch.cuda.get_device_capability(q.device) >= (8, 0)
    return modern and q.dtype != torch.float32 and q.shape[-1] % 8 == 0 and q.shape[-1] <= 256


def packed_mask(*args: Any, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor | None:
    """A mask only where one is given: packed documents are told apart by their boundaries."""
    if attention_mask is None:
        return None
    return sdpa_mask(*args, attention_mask=attention_mask, **kwargs)


AttentionInterface.register(NAME, packed_attention_forward)
AttentionMaskInterface.register(NAME, packed_mask)


def attend_behind(
    prefix_keys: Tensor,
    prefix_values: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor,
    scale: float,
) -> Tensor:
    """Attention of B rows to a prefix that they share and to their own keys, (B, heads, T, D).

    The prefix stands in memory once, and all rows attend to it in one product. The two parts are
    joined by the sums of their exponentials: the decomposition of Hydragen (arXiv 2402.05099,
    section 3.1).

    Parameters
    ----------
    prefix_keys, prefix_values
        (1, key heads, P, D); every query sees all P.
    query, key, value, mask
        (B, heads, T, D), (B, key heads, L, D) twice, and (B, 1, T, L) to be added to the scores.
    """
    rows, key_heads = query.shape[0], key.shape[1]
    q = query.unflatten(1, (key_heads, -1)).to(value.dtype)  # (B, K, R, T, D)
    shared = q.transpose(0, 1).flatten(1, 3)[None]  # (1, K, B R T, D)
    near = mask.expand(-1, q.shape[2], -1, -1).flatten(1, 2)[:, None]  # (B, 1, R T, L)
    far, far_sum = _attend(shared, prefix_keys, prefix_values, 0.0, scale)
    far = far[0].unflatten(1, (rows, -1)).transpose(0, 1)  # (B, K, R T, D)
    far_sum = far_sum[0].unflatten(1, (rows, -1)).transpose(0, 1)
    own, own_sum = _attend(q.flatten(2, 3), key, value, near, scale)
    share = (far_sum - own_sum).sigmoid().to(own.dtype)
    return (own + share * (far - own)).unflatten(2, q.shape[2:4]).flatten(1, 2)


def _attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | float, scale: float
) -> tuple[Tensor, Tensor]:
    """Attention, and the logarithm of the sum of its exponentials, (..., 1) float32."""
    scores = (q @ k.to(v.dtype).mT).float() * scale + mask
    return scores.softmax(-1).to(v.dtype) @ v, scores.logsumexp(-1, keepdim=True)
