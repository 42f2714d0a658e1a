"""A causal language model's parts: its decoder, its head, and next-token logits from states."""

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel


def causal_lm(model: nn.Module) -> PreTrainedModel:
    """The causal language model inside a `PeftModel`, its adapters still active; or itself."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def decoder_of(model: PreTrainedModel) -> PreTrainedModel:
    """The part of a model that gives hidden states; itself, if it has no language-model head."""
    if model.get_output_embeddings() is None:
        return model
    inner = model.get_decoder()
    named = inner is not model and isinstance(inner, PreTrainedModel)
    return inner if named else getattr(model, "model", model)


def keep_text_only(model: PreTrainedModel) -> None:
    """Drop the towers of other media (vision, audio) from a model that also reads text.

    What contains the decoder or the language-model head stays; all else is removed, so that it
    takes no memory, gets no adapters and is not counted.
    """
    needed = {id(model.get_decoder()), id(model.get_output_embeddings())}
    _drop(model, needed)


def _drop(module: nn.Module, needed: set[int]) -> None:
    for name, child in list(module.named_children()):
        inside = {id(m) for m in child.modules()}
        if id(child) in needed:
            continue
        if inside & needed:
            _drop(child, needed)
        else:
            setattr(module, name, None)


def next_token_logits(model: PreTrainedModel, states: Tensor) -> Tensor:
    """The model's logits (..., V) of the token behind each of its last hidden states (..., H).

    Some models scale the output of their head (Granite, Cohere, Falcon-H1) or bound it by tanh
    (Gemma 2).
    """
    logits, config = model.get_output_embeddings()(states), model.config.get_text_config()
    if divisor := getattr(config, "logits_scaling", None):
        logits = logits / divisor
    for name in ("logit_scale", "lm_head_multiplier"):
        logits = logits * (getattr(config, name, None) or 1.0)
    if bound := getattr(config, "final_logit_softcapping", None):
        logits = bound * torch.tanh(logits / bound)
    return logits
