"""Language models: loaded, quantized to NF4 and given LoRA adapters."""

import logging
from collections.abc import Sequence
from pathlib import Path

import bitsandbytes as bnb
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from lib.attention import attend_both_ways, use_packing
from lib.attention import bidirectional as both_ways
from lib.causal import check_logits
from lib.costs import unpacks_once
from lib.device import choose_device, choose_dtype, memory_of
from lib.lora import FUSED_LAYERS, layer_weight
from lib.params import LORA_VARIANTS
from lib.weights import ModelError, resolve_model

log = logging.getLogger(__name__)

HEAD_NAMES = ("head", "lm_head")


def load_tokenizer(model_id: str) -> PreTrainedTokenizerBase:
    """The model's tokenizer, named by the model; one without a pad token pads with its end token.

    Raises
    ------
    ModelError
        The model cannot be found, or its tokenizer cannot be read or has no token to pad with.
    """
    folder = resolve_model(model_id)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except Exception as error:
        raise _unloadable(model_id, error) from error
    tokenizer.name_or_path = model_id
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token_id is None:
        raise ModelError(
            f"{model_id}: the tokenizer has neither pad_token nor eos_token; name one in its "
            "tokenizer_config.json"
        )
    return tokenizer


def _unloadable(model_id: str, error: Exception) -> ModelError:
    """What to raise for errors of safetensors, torch, hub and config: they share no base class."""
    first_line = str(error).strip().splitlines()[0] if str(error).strip() else ""
    return ModelError(f"{model_id}: cannot be loaded: {type(error).__name__}: {first_line}")


