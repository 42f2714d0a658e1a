"""LoRA on a frozen linear layer, in as few passes over memory as possible.

peft computes `base(x) + lora_B(lora_A(x)) * scaling`: four operations, each with its own pass over
the output and, in training, its own saved tensors. Here the matrix product itself adds the adapter
to the base layer's output, and to the gradient of its input:

```
x (N, in) --+-- W, frozen, in 4 bits -------------> y (N, out)
            +-- A --> h (N, r) -- B, added in place --^
```
"""

from typing import Any

import bitsandbytes as bnb
import torch
from peft.tuners import lora
from torch import Tensor, nn
from torch.nn import functional

_OPERATORS = torch.library.Library("head_or_prompt", "FRAGMENT")
_WEIGHT = "Tensor[] weight, int[] blocks"
_OPERATORS.define(
    f"lora_linear(Tensor x, {_WEIGHT}, Tensor? bias, Tensor a, Tensor b) -> (Tensor, Tensor)"
)
_OPERATORS.define(
    f"lora_linear_backward(Tensor grad, Tensor x, Tensor hidden, {_WEIGHT}, Tensor a, Tensor b, "
    "bool wanted) -> (Tensor, Tensor, Tensor)"
)


def _lora_linear(
    x: Tensor, weight: list[Tensor], blocks: list[int], bias: Tensor | None, a: Tensor, b: Tensor
) -> tuple[Tensor, Tensor]:
    """The output (N, out), and h (N, r) for the gradient."""
    dense = _dense(weight, blocks, (b.shape[0], a.shape[1]), x.dtype)
    hidden = x @ a.T
    return functional.linear(x, dense, bias).addmm_(hidden, b.T), hidden


