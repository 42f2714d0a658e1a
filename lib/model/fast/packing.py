"""Packing, switched on for models that it is exact for: by their config, then by their states.

A packed model reads several documents as one row without padding (`lib.model.fast.attention`).
"""

import logging

import torch
from transformers import PreTrainedModel

from lib.model.fast.attention import NAME, is_causal, packed_pass
from lib.model.parts import decoder_of
from lib.model.probes import (
    UNABLE,
    WINDOW,
    document_rows,
    in_float32,
    probes_of,
    short_window,
    states_agree,
    states_alone,
)

log = logging.getLogger(__name__)


def use_packing(model: PreTrainedModel) -> bool:
    """Switch a model to packed attention if that is exact for it; True if it is.

    Candidates are decoders with rotary positions whose attention has no soft cap, sinks, dropout or
    latent keys: Llama, Mistral, Qwen, Gemma 3 and their kin, causal with or without a sliding
    window, or in both directions without one. A pass over packed documents decides for each of
    them (`_packs_exactly`).
    """
    if not _may_pack(model):
        return False
    own = model.config._attn_implementation
    exact = probes_of(model).ask("packing", lambda: _packs_exactly(model))
    model.set_attn_implementation(NAME if exact else own)
    if not exact:
        log.info("%s: packed documents would see each other, so they are padded",
                 type(model).__name__)  # fmt: skip
    return exact


def _may_pack(model: PreTrainedModel) -> bool:
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    windowed = "sliding_attention" in kinds or getattr(config, "sliding_window", None)
    # `bidirectional_config` sets it; configs of encoders leave it out.
    is_bidirectional = getattr(model.config, "is_causal", True) is False
    return (
        (is_causal(model) or (is_bidirectional and not windowed))
        and model._supports_attention_backend
        and getattr(config, "rope_parameters", None) is not None
        and getattr(config, "attn_logit_softcapping", None) is None
        and not getattr(config, "attention_dropout", 0.0)
        and getattr(config, "kv_lora_rank", None) is None
        and not any(hasattr(m, "sinks") for m in model.modules())
        and kinds <= {"full_attention", "sliding_attention"}
    )


@torch.no_grad()
def _packs_exactly(model: PreTrainedModel) -> bool:
    """True if a document, longer than a sliding window, has the states that it has alone.

    ```
    alone:         bbbbbbbbbbbbbbbb     the model's own attention
    packed:  aaa   bbbbbbbbbbbbbbbb     attention has to end where the documents meet
    ```
    """
    decoder, own = decoder_of(model), model.config._attn_implementation
    ids, mask = document_rows(decoder, 3, 2 * WINDOW + 4)
    with in_float32(model) as exact, short_window(model):
        (alone,) = states_alone(decoder, [ids[1].tolist()])
        model.set_attn_implementation(NAME)
        try:
            packed = packed_pass(decoder, ids, mask).last_hidden_state[0]
        except UNABLE:
            return False
        finally:
            model.set_attn_implementation(own)
    return all(
        states_agree(part, whole, exact=exact)
        for part, whole in zip(packed[3:].split(WINDOW), alone.split(WINDOW), strict=True)
    )
