"""Decoders in which every token also attends to those after it."""

import torch
from transformers import PretrainedConfig, PreTrainedModel

from lib.model.fast.blocks import blocks_of


def bidirectional_config(config: PretrainedConfig) -> PretrainedConfig:
    """The config of a decoder in which every token also attends to those after it.

    It changes the mask as LLM2Vec does (arXiv 2404.05961, section 2.1), by the switches that the
    mask functions of transformers read. A model made from it needs `disable_causal_mask` as well,
    since attention layers have a switch of their own.
    """
    changes = {"is_causal": False}
    if hasattr(config, "use_bidirectional_attention"):  # Gemma's own switch; also halves its window
        changes["use_bidirectional_attention"] = True
    return type(config).from_dict(config.to_dict() | changes)


@torch.no_grad()
def disable_causal_mask(model: PreTrainedModel) -> None:
    """Make the attention of every layer non-causal, in a model with a `bidirectional_config`.

    Raises
    ------
    ValueError
        Some layers have no attention; or the first token still does not see the last one, because
        the model builds its mask by itself.
    """
    attend = [any(hasattr(m, "is_causal") for m in b.modules()) for b in blocks_of(model)]
    if not all(attend):
        raise ValueError(
            f"bidirectional: some layers of {type(model).__name__} have no attention and read from "
            "left to right alone; use another model or leave bidirectional out"
        )
    for module in model.modules():
        if hasattr(module, "is_causal"):
            module.is_causal = False
    # Two texts that differ in their last token: the first token has to have other states.
    input_ids = torch.tensor([[5, 6, 7], [5, 6, 8]], device=model.device)
    first, second = model(input_ids=input_ids).last_hidden_state[:, 0]
    if torch.equal(first, second):
        raise ValueError(
            f"bidirectional: {type(model).__name__} keeps its causal mask, whatever its config "
            "says; use another model or leave bidirectional out"
        )