def _lora_linear_backward(
    grad: Tensor,
    x: Tensor,
    hidden: Tensor,
    weight: list[Tensor],
    blocks: list[int],
    a: Tensor,
    b: Tensor,
    wanted: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """dL/dx (N, in), which is empty unless `wanted`, dL/da (r, in) and dL/db (out, r)."""
    grad_hidden = grad @ b  # (N, r)
    grad_x = grad.new_empty(0)
    if wanted:
        dense = _dense(weight, blocks, (b.shape[0], a.shape[1]), x.dtype)
        grad_x = (grad @ dense).addmm_(grad_hidden, a)
    # h^T g and not g^T h: the tall factor last is up to five times faster on a CPU.
    return grad_x, grad_hidden.T @ x, (hidden.T @ grad).T


def _fake_forward(x: Tensor, *parts: Any) -> tuple[Tensor, Tensor]:
    *_, a, b = parts
    rows = x.shape[0]  # `len` would be an int, and the compiled code good for one length alone
    return x.new_empty(rows, b.shape[0]), x.new_empty(rows, a.shape[0])


def _fake_backward(grad: Tensor, x: Tensor, *parts: Any) -> tuple[Tensor, Tensor, Tensor]:
    *_, a, b, wanted = parts
    grad_x = torch.empty_like(x) if wanted else grad.new_empty(0)
    return grad_x, torch.empty_like(a), b.new_empty(b.shape[::-1]).T


for _name, _real, _fake in (
    ("lora_linear", _lora_linear, _fake_forward),
    ("lora_linear_backward", _lora_linear_backward, _fake_backward),
):
    _OPERATORS.impl(_name, _real, "CompositeExplicitAutograd")
    torch.library.register_fake(f"head_or_prompt::{_name}", _fake)


class _LoRALinear(torch.autograd.Function):
    """y = x W^T + c + (x A^T) B^T, W and c frozen (arXiv 2106.09685, eq. 3, the scale within B).

    With g = dL/dy and h = x A^T: dL/dx = g W + (g B) A, dL/dA = (g B)^T x, dL/dB = g^T h. A 4-bit
    W is dequantized in both passes and never kept; x is shared with the layers beside it.

    Each pass is registered as one opaque operator. Otherwise torch.compile would split the in-place
    additions (extra copies) and keep the dequantized W from the forward to the backward pass.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, base: nn.Linear, a: Tensor, b: Tensor) -> Tensor:
        rows = x.flatten(0, -2)  # (N, in)
        bias = None if base.bias is None else base.bias.to(x.dtype)
        out, hidden = torch.ops.head_or_prompt.lora_linear(rows, *_parts(base), bias, a, b)
        ctx.save_for_backward(x, hidden, a, b)
        ctx.base = base
        return out  # (N, out), no view: some models change it in place

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        x, hidden, a, b = ctx.saved_tensors
        wanted = ctx.needs_input_grad[0]
        grad_x, grad_a, grad_b = torch.ops.head_or_prompt.lora_linear_backward(
            grad, x.flatten(0, -2), hidden, *_parts(ctx.base), a, b, wanted
        )
        return grad_x.view(x.shape) if wanted else None, None, grad_a, grad_b


def _parts(base: nn.Linear) -> tuple[list[Tensor], list[int]]:
    """A layer's weight as the operators take it, and the sizes of bitsandbytes' blocks, if any.

    The weight is a matrix, or it is 4-bit values and the scales of their blocks. These scales may
    be 8-bit values with scales of their own (double quantization, arXiv 2305.14314, section 3).
    """
    if not isinstance(base, bnb.nn.Linear4bit):
        return [base.weight], []
    state = base.weight.quant_state
    if not state.nested:
        return [base.weight.data, state.absmax], [state.blocksize]
    scales = [state.absmax, state.offset, state.state2.absmax, state.state2.code]
    return [base.weight.data, *scales], [state.blocksize, state.state2.blocksize]


def _dense(
    weight: list[Tensor], blocks: list[int], shape: tuple[int, int], dtype: torch.dtype
) -> Tensor:
    """The matrix of these parts, (out, in), as bitsandbytes makes it."""
    if not blocks:
        return weight[0].to(dtype)
    values, scales, *nested = weight
    if nested:
        offset, *codebook = nested
        scales = torch.ops.bitsandbytes.dequantize_blockwise(
            scales, *codebook, blocks[1], torch.float32
        ).add_(offset)
    return torch.ops.bitsandbytes.dequantize_4bit(values, scales, blocks[0], "nf4", shape, dtype)


class _FusedForward:
    """The forward pass of the two classes below; other cases are left to peft."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if args or kwargs or not self._plain():
            # Autocast would undo an fp32 copy of x; without it, fp32 adapters need one.
            self.cast_input_dtype_enabled = not torch.is_autocast_enabled(x.device.type)
            return super().forward(x, *args, **kwargs)
        (adapter,) = self.active_adapters
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        a = self.lora_A[adapter].weight.to(dtype)
        b = (self.lora_B[adapter].weight * self.scaling[adapter]).to(dtype)
        out = _LoRALinear.apply(x.to(dtype), self.base_layer, a, b)
        return out.view(*x.shape[:-1], -1)

    def _plain(self) -> bool:
        """True if the fused pass can compute this layer.

        It needs one active, unmerged adapter, plain LoRA without a bias or (in training) dropout,
        and a weight that is dense or in NF4. A model of the hub may be in another 4-bit format.
        """
        state = getattr(self.base_layer.weight, "quant_state", None)
        if state is not None and state.quant_type != "nf4":
            return False
        if self.disable_adapters or self.merged or len(self.active_adapters) != 1:
            return False
        name = self.active_adapters[0]
        if name not in self.lora_A or name in self.lora_variant or self.lora_bias[name]:
            return False
        return not self.training or isinstance(self.lora_dropout[name], nn.Identity)


class FusedLinear(_FusedForward, lora.Linear):
    """peft's LoRA layer of an `nn.Linear`; parameters, names and checkpoints are peft's."""


class FusedLinear4bit(_FusedForward, lora.Linear4bit):
    """peft's LoRA layer of a bitsandbytes `Linear4bit`."""


# For `LoraConfig._register_custom_module`, peft's extension point for layers of one's own.
FUSED_LAYERS = {bnb.nn.Linear4bit: FusedLinear4bit, nn.Linear: FusedLinear}
