"""Pretrained models: loaded, quantized to NF4 and checked."""

import hashlib
import inspect
import json
import logging
from contextlib import nullcontext
from typing import Any

import bitsandbytes as bnb
import torch
from torch import nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    BitsAndBytesConfig,
    PretrainedConfig,
    PreTrainedModel,
)

from lib.errors import ModelError
from lib.fingerprints import computing_fingerprint
from lib.machine import GIB, choose_device, choose_dtype, memory_of
from lib.model.bidirectional import bidirectional_config, disable_causal_mask
from lib.model.checks import check_logits, check_padding, reads_last_block, suits_eager
from lib.model.fast.blocks import blocks_of
from lib.model.fast.packing import use_packing
from lib.model.memory import should_dequantize
from lib.model.parts import decoder_of, keep_text_only
from lib.model.probes import Probes, alone_beyond, in_float32
from lib.model.quantization import count_weights, nf4_share, stored_quantization
from lib.model.tokens import require_rows
from lib.model.weights import load_config, load_tokenizer, pretrained_source, unusable

log = logging.getLogger(__name__)


def load_backbone(
    model_id: str,
    *,
    revision: str = "",
    quantization: str = "nf4",
    dtype: torch.dtype | str = "auto",
    device: torch.device | str = "auto",
    head: str = "none",
    bidirectional: bool = False,
    max_length: int = 512,
    memory_gib: float = 0.0,
    depth: int = 0,
    fast: bool = True,
) -> PreTrainedModel:
    """The pretrained model in eval mode, frozen, with its pad token set.

    Its attributes `quantization`, `nf4_share` and `fast` say how it was loaded; `probes` remembers
    which shortcuts are exact for it (`lib.model.probes`).

    Parameters
    ----------
    model_id, revision
        See `resolve_model` and `pretrained_source` of `lib.model.weights`.
    quantization
        "nf4": linear layers in 4-bit NormalFloat with double quantization (QLoRA, arXiv
        2305.14314, sections 2-3), computing in `dtype`. "none": weights as stored.
    dtype, device
        Of the arithmetic and of unquantized weights; "auto" lets the machine choose
        (`lib.machine`). The choice is logged.
    head
        "none": the backbone, which returns hidden states. "lm": with its language-model head.
    bidirectional
        True if every token also attends to those after it: see `bidirectional_config`.
    max_length
        Longest input in tokens. For up to 512 tokens on a CPU, a model that is not packed
        (`lib.model.fast.attention`) uses plain attention, which then trains faster than the fused
        kernel, if it gives the same states. Other models keep their default, mostly `sdpa`.
    memory_gib
        GiB that the run may take; 0 for what the device has. Where there is room
        (`should_dequantize`), 4-bit weights are dequantized once instead of in every pass: the same
        values, bit for bit.
    depth
        Number of blocks that are kept, the first ones; 0 for all.
    fast
        True for weights that are dequantized once, and for the shortcuts of `lib.model.fast` that
        are exact for the model. False for padding, peft's own adapters and every layer in every
        pass: equal within rounding.

    Raises
    ------
    ModelError
        The model cannot be found, its weights cannot be read or are stored in another format than
        asked, its tokenizer has tokens without a row in the embedding, `depth` or `bidirectional`
        does not suit it, or a first pass over two documents fails (`lib.model.checks`).
    """
    device = choose_device(str(device))
    dtype = choose_dtype(device, dtype) if isinstance(dtype, str) else dtype
    source = pretrained_source(model_id, revision)
    tokenizer = load_tokenizer(model_id, revision)
    try:
        # The config, and whether it suits what was asked.
        config = load_config(model_id, revision, depth=depth)
        stored = stored_quantization(config)
        _refuse(config, head, quantization, stored)
        if depth:
            _require_same_blocks(config, load_config(model_id, revision), head)
        text_config = config.get_text_config()
        several = text_config is not config  # with towers for images or sound
        if getattr(text_config, "pad_token_id", None) is None:
            text_config.pad_token_id = tokenizer.pad_token_id
        config.pad_token_id = text_config.pad_token_id
        if bidirectional:
            config = bidirectional_config(config)
        # The weights: of the text model alone, quantized, and unpacked again where there is room.
        options = {"dtype": dtype, "device_map": {"": device}}
        if quantization == "nf4" and stored == "none":
            options["quantization_config"] = BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=dtype,
            )
        model = _auto_class(config, head).from_pretrained(**source, config=config, **options)
        require_rows(tokenizer, model.get_input_embeddings().weight.shape[0])
        if several:
            keep_text_only(model)
        share = nf4_share(model)
        how = f"NF4 ({share:.0%} of the weights)" if share else f"weights as stored ({stored})"
        if fast and share and stored == "none":
            unpacked = count_parameters(model)[1] * dtype.itemsize / GIB
            if should_dequantize(unpacked, memory_gib or memory_of(device)):
                model = model.dequantize(dtype)
                how += ", dequantized once"
        if several and head == "none":
            model = model.get_decoder()
    except ModelError:
        raise
    except Exception as error:
        raise unusable(model_id, error) from error
    model.quantization, model.nf4_share = "nf4" if share else stored, share
    model.fast = fast
    for module in model.modules():
        if device.type == "cpu" and isinstance(module, bnb.nn.Linear4bit):
            # bitsandbytes would repack the weights in the first evaluation, and training would go
            # on in another arithmetic.
            module.support_avx512bf16_for_cpu = False
    model.requires_grad_(False)
    model.eval()
    eager = device.type == "cpu" and max_length <= 512
    model.probes = decoder_of(model).probes = Probes(_structure(model, f"{how}, {eager}"))
    try:
        _check(model, head=head, bidirectional=bidirectional, eager=eager)
    except Exception as error:
        what = "cannot be used"
        if share and type(error) is not ValueError:  # our checks raise ValueError, its pass others
            remedy = 'write quantization: "none"' if stored == "none" else "name another model"
            what = f"cannot compute with weights in NF4; {remedy}"
        raise unusable(model_id, error, what) from error
    log.info(
        "%s: %s on %s, %s compute, %s attention, %.2f GiB", model_id, how, device,
        str(dtype).removeprefix("torch."), model.config._attn_implementation,
        model.get_memory_footprint() / GIB,
    )  # fmt: skip
    return model


