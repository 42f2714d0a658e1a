"""The precision that weights are in: as a checkpoint stores them, and as a model holds them."""

from torch import nn
from transformers import PretrainedConfig


def stored_quantization(config: PretrainedConfig) -> str:
    """The format that a checkpoint's weights are quantized in, by its config; "none" for none.

    bitsandbytes' formats are "int8", "nf4" and "fp4"; others have the name of their method, such
    as "gptq", "awq", "fp8" and "mxfp4".
    """
    stored = getattr(config, "quantization_config", None)
    stored = stored or getattr(config.get_text_config(), "quantization_config", None)
    if not stored:
        return "none"
    values = stored if isinstance(stored, dict) else stored.to_dict()
    if values.get("load_in_4bit"):
        return str(values.get("bnb_4bit_quant_type", "fp4"))
    if values.get("load_in_8bit"):
        return "int8"
    method = values.get("quant_method")
    return str(getattr(method, "value", method))


def count_weights(parameter: nn.Parameter) -> int:
    """Weights that a parameter holds; a packed 4-bit one holds more than it has elements."""
    packed = getattr(parameter, "quant_state", None)
    return packed.shape.numel() if packed is not None else parameter.numel()


def nf4_share(model: nn.Module) -> float:
    """Share of a model's weights that are in NF4, in [0, 1].

    Linear layers alone can be: embeddings, and the experts of many mixtures, are not.
    """
    states = [(p, getattr(p, "quant_state", None)) for p in model.parameters()]
    packed = sum(count_weights(p) for p, s in states if s is not None and s.quant_type == "nf4")
    return packed / max(1, sum(count_weights(p) for p, _ in states))
