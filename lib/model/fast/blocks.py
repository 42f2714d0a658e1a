"""A model's blocks: some of them alone, checkpointed, compiled."""

import copy
import logging
import os
import shutil
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import MethodType
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from lib.machine import memory_of
from lib.model.fast.attention import is_packed
from lib.model.memory import OPTIMIZER_BYTES, PROCESS_GIB, USABLE, Shape, fit_micro_batch
from lib.model.probes import probes_of

log = logging.getLogger(__name__)

COMPILE_FROM = {"16 bits": 200_000, "32 bits": 1_000_000}  # tokens to compute
# A block's parts that take tokens one by one, except the projections to keys and values.
TOKENWISE = ("self_attn.q_proj", "self_attn.o_proj", "mlp")
RECOMPILE_LIMIT = 64  # all models' blocks share one code object; beyond this it would run eagerly
_COMPILED: WeakSet[nn.Module] = WeakSet()  # blocks whose forward pass the compiler has wrapped


class PassThrough(nn.Module):
    """Stands for a block that is left out."""

    def forward(self, hidden_states: Tensor, *args: object, **kwargs: object) -> Tensor:
        """The hidden states as they came."""
        return hidden_states


def only_layers(backbone: PreTrainedModel, layers: range) -> PreTrainedModel:
    """A view of a decoder that runs these of its blocks alone, on the same weights.

    Up to the last block the final norm is its own; without that block there is none. It is for
    decoders that keep their blocks in `layers` and that norm in `norm`.
    """
    view = copy.copy(backbone)
    view._modules = dict(backbone._modules)
    view.layers = nn.ModuleList(
        block if i in layers else PassThrough() for i, block in enumerate(backbone.layers)
    )
    if layers.stop < len(backbone.layers):
        view.norm = nn.Identity()
    return view


@contextmanager
def reading_only(backbone: PreTrainedModel, read: Tensor) -> Iterator[None]:
    """Let the last block of a packed decoder compute what is read of its states, and no more.

    Nothing attends to what the last block gives, so its queries, its output projection and its MLP
    are needed only where states are read. Elsewhere they are taken as zero, and states mean
    nothing. Keys and values are those of all tokens.

    Parameters
    ----------
    read
        Bool for each token that the decoder is given: whether its last hidden state is read. Where
        that is most of them, everything is computed.
    """
    suits = hasattr(backbone, "layers") and is_packed(backbone)
    suits = suits and probes_of(backbone).answers.get("reading", True)
    block = backbone.layers[-1] if suits else None
    rows = read.flatten().nonzero().flatten()
    # A checkpointed block is computed again in the backward pass, when what is below is over.
    again = block is not None and _is_checkpointed(block) and torch.is_grad_enabled()
    if block is None or again or 2 * len(rows) > read.numel():
        yield
        return
    modules = dict(block.named_modules())
    with ExitStack() as stack:
        for module in [modules[name] for name in TOKENWISE if name in modules]:
            stack.enter_context(_forward_as(module, partial(_at_rows, module.forward, rows)))
        if block in _COMPILED:  # in one graph with the blocks below, from which it differs now
            stack.enter_context(_forward_as(block, MethodType(type(block).forward, block)))
        yield


@contextmanager
def _forward_as(module: nn.Module, forward: Callable) -> Iterator[None]:
    before = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before


def _at_rows(forward: Callable[..., Tensor], rows: Tensor, x: Tensor, *args: object) -> Tensor:
    """What `forward` makes of some of the tokens of x, (B, T, ...); zero for the others."""
    out = forward(x.flatten(0, 1).index_select(0, rows)[None], *args)[0]
    whole = out.new_zeros(x.shape[0] * x.shape[1], out.shape[-1])
    return whole.index_copy(0, rows, out).view(*x.shape[:2], -1)


def first_adapted_layer(model: nn.Module) -> int:
    """The first layer that has adapters (`add_lora` with `last_layers`); 0 where all may train."""
    config = getattr(model, "peft_config", {}).get("default")
    return min(getattr(config, "layers_to_transform", None) or [0])


