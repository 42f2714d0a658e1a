"""LoRA adapters on a backbone: added, checked by a first pass, loaded back."""

import logging
import re
from pathlib import Path

import bitsandbytes as bnb
import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.tuners.tuners_utils import _check_lora_target_modules_mamba
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from peft.utils.transformers_weight_conversion import _MOE_TARGET_MODULE_MAPPING
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from transformers.pytorch_utils import Conv1D

from lib.config.groups import LoraParams
from lib.errors import ModelError
from lib.model.checks import check_training
from lib.model.fast.lora_linear import FUSED_LAYERS
from lib.model.parts import decoder_of, pretrained
from lib.model.probes import probes_of
from lib.model.weights import unusable

log = logging.getLogger(__name__)

# Kinds of linear layer whose weights the fused adapters (`lora_linear`) can read.
PLAIN_LAYERS = {nn.Linear, nn.modules.linear.NonDynamicallyQuantizableLinear, bnb.nn.Linear4bit}
# In a mixture of experts, peft replaces names of dense layers in `target_modules` by those of the
# fused experts and adapts the experts of all layers instead. An empty table keeps the names as they
# are. Fused experts are no linear layers and stay without adapters.
_MOE_TARGET_MODULE_MAPPING.clear()


def add_lora(model: nn.Module, params: LoraParams) -> PeftModel:
    """The model with LoRA adapters (arXiv 2106.09685, eq. 3) in fp32 on its linear layers.

    Variants are "lora"; "rslora", with scale alpha / sqrt(r) (arXiv 2312.03732); and "dora",
    direction and magnitude apart (arXiv 2402.09353). All linear layers but the heads are adapted,
    unless `target_modules` names some. Fused experts of a mixture have no adapters. Adapters that
    the hidden states do not depend on, such as a pooler's, are frozen. `lora_layers` is the number
    of adapted blocks, the last ones (0: all); no gradient goes below the first of these blocks.
    Under `lib.machine.mixed_precision` adapters multiply in bfloat16.

    `model` is a backbone, or an `EmbeddingModel`, whose head is then trained in full and saved with
    the adapters. It is changed in place.

    Raises
    ------
    ModelError
        The model lacks one of the named layers, has fewer than `lora_layers` blocks, has 8-bit
        weights ("dora" alone), or cannot be trained with these adapters.
    """
    inner = pretrained(model)
    variant, last_layers = params.lora_variant, params.lora_layers
    if variant == "dora" and any(isinstance(m, bnb.nn.Linear8bitLt) for m in model.modules()):
        raise ModelError('lora_variant: "dora" does not work on 8-bit weights; write "lora"')
    depth = model.config.get_text_config().num_hidden_layers
    if last_layers > depth:
        raise ModelError(f"lora_layers: {last_layers} were asked for, but the model has {depth}")
    # Linear layers outside heads, by the last part of their names, and its number in a list:
    # "q_proj", "experts.3".
    own = model.head if model is not inner else None  # an `EmbeddingModel`'s, on the hidden states
    head = inner.get_output_embeddings() if own is None else own
    inside = set(head.modules()) if isinstance(head, nn.Module) else set()
    linear = {
        re.search(r"[^.]+(\.\d+)*$", name)[0]
        for name, m in model.named_modules()
        if m not in inside and _is_linear(m)
    }
    every = params.target_modules == "all-linear"
    targets = sorted(linear) if every else list(params.target_modules)
    if missing := sorted(set(targets) - linear):
        raise ModelError(
            f"target_modules: {missing} are not layers of this model: {sorted(linear)}"
        )
    config = LoraConfig(
        r=params.lora_r,
        lora_alpha=params.lora_alpha,
        lora_dropout=params.lora_dropout,
        target_modules=targets,
        modules_to_save=None if own is None else ["head"],
        layers_to_transform=list(range(depth - last_layers, depth)) if last_layers else None,
        use_rslora=variant == "rslora",
        use_dora=variant == "dora",
    )
    if every:
        config.target_modules = {name for name in targets if _is_taken(config, inner, name)}
    _use_fused_layers(config, model)
    decoder_of(inner).first_adapted_layer = depth - last_layers if last_layers else 0
    try:
        adapted = get_peft_model(model, config)
        asked = f"adapters {targets} {variant} {params.lora_r} {params.lora_dropout} {last_layers}"
        unreached = probes_of(inner).ask(asked, lambda: check_training(inner))
    except Exception as error:
        raise unusable(
            f"target_modules: {type(inner).__name__} with adapters on {targets}", error,
            "cannot be trained",
        ) from error  # fmt: skip
    for name in unreached:
        inner.get_parameter(name).requires_grad_(False)
    return adapted