def _refuse(config: PretrainedConfig, head: str, quantization: str, stored: str) -> None:
    """Raise `ValueError` for a model that the study's approaches do not fit."""
    kind = _auto_class(config, head)._model_mapping.get(type(config), None)
    kind = kind[0] if isinstance(kind, tuple) else kind
    if getattr(config, "is_encoder_decoder", False) or (
        kind and "decoder_input_ids" in inspect.signature(kind.forward).parameters
    ):
        raise ValueError("it is an encoder-decoder; name a decoder or an encoder")
    if quantization == "nf4" and stored not in ("none", "nf4"):
        raise ValueError(
            f"its weights are stored as {stored}, not as NF4; write "
            'quantization: "none" to use them as they are, or name an unquantized model'
        )


def _require_same_blocks(config: PretrainedConfig, whole: PretrainedConfig, head: str) -> None:
    """Raise `ValueError` if the blocks of a model cut short differ from the whole model's first.

    In some architectures a block's sizes or values depend on the number of blocks.
    """
    try:
        shorter, longer = (_anatomy(c, head) for c in (config, whole))
        same = shorter.items() <= longer.items()
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError):
        same = False  # the shorter one cannot be built at all
    if not same:
        raise ValueError(
            f"depth: the blocks of {whole.model_type} depend on how many there are; write depth: 0"
        )


def _anatomy(config: PretrainedConfig, head: str) -> dict[str, Any]:
    """Shapes of a model's weights and the plain values that its blocks hold, by their names."""
    with torch.device("meta"):
        model = _auto_class(config, head).from_config(config)
    found = {name: tuple(p.shape) for name, p in model.named_parameters()}
    inside = {m for block in blocks_of(model) for m in block.modules()}
    for name, module in model.named_modules():
        if module in inside:
            plain = {k: v for k, v in vars(module).items() if isinstance(v, (int, float, str))}
            found |= {f"{name} {key}": value for key, value in plain.items()}
    return found


def _auto_class(config: PretrainedConfig, head: str) -> type:
    """The class that loads a config's model: alone, or with its language-model head ("lm")."""
    if head == "none":
        return AutoModel
    text_alone = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING
    return AutoModelForCausalLM if text_alone else AutoModelForImageTextToText


def _check(model: PreTrainedModel, *, head: str, bidirectional: bool, eager: bool) -> None:
    """Choose a model's attention; raise `ValueError` if a pass over two documents goes wrong."""
    if bidirectional:
        disable_causal_mask(model)
    probes = model.probes
    with in_float32(model) if probes.is_new else nullcontext():  # cast once, not for each question
        is_packed = model.fast and use_packing(model)  # with attention of its own
        if eager and not is_packed and probes.ask("eager", lambda: suits_eager(model)):
            model.set_attn_implementation("eager")
        if head == "lm":
            probes.ask("logits", lambda: check_logits(model))
        if is_packed:
            alone = alone_beyond(model) is not None
            probes.ask("reading", lambda: not alone and reads_last_block(model))
        else:
            probes.ask("padding", lambda: check_padding(model))


def _structure(model: PreTrainedModel, how: str) -> str:
    """A hash of what decides if shortcuts are exact for a model: all but the values of weights."""
    about = (type(model).__name__, model.config.to_json_string(), how, model.fast,
             str(model.dtype), model.device.type, str(model.config._attn_implementation),
             computing_fingerprint("model.load", "model.adapters", "prompt.decode"))  # fmt: skip
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:32]


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """(trainable, total) parameters; a 4-bit weight counts as the parameters it packs."""
    # Without peft's untrained copy of a module that it saves whole.
    own = [p for name, p in model.named_parameters() if "original_module" not in name]
    trainable = sum(count_weights(p) for p in own if p.requires_grad)
    return trainable, sum(map(count_weights, own))