def checkpoint_layers(
    model: nn.Module, *, num_tokens: int, longest: int, memory_gib: float, reserved_gib: float = 0.0
) -> int:
    """Make training fit into memory; the most tokens that a micro-batch may have.

    Micro-batches get smaller, or blocks are computed again in the backward pass: see
    `lib.model.memory.fit_micro_batch`.

    Parameters
    ----------
    num_tokens, longest
        Tokens of the largest micro-batch that is wanted, and of the longest document.
    memory_gib
        What the run should use; 0 for what the device has. It is compared with an estimate: the
        process, the model, its optimizer, and what a micro-batch keeps (`memory.kept_gib`) from
        the first adapted layer on.
    reserved_gib
        What else training takes, such as logits.
    """
    base = _pretrained(model)
    device = base.device.type
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    allowed = memory_gib or USABLE * memory_of(base.device)
    taken = (base.get_memory_footprint() + trained * OPTIMIZER_BYTES) / 2**30 + reserved_gib
    taken += PROCESS_GIB if device == "cpu" else 0.0
    first, depth = first_adapted_layer(model), base.config.get_text_config().num_hidden_layers
    fitting, count = fit_micro_batch(
        Shape.from_config(base.config), num_tokens=num_tokens, longest=longest,
        num_layers=depth - first, itemsize=base.dtype.itemsize, device=device,
        room_gib=allowed - taken,
    )  # fmt: skip
    blocks = _blocks(base)
    if count and len(blocks) != depth:
        log.warning("memory: %s does not say what its layers are, so none is checkpointed",
                    type(base).__name__)  # fmt: skip
        return fitting
    if fitting < num_tokens or count:
        log.info("for %.1f GiB: micro-batches of %d tokens, gradient checkpointing of %d layers",
                 allowed, fitting, count)  # fmt: skip
    for i, block in enumerate(blocks):
        checkpointed = first <= i < first + count
        if checkpointed or _is_checkpointed(block):  # by an earlier call
            _wrap(block, _unwrapped(block), checkpointed=checkpointed)
    return fitting


def _wrap(block: nn.Module, forward: Callable, *, checkpointed: bool) -> None:
    """Checkpointing goes around what is compiled: a compiler keeps what it finds dear within."""
    block.forward = partial(checkpoint, forward, use_reentrant=False) if checkpointed else forward


def _unwrapped(block: nn.Module) -> Callable:
    """The block's forward pass without the checkpointing around it."""
    return block.forward.args[0] if _is_checkpointed(block) else block.forward


def _is_checkpointed(block: nn.Module) -> bool:
    return getattr(block.forward, "func", None) is checkpoint


def _pretrained(model: nn.Module) -> PreTrainedModel:
    return next(m for m in model.modules() if isinstance(m, PreTrainedModel))


def _blocks(model: nn.Module) -> list[nn.Module]:
    """The model's layers, as transformers marks them, from the first to the last."""
    return [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]


@contextmanager
def compiled_if_it_pays(model: nn.Module, num_tokens: int) -> Iterator[None]:
    """Compute so many tokens, in training or in prediction, with compiled blocks or without.

    One compilation serves all blocks and all lengths; it fuses norms, rotary positions, activations
    and residuals into few passes over memory. It takes 10 to 40 seconds, and pays where matrix
    products are fast enough for the rest to count (tests/benchmarks/NOTES.md): from 200,000 tokens
    in 16 bits, from 1,000,000 in 32. Nothing but this number and the machine decides, so that the
    same work is always done in the same arithmetic. Compiling counts as part of the work.
    """
    stance = "default" if compile_layers(model, num_tokens=num_tokens) else "force_eager"
    with torch.compiler.set_stance(stance):
        yield


def compile_layers(model: nn.Module, *, num_tokens: int) -> bool:
    """Wrap each block of a packed model for the compiler, if so many tokens pay for it.

    Returns
    -------
    bool
        Whether the blocks are wrapped; never without a C++ compiler and Python's headers.
    """
    blocks = _blocks(model) if is_packed(model) else []
    low_precision = blocks and _pretrained(model).dtype != torch.float32
    pays = num_tokens >= COMPILE_FROM["16 bits" if low_precision else "32 bits"]
    headers = Path(sysconfig.get_path("include"), "Python.h")
    if not (blocks and pays and shutil.which(os.environ.get("CXX", "g++")) and headers.exists()):
        return False
    fresh = [block for block in blocks if block not in _COMPILED]
    for block in fresh:
        forward = MethodType(type(block).forward, block)
        forward = torch.compile(forward, dynamic=True, recompile_limit=RECOMPILE_LIMIT)
        _wrap(block, forward, checkpointed=_is_checkpointed(block))
        _COMPILED.add(block)
    if fresh:
        log.info("%d blocks will be compiled, in the first step", len(fresh))
    return True