def load_backbone(
    model_id: str,
    *,
    quantization: str = "nf4",
    dtype: torch.dtype | str = "auto",
    device: torch.device | str = "auto",
    head: str = "none",
    bidirectional: bool = False,
    max_length: int = 512,
    memory_gib: float = 0.0,
) -> PreTrainedModel:
    """The pretrained model in eval mode, frozen, with its pad token set.

    Parameters
    ----------
    model_id
        See `lib.weights.resolve_model`.
    quantization
        "nf4": linear layers in 4-bit NormalFloat with double quantization (QLoRA, arXiv
        2305.14314, sections 2-3), computing in `dtype`. "none": weights as stored.
    dtype, device
        "auto" lets the machine choose (`lib.device`); the choice is logged.
    head
        "none": the backbone, which returns hidden states. "lm": with its language-model head.
    bidirectional
        Let every token attend to those after it too: see `lib.attention.bidirectional`.
    max_length
        Longest input in tokens, where `lib.attention` cannot pack: up to 512 on a CPU plain
        attention is then faster in training than the fused kernel, elsewhere `sdpa` is used.
    memory_gib
        What the run should use; 0 for all that the device has. Where `lib.costs.unpacks_once` says
        so, 4-bit weights are dequantized once instead of in every pass: the same values, bit for
        bit, without the saving of memory.

    Raises
    ------
    ModelError
        The model cannot be found, its weights cannot be read, it cannot attend in both directions,
        or its logits cannot be computed from its last hidden states (`lib.causal`).
    """
    device = choose_device(str(device))
    if isinstance(dtype, str):
        dtype = choose_dtype(device, dtype)
    auto_class = {"none": AutoModel, "lm": AutoModelForCausalLM}[head]
    folder = resolve_model(model_id)
    options = {
        "dtype": dtype,
        "device_map": {"": device},
        "attn_implementation": "eager" if device.type == "cpu" and max_length <= 512 else "sdpa",
    }
    if quantization == "nf4":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    try:
        config = AutoConfig.from_pretrained(folder)
        if config.pad_token_id is None:
            config.pad_token_id = load_tokenizer(model_id).pad_token_id
        if bidirectional:
            config = both_ways(config)
        model = auto_class.from_pretrained(folder, config=config, **options)
    except ModelError:
        raise
    except Exception as error:
        raise _unloadable(model_id, error) from error
    how = quantization
    unpacked = count_parameters(model)[1] * dtype.itemsize / 2**30
    if quantization == "nf4" and unpacks_once(unpacked, memory_gib or memory_of(device)):
        model = model.dequantize(dtype)
        how = "nf4 values, dequantized once,"
    elif quantization == "nf4" and device.type == "cpu":
        for module in model.modules():
            if isinstance(module, bnb.nn.Linear4bit):
                # Without this, bitsandbytes repacks the weights at the first evaluation and trains
                # on in another arithmetic: results would depend on when a run is evaluated.
                module.support_avx512bf16_for_cpu = False
    model.requires_grad_(False)
    model.eval()
    try:
        if head == "lm":
            check_logits(model)
        if bidirectional:
            attend_both_ways(model)
    except ValueError as error:
        raise ModelError(f"{model_id}: {error}") from None
    use_packing(model)
    log.info(
        "%s: %s on %s, %s compute, %s attention, %.2f GiB", model_id, how, device,
        str(dtype).removeprefix("torch."), model.config._attn_implementation,
        model.get_memory_footprint() / 2**30,
    )  # fmt: skip
    return model


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
    Run the model under `lib.device.mixed_precision`: adapters then multiply in bfloat16.

    Raises
    ------
    ValueError
        The model has none of the named layers, or fewer layers.
    """
    if variant not in LORA_VARIANTS:
        raise ValueError(f"lora_variant: {variant!r} is not known; use {', '.join(LORA_VARIANTS)}")
    depth = model.config.num_hidden_layers
    if last_layers > depth:
        raise ValueError(f"lora_layers: {last_layers} were asked for, but the model has {depth}")
    linear = {
        name.split(".")[-1]
        for name, m in model.named_modules()
        if isinstance(m, nn.Linear) and not set(name.split(".")) & set(HEAD_NAMES)
    }
    targets = sorted(linear) if target_modules == "all-linear" else list(target_modules)
    if missing := sorted(set(targets) - linear):
        raise ValueError(
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
    config._register_custom_module(FUSED_LAYERS)
    return get_peft_model(model, config)


@torch.no_grad()
def init_loftq(model: PeftModel, model_id: str) -> None:
    """Start adapters at what quantization has lost: s B A = the largest rank-r part of W - NF4(W).

    One step of LoftQ (arXiv 2310.08659, algorithm 1) for a base that is quantized already, with a
    randomised SVD (arXiv 0909.4061).

    Parameters
    ----------
    model
        With adapters, on an NF4 base, packed or dequantized once.
    model_id
        Where the weights W stand before quantization.
    """
    folder = resolve_model(model_id)
    whole = AutoModel.from_pretrained(folder, dtype="auto")
    weights = {name: m.weight for name, m in whole.named_modules() if isinstance(m, nn.Linear)}
    for name, layer in model.named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        original = next(w for key, w in weights.items() if name.endswith(f".{key}"))
        base = layer_weight(layer.get_base_layer(), torch.float32)
        lost = original.to(base) - base  # (out, in)
        (adapter,) = layer.active_adapters
        r = layer.r[adapter]
        left, singular, right = torch.svd_lowrank(lost, q=min(2 * r, *lost.shape), niter=8)
        root = (singular[:r] / layer.scaling[adapter]).sqrt()
        layer.lora_A[adapter].weight.copy_(root[:, None] * right[:, :r].T)
        layer.lora_B[adapter].weight.copy_(left[:, :r] * root)


def load_lora(model: nn.Module, folder: str | Path) -> PeftModel:
    """The model with the adapters (and head) that `save_pretrained` wrote into the folder."""
    config = LoraConfig.from_pretrained(folder)
    config._register_custom_module(FUSED_LAYERS)
    return PeftModel.from_pretrained(model, folder, config=config)


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """(trainable, total) parameters; a 4-bit weight counts as the parameters it packs."""
    trainable = total = 0
    for name, parameter in model.named_parameters():
        if "original_module" in name:  # peft's untrained copy of a module that it saves whole
            continue
        packed = getattr(parameter, "quant_state", None)
        size = packed.shape.numel() if packed is not None else parameter.numel()
        total += size
        trainable += size if parameter.requires_grad else 0
    return trainable, total
