"""LoRA adapters on a backbone: added, checked by a first pass, loaded back."""

from collections.abc import Sequence
from pathlib import Path

import bitsandbytes as bnb
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lib.config.arms import LORA_VARIANTS
from lib.errors import ModelError
from lib.model.checks import check_training
from lib.model.fast.lora_linear import FUSED_LAYERS
from lib.model.probes import probes_of
from lib.model.weights import unusable

HEAD_NAMES = ("head", "lm_head")
# Kinds of linear layer whose weight the fused adapters know.
PLAIN_LAYERS = {nn.Linear, nn.modules.linear.NonDynamicallyQuantizableLinear, bnb.nn.Linear4bit}


def add_lora(
    model: nn.Module,
    *,
    r: int,
    alpha: int,
    dropout: float = 0.0,
    target_modules: str | Sequence[str] = "all-linear",
    variant: str = "lora",
    last_layers: int = 0,
) -> PeftModel:
    """The model with LoRA adapters (arXiv 2106.09685, eq. 3) in fp32 on its linear layers.

    Parameters
    ----------
    r, alpha, dropout
        Rank, numerator of the scale alpha / r, and dropout on the adapter's input.
    target_modules
        Names of the layers, or "all-linear": every linear layer except the heads. A submodule
        called `head` is trained in full and saved with the adapter.
    variant
        "lora"; "rslora": scale alpha / sqrt(r) (arXiv 2312.03732); "dora": direction and magnitude
        apart (arXiv 2402.09353).
    last_layers
        Adapt the last so many layers alone, so that no gradient goes further down; 0 for all.

    Notes
    -----
    Run the model under `lib.machine.mixed_precision`: adapters then multiply in bfloat16.

    Raises
    ------
    ModelError
        The model has none of the named layers, or fewer layers, or cannot be trained with them.
    ValueError
        The variant is not known.
    """
    inner = next(m for m in model.modules() if isinstance(m, PreTrainedModel))
    if variant not in LORA_VARIANTS:
        raise ValueError(f"lora_variant: {variant!r} is not known; use {', '.join(LORA_VARIANTS)}")
    if variant == "dora" and any(isinstance(m, bnb.nn.Linear8bitLt) for m in model.modules()):
        raise ModelError('lora_variant: "dora" does not work on 8-bit weights; write "lora"')
    depth = model.config.get_text_config().num_hidden_layers
    if last_layers > depth:
        raise ModelError(f"lora_layers: {last_layers} were asked for, but the model has {depth}")
    linear = {
        name.split(".")[-1]
        for name, m in model.named_modules()
        if _is_linear(m) and not set(name.split(".")) & set(HEAD_NAMES)
    }
    targets = sorted(linear) if target_modules == "all-linear" else list(target_modules)
    if missing := sorted(set(targets) - linear):
        raise ModelError(
            f"target_modules: {missing} are not layers of this model: {sorted(linear)}"
        )
    config = LoraConfig(
        r=r,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=targets,
        modules_to_save=["head"] if hasattr(model, "head") else None,
        layers_to_transform=list(range(depth - last_layers, depth)) if last_layers else None,
        use_rslora=variant == "rslora",
        use_dora=variant == "dora",
    )
    _use_fused_layers(config, model)
    try:
        adapted = get_peft_model(model, config)
        asked = f"adapters {targets} {variant} {r} {dropout} {last_layers}"
        probes_of(inner).ask(asked, lambda: check_training(inner))
    except Exception as error:
        raise unusable(
            f"target_modules: {type(inner).__name__} with adapters on {targets}", error,
            "cannot be trained",
        ) from error  # fmt: skip
    return adapted


@torch.no_grad()
def _is_linear(module: nn.Module) -> bool:
    """True if a layer is linear and no more: some routers are one and choose experts as well."""
    if not isinstance(module, nn.Linear) or type(module) in PLAIN_LAYERS:
        return isinstance(module, (nn.Linear, Conv1D))
    weight = module.weight
    if not weight.is_floating_point():  # packed in a format of its own
        return True
    try:
        out = module(weight.new_zeros(1, 1, module.in_features))
    except (RuntimeError, TypeError, ValueError):
        return False
    return isinstance(out, torch.Tensor) and out.shape == (1, 1, module.out_features)


def load_lora(model: nn.Module, folder: str | Path) -> PeftModel:
    """The model with the adapters (and head) that `save_pretrained` wrote into the folder."""
    config = LoraConfig.from_pretrained(folder)
    _use_fused_layers(config, model)
    return PeftModel.from_pretrained(model, folder, config=config)


def _use_fused_layers(config: LoraConfig, model: nn.Module) -> None:
    """Let adapters be `FUSED_LAYERS`, unless some layer's weight is in another format.

    Kinds of linear layer of their own (int8, fp8) are left to peft, all of them: it asks for a
    layer's base class only.
    """
    kinds = {type(m) for m in model.modules() if isinstance(m, nn.Linear)}
    if kinds <= PLAIN_LAYERS:
        config._register_custom_module(FUSED_LAYERS)
