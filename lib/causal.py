"""A causal language model's next-token logits, from last hidden states that are computed apart."""

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel


def causal_lm(model: nn.Module) -> PreTrainedModel:
    """The causal language model inside a `PeftModel`, its adapters still active; or itself."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def next_token_logits(model: PreTrainedModel, states: Tensor) -> Tensor:
    """The model's logits (..., V) of the token behind each of its last hidden states (..., H).

    Some models scale the output of their head (Granite, Cohere) or bound it by tanh (Gemma 2).
    """
    logits, config = model.lm_head(states), model.config
    if divisor := getattr(config, "logits_scaling", None):
        logits = logits / divisor
    if factor := getattr(config, "logit_scale", None):
        logits = logits * factor
    if bound := getattr(config, "final_logit_softcapping", None):
        logits = bound * torch.tanh(logits / bound)
    return logits


@torch.no_grad()
def check_logits(model: PreTrainedModel) -> None:
    """Raise `ValueError` if `next_token_logits` are not what the model's own forward pass gives."""
    if not hasattr(model, "model") or not hasattr(model, "lm_head"):
        raise ValueError(f"{type(model).__name__} has no `model` and `lm_head`")
    ids = torch.arange(2, device=model.device)[None]  # any two tokens
    ours = next_token_logits(model, model.model(input_ids=ids).last_hidden_state)
    theirs = model(input_ids=ids).logits
    if not torch.allclose(ours.float(), theirs.float(), rtol=0.01, atol=0.01):
        raise ValueError(f"{type(model).__name__} does more to its logits than is known here")
