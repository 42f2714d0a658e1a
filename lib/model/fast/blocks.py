"""The blocks of a decoder: some of them alone, at some positions alone, compiled, checkpointed."""

import copy
import logging
import os
import shutil
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from lib.model.fast.attention import is_packed
from lib.model.parts import pretrained
from lib.model.probes import probes_of

log = logging.getLogger(__name__)

# Tokens to compute from which compiling pays, by the dtype of the weights
# (tests/benchmarks/NOTES.md). In bfloat16, matrix products take less of the time, so that compiling
# the rest pays earlier.
COMPILE_FROM = {torch.bfloat16: 200_000, torch.float32: 1_000_000}
# Parts of a block that take tokens one by one, except the projections to keys and values.
TOKENWISE = ("self_attn.q_proj", "self_attn.o_proj", "mlp")
# Blocks of all models share one code object. With more variants of it than this, torch would run
# the blocks without compiling (our choice).
RECOMPILE_LIMIT = 64


class BlockForward:
    """The forward pass of one block: as it was, compiled, or checkpointed.

    It takes the place of the block's `forward`. A compiled pass is checkpointed as a whole, from
    outside: inside it, the compiler would save expensive intermediates anyway.
    """

    def __init__(self, original: Callable) -> None:
        self.original = original
        self.compiled: Callable | None = None
        self.checkpointed = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The block's output, by the compiled pass if there is one."""
        forward = self.compiled or self.original
        if self.checkpointed:
            return checkpoint(forward, *args, use_reentrant=False, **kwargs)
        return forward(*args, **kwargs)

    @staticmethod
    def of(block: nn.Module) -> "BlockForward":
        """The block's `BlockForward`, installed now if it has none."""
        if not isinstance(block.forward, BlockForward):
            block.forward = BlockForward(block.forward)
        return block.forward


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The model's layers, as transformers marks them, from the first to the last."""
    return [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]


def checkpoint_blocks(model: nn.Module, chosen: range) -> None:
    """Compute the chosen blocks again in the backward pass (gradient checkpointing), no others."""
    for i, block in enumerate(blocks_of(model)):
        if i in chosen or isinstance(block.forward, BlockForward):  # chosen by an earlier call
            BlockForward.of(block).checkpointed = i in chosen


class PassThrough(nn.Module):
    """A block that does nothing, in place of one that is left out."""

    def forward(self, hidden_states: Tensor, *args: object, **kwargs: object) -> Tensor:
        """The hidden states as they came."""
        return hidden_states


def decoder_slice(decoder: PreTrainedModel, layers: range) -> PreTrainedModel:
    """A view of a decoder that runs some of its blocks alone, on the same weights.

    The final norm is applied only if the last block is among them. The decoder has to keep its
    blocks in `layers` and its final norm in `norm`; callers compare the parts with the whole model.
    """
    view = copy.copy(decoder)
    view._modules = dict(decoder._modules)
    view.layers = nn.ModuleList(
        block if i in layers else PassThrough() for i, block in enumerate(decoder.layers)
    )
    if layers.stop < len(decoder.layers):
        view.norm = nn.Identity()
    return view


@contextmanager
def skip_unread_positions(decoder: PreTrainedModel, read: Tensor | None) -> Iterator[None]:
    """Let the last block of a packed decoder compute the states that are read, and no others.

    Nothing attends to the output of the last block, so its queries, its output projection and its
    MLP are needed only where states are read. Elsewhere they are taken as zero, and the states have
    no meaning. Keys and values are those of all tokens:

    ```
    tokens         a a a b b b b c c
    read           . . 1 . . . 1 . 1     as a head on the last token does
    keys, values   k k k k k k k k k     of all tokens
    q, o, MLP      . . x . . . x . x     at three of nine
    ```

    `read` is bool, one per token that the decoder is given; None if all are read. If most are, or
    if the decoder is not packed, or this is not exact for it (`lib.model.checks.reads_last_block`),
    or the block is checkpointed and trains, all are computed.
    """
    suits = read is not None and hasattr(decoder, "layers") and is_packed(decoder)
    if not (suits and probes_of(decoder).answers.get("reading", True)):
        yield
        return
    block, rows = decoder.layers[-1], read.flatten().nonzero().flatten()
    own = BlockForward.of(block)
    # A checkpointed block is computed again in the backward pass, after this context.
    again = own.checkpointed and torch.is_grad_enabled()
    if again or 2 * len(rows) > read.numel():
        yield
        return
    modules = dict(block.named_modules())
    with ExitStack() as stack:
        for module in [modules[name] for name in TOKENWISE if name in modules]:
            at_rows = partial(_at_rows, module.forward, rows)
            stack.enter_context(_replaced(module, "forward", at_rows))
        # Not compiled: the other blocks share the compiled code, and this one differs from them.
        stack.enter_context(_replaced(own, "compiled", None))
        yield


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Replace an attribute of an object for a while."""
    before = {name: vars(owner)[name]} if name in vars(owner) else {}
    setattr(owner, name, value)
    try:
        yield
    finally:
        delattr(owner, name)  # a method of the class comes back
        vars(owner).update(before)


def _at_rows(forward: Callable[..., Tensor], rows: Tensor, x: Tensor, *args: object) -> Tensor:
    """`forward` of the chosen `rows` of the B T tokens of x, (B, T, ...); zero for the others."""
    out = forward(x.flatten(0, 1).index_select(0, rows)[None], *args)[0]
    whole = out.new_zeros(x.shape[0] * x.shape[1], out.shape[-1])
    return whole.index_copy(0, rows, out).view(*x.shape[:2], -1)


def wrap_for_compiling(model: nn.Module, *, num_tokens: int) -> bool:
    """Let each block of a packed model be compiled in its first pass, if `num_tokens` pay for it.

    Returns True if blocks are wrapped; False for a model that is not packed, for few tokens, or
    without a C++ compiler and Python's headers.
    """
    blocks = blocks_of(model) if is_packed(model) else []
    if not blocks:
        return False
    full = pretrained(model).dtype == torch.float32
    pays = num_tokens >= COMPILE_FROM[torch.float32 if full else torch.bfloat16]
    headers = Path(sysconfig.get_path("include"), "Python.h")
    if not (pays and shutil.which(os.environ.get("CXX", "g++")) and headers.exists()):
        return False
    fresh = [own for own in map(BlockForward.of, blocks) if own.compiled is None]
    for own in fresh:
        own.compiled = torch.compile(own.original, dynamic=True, recompile_limit=RECOMPILE_LIMIT)
    if fresh:
        log.info("%d blocks will be compiled, in the first step", len(fresh))
    return True