def _is_taken(config: LoraConfig, inner: nn.Module, name: str) -> bool:
    """True if peft adapts layers of this name in such a model; it refuses some of Mamba's."""
    try:
        _check_lora_target_modules_mamba(config, inner, name)
    except ValueError:
        log.info("%s: %s stays without adapters, as peft requires", type(inner).__name__, name)
        return False
    return True


@torch.no_grad()
def _is_linear(module: nn.Module) -> bool:
    """True if a layer is linear and nothing else: some routers also choose experts."""
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


def load_lora(model: nn.Module, folder: str | Path, params: LoraParams) -> PeftModel:
    """The model with the adapters (and head) that `save_pretrained` wrote into the folder.

    `params` are those that the adapters were made with.

    Raises
    ------
    ModelError
        The folder has no adapters, lacks some of their tensors or has tensors of others, or the
        adapters were made with another rank, scale or variant than `params` say.
    """
    file = Path(folder) / SAFETENSORS_WEIGHTS_NAME
    try:
        with safe_open(file, "pt") as saved:
            found = set(saved.keys())
        config = LoraConfig.from_pretrained(folder)
        config.inference_mode = True
        variant = params.lora_variant
        given = {"r": params.lora_r, "lora_alpha": params.lora_alpha, "rank_pattern": {},
                 "use_rslora": variant == "rslora", "use_dora": variant == "dora",
                 "alpha_pattern": {}, "init_lora_weights": True}  # fmt: skip
        if wrong := [name for name, value in given.items() if getattr(config, name) != value]:
            raise ValueError(f"{', '.join(wrong)} of its config differ from the run's parameters")
        _use_fused_layers(config, model)
        adapted = PeftModel(model, config)
        expected = get_peft_model_state_dict(adapted, save_embedding_layers=False).keys()
        if missing := sorted(expected - found):  # peft would leave them as made
            raise ValueError(f"{len(missing)} of {len(expected)} tensors are missing: {missing[0]}")
        if other := sorted(found - expected):  # peft would change the base model's
            raise ValueError(f"{len(other)} tensors are of no adapter: {other[0]}")
        adapted.load_adapter(str(folder), adapted.active_adapter)
        copy_adapters(adapted, folder)
    except Exception as error:
        raise unusable(str(file), error) from error
    return adapted


def copy_adapters(adapted: PeftModel, folder: str | Path) -> None:
    """Give a model each tensor that `save_pretrained` wrote into the folder.

    `PeftModel.load_adapter` renames keys as transformers does those of checkpoints of the same
    model type. It then leaves out, without a word, those that had their final name, such as
    Laguna's shared experts.
    """
    tensors = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    for name, saved in load_file(Path(folder) / SAFETENSORS_WEIGHTS_NAME).items():
        tensors[name].copy_(saved)


def _use_fused_layers(config: LoraConfig, model: nn.Module) -> None:
    """Let adapters be `FUSED_LAYERS`, unless some linear layer of the backbone is of another kind.

    peft picks an adapter class by the base class of a layer alone, so that one layer in int8 or fp8
    would get a fused adapter that cannot read its weight: peft's own adapters then serve all
    layers. They also do for a backbone that was loaded with `fast=False`.
    """
    backbone = pretrained(model)
    if not getattr(backbone, "fast", True):
        return
    kinds = {type(m) for m in backbone.modules() if isinstance(m, nn.Linear)}
    if kinds <= PLAIN_LAYERS:
        config._register_custom_module(FUSED_LAYERS)
