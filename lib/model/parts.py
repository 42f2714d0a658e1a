"""The parts of a model: the pretrained model inside it, its decoder, its text alone."""

from torch import nn
from transformers import PreTrainedModel


def pretrained(model: nn.Module) -> PreTrainedModel:
    """The transformers model inside adapters or under a head, with its adapters; or the model."""
    return next(m for m in model.modules() if isinstance(m, PreTrainedModel))


def decoder_of(model: nn.Module) -> PreTrainedModel:
    """The part that gives hidden states; the model itself if it has no language-model head."""
    model = pretrained(model)
    if model.get_output_embeddings() is None:
        return model
    inner = model.get_decoder()
    # Of some models, `get_decoder` returns the model itself, or a part that is no model.
    named = inner is not model and isinstance(inner, PreTrainedModel)
    return inner if named else getattr(model, "model", model)


def first_adapted_layer(model: nn.Module) -> int:
    """The first layer that has adapters (`add_lora` with `lora_layers`); 0 where all may train."""
    return getattr(decoder_of(model), "first_adapted_layer", 0)


def keep_text_only(model: PreTrainedModel) -> None:
    """Drop what holds neither the decoder nor the language-model head, such as a vision tower.

    A tower would take memory, get adapters and be counted.
    """
    _drop(model, {id(model.get_decoder()), id(model.get_output_embeddings())})


def _drop(module: nn.Module, needed: set[int]) -> None:
    for name, child in list(module.named_children()):
        if id(child) in needed:
            continue
        if {id(m) for m in child.modules()} & needed:
            _drop(child, needed)
        else:
            setattr(module, name, None)
