"""The one way to hidden states, and to the logits of the next token.

Each shortcut of `lib.model.fast` is taken here, where it is exact for the model. Callers know none
of them, and a model that was loaded with `fast=False` goes the plain way.

```
input_ids, attention_mask   (B, T), padded on the right
        |  packed: the S real tokens of all documents in one row, no padding computed
        v
[ lower layers | block, block, ... | last block ]
  cached states  compiled            only at the positions that are read
        |
        v
last hidden states          (B, T, H)
```
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from lib.errors import ModelError
from lib.machine import mixed_precision
from lib.model.fast.attention import is_causal, is_packed, packed_pass
from lib.model.fast.blocks import decoder_slice, skip_unread_positions, wrap_for_compiling
from lib.model.parts import decoder_of, first_adapted_layer, pretrained
from lib.model.probes import alone_beyond, rotary_parameters


def last_hidden_states(
    model: nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor,
    *,
    compute_dtype: torch.dtype,
    read: Tensor | None = None,
    cached: Tensor | None = None,
) -> Tensor:
    """Hidden states after the last layer and its norm, (B, T, H), of right-padded input.

    Their dtype is the one that the decoder returns, float32 or bfloat16. Values at padding, and
    where `read` is false, have no meaning.

    Parameters
    ----------
    model
        A decoder or an encoder, with or without adapters and a language-model head.
    input_ids, attention_mask
        (B, T) int64; every row holds a token.
    compute_dtype
        Of matrix products: bfloat16 (autocast), or float32.
    read
        (B, T) bool, true where a state will be used; None for all positions.
    cached
        (S, H) states that enter the first adapted layer, of all S real tokens, row after row
        (`lib.model.fast.cached_layers`); the layers below that layer are then left out.

    Raises
    ------
    ModelError
        A text is so long that the model, with dynamic rotary positions, computes its states by the
        texts that it read before.
    ValueError
        A row holds no token, and the model is packed (`lib.model.fast.attention`).
    """
    decoder = decoder_of(model)
    if cached is not None:
        decoder = decoder_slice(decoder, range(first_adapted_layer(model), len(decoder.layers)))
    given = None if read is None else read[attention_mask.bool()]
    with mixed_precision(input_ids.device, compute_dtype), skip_unread_positions(decoder, given):
        return _layers(decoder, input_ids, attention_mask, 1, cached)[0]


def hidden_layers(
    model: nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor,
    *,
    num_layers: int,
    compute_dtype: torch.dtype,
) -> tuple[Tensor, ...]:
    """Hidden states of the last `num_layers` layers, each as in `last_hidden_states`.

    They are in the order of the layers; the last ones are after the model's final norm.
    """
    with mixed_precision(input_ids.device, compute_dtype):
        return _layers(decoder_of(model), input_ids, attention_mask, num_layers, None)


def _layers(
    decoder: PreTrainedModel, ids: Tensor, mask: Tensor, num_layers: int, embeds: Tensor | None
) -> tuple[Tensor, ...]:
    """`hidden_layers` of token ids, or of (S, H) `embeds` in the place of their embeddings."""
    # In a batch with a text that would change the states of the others, each has its own pass.
    if _depends_on_others(decoder, mask) and len(ids) > 1:
        return _each_alone(decoder, ids, mask, num_layers, embeds)
    packed, real = is_packed(decoder), mask.bool()
    if packed and not real.any(dim=1).all():
        raise ValueError("attention_mask: a row holds no token, so it has no hidden state")
    if packed:
        output = packed_pass(decoder, ids, mask, num_layers=num_layers, embeds=embeds)
    else:  # padding is on the right, where no real token of a causal decoder looks
        options = {"output_hidden_states": num_layers > 1} | _without_cache(type(decoder))
        needed = None if is_causal(decoder) else mask
        output = decoder(input_ids=ids, attention_mask=needed, **options)
    layers = output.hidden_states[-num_layers:] if num_layers > 1 else (output.last_hidden_state,)
    if not packed:
        return layers
    return tuple(  # (S, H) to (B, T, H), zero at padding
        states.new_zeros(*ids.shape, states.shape[-1]).masked_scatter(real[..., None], states)
        for (states,) in layers
    )


@lru_cache
def _without_cache(kind: type) -> dict[str, bool]:
    """Option that keeps a decoder from filling a cache; none for decoders that do not know it.

    Checkpointed layers run twice and would fill a cache twice.
    """
    return {"use_cache": False} if "use_cache" in signature(kind.forward).parameters else {}


def _depends_on_others(decoder: PreTrainedModel, attention_mask: Tensor) -> bool:
    """True if some text is so long that its states depend on the rest of the batch.

    Raises `ModelError` where a pass of its own would not help.
    """
    limit = alone_beyond(decoder)
    if limit is None or int(attention_mask.sum(dim=1).max()) <= limit:
        return False
    # Dynamic rotary positions keep the scale of the longest text so far, also for later passes.
    if any(values.get("rope_type") == "dynamic" for values in rotary_parameters(decoder)):
        raise ModelError(
            f"max_length: {type(decoder).__name__} has dynamic rotary positions, so texts of "
            f"more than {limit:,} tokens depend on those before; lower it"
        )
    return True


def _each_alone(
    decoder: PreTrainedModel, ids: Tensor, mask: Tensor, num_layers: int, embeds: Tensor | None
) -> tuple[Tensor, ...]:
    """`_layers` by one pass per row; padding is zero."""
    lengths, rows = mask.sum(dim=1).tolist(), []
    own = [None] * len(lengths) if embeds is None else embeds.split(lengths)
    for i, (length, part) in enumerate(zip(lengths, own, strict=True)):
        padding = (0, 0, 0, ids.shape[1] - length)
        row = (ids[i : i + 1, :length], mask[i : i + 1, :length])
        layers = _layers(decoder, *row, num_layers, part)
        rows.append([nn.functional.pad(states, padding) for states in layers])
    return tuple(torch.cat(layer) for layer in zip(*rows, strict=True))


def masked_states(
    model: nn.Module,
    input_ids: Tensor,
    positions: Tensor,
    visible: Tensor,
    read: Tensor,
    *,
    compute_dtype: torch.dtype,
    prefix: DynamicCache | None = None,
    cache: DynamicCache | None = None,
    lower: Tensor | None = None,
) -> Tensor:
    """The n last hidden states that are read, (n, H), row after row, under the caller's own mask.

    It serves branches behind a prompt (`lib.prompt.label_scores`).

    Parameters
    ----------
    input_ids, positions, read
        (B, T): tokens, their positions behind the prefix, and true where a state is returned.
    visible
        (B, T, keys) bool: the keys that each token sees, those of the cache first.
    prefix
        Of `prefill`: keys and values that all rows see.
    cache
        Keys and values of each row, to which those of these tokens are added.
    lower
        (B, T, H) of `masked_states_below`; the layers below the first adapted one are then left
        out.
    """
    decoder, device = decoder_of(model), input_ids.device
    tokens = {"input_ids": input_ids}
    if lower is not None:
        decoder = decoder_slice(decoder, range(first_adapted_layer(model), len(decoder.layers)))
        tokens = {"inputs_embeds": lower}
    first = 0 if prefix is None else prefix.get_seq_length()
    behind = {} if prefix is None else {"prefix": prefix}
    behind |= {} if cache is None else {"past_key_values": cache}
    with mixed_precision(device, compute_dtype), skip_unread_positions(decoder, read):
        output = decoder(
            **tokens,
            position_ids=first + positions,
            attention_mask=additive_mask(visible, decoder.dtype),
            use_cache=cache is not None,
            **behind,
        )
    return output.last_hidden_state[read]


def masked_states_below(
    model: nn.Module, input_ids: Tensor, *args: Tensor, **options: Any
) -> Tensor:
    """Hidden states that enter the first adapted layer, (B, T, H), in the decoder's dtype.

    Arguments are those of `masked_states`, without `read`, `cache` and `lower`.
    """
    decoder = decoder_of(model)
    view = decoder_slice(decoder, range(first_adapted_layer(model)))
    every = torch.ones_like(input_ids, dtype=torch.bool)
    states = masked_states(view, input_ids, *args, every, **options)
    return states.to(decoder.dtype).unflatten(0, input_ids.shape)


def additive_mask(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """Mask that transformers adds to attention scores, (B, 1, T, keys), of (B, T, keys) bool.

    Hidden keys have the least finite number, not -inf: a row that sees nothing would become NaN.
    """
    mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return mask.masked_fill(~visible, torch.finfo(dtype).min)[:, None]


def prefill(
    model: nn.Module, tokens: Sequence[int], *, compute_dtype: torch.dtype
) -> DynamicCache | None:
    """Keys and values of the tokens that all rows of `masked_states` begin with.

    None if there are no tokens, or if the model is not packed (`lib.model.fast.attention`): other
    attention cannot read a prefix that rows share.
    """
    decoder = decoder_of(model)
    if not tokens or not is_packed(decoder):
        return None
    ids = torch.tensor([list(tokens)], device=decoder.device)
    with mixed_precision(decoder.device, compute_dtype):
        # A model with a sliding window makes the mask of its windows out of the given one.
        output = decoder(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=True)
    return output.past_key_values


def next_token_logits(
    model: nn.Module, states: Tensor, compute_dtype: torch.dtype = torch.float32
) -> Tensor:
    """Logits (..., V) of the token behind each of a causal model's last hidden states (..., H).

    `lib.model.checks.check_logits` compares them with the model's own.
    """
    model = pretrained(model)
    config = model.config.get_text_config()
    with mixed_precision(states.device, compute_dtype):
        logits = model.get_output_embeddings()(states)
        # Some models scale logits (Granite, Cohere, Falcon-H1) or bound them by tanh (Gemma 2).
        if divisor := getattr(config, "logits_scaling", None):
            logits = logits / divisor
        for name in ("logit_scale", "lm_head_multiplier"):
            logits = logits * (getattr(config, name, None) or 1.0)
        if bound := getattr(config, "final_logit_softcapping", None):
            logits = bound * torch.tanh(logits / bound)
    return logits


def skips_padding(model: nn.Module) -> bool:
    """True if padding costs nothing, so that micro-batches may be cut by real tokens."""
    return is_packed(model)


@contextmanager
def maybe_compiled(model: nn.Module, num_tokens: int) -> Iterator[None]:
    """Context for `num_tokens` tokens of training or prediction: compiled blocks if they pay.

    Compiled blocks fuse norms, rotary positions, activations and residuals into few passes over
    memory. One compilation serves all blocks and all lengths. It takes 10 to 40 seconds, and pays
    from some number of tokens on (`lib.model.fast.blocks.COMPILE_FROM`). The model, this number and
    the machine decide alone, so that the same work is always done in the same arithmetic.
    """
    compiled = wrap_for_compiling(model, num_tokens=num_tokens)
    with torch.compiler.set_stance("default" if compiled else "force_eager"):
        yield
