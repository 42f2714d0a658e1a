"""LoRA on a frozen linear layer, forward and backward in as few passes over memory as it takes.

peft computes `base(x) + lora_B(lora_A(x)) * scaling`: four operations forward, each with its own
pass over the output and, in training, with its own saved tensors. Here the adapter is added into
the base layer's output, and into the gradient of its input, by the matrix product itself.
"""

from typing import Any

import bitsandbytes as bnb
import torch
from bitsandbytes.functional import dequantize_4bit
from peft.tuners import lora
from torch import Tensor, nn
from torch.nn import functional


@torch.library.custom_op("head_or_prompt::lora_linear", mutates_args=())
def _lora_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    hidden = x @ a.T  # (N, r)
    return functional.linear(x, weight, bias).addmm_(hidden, b.T, alpha=scale), hidden


@torch.library.custom_op("head_or_prompt::lora_linear_backward", mutates_args=())
def _lora_linear_backward(
    grad: Tensor,
    x: Tensor,
    hidden: Tensor,
    weight: Tensor | None,
    a: Tensor,
    b: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """dL/dx, empty without a weight, dL/dA and dL/dB."""
    grad_hidden = (grad @ b).mul_(scale)  # (N, r)
    grad_x = grad.new_empty(0) if weight is None else (grad @ weight).addmm_(grad_hidden, a)
    # h^T g and not g^T h: the tall factor last is up to five times faster on a CPU.
    return grad_x, grad_hidden.T @ x, (hidden.T @ grad).mul_(scale).T.contiguous()


@_lora_linear.register_fake
def _(
    x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    rows = x.shape[0]  # not `len`, which would fix it for the compiler
    return x.new_empty(rows, weight.shape[0]), x.new_empty(rows, a.shape[0])


@_lora_linear_backward.register_fake
def _(
    grad: Tensor,
    x: Tensor,
    hidden: Tensor,
    weight: Tensor | None,
    a: Tensor,
    b: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    grad_x = grad.new_empty(0) if weight is None else torch.empty_like(x)
    return grad_x, torch.empty_like(a), torch.empty_like(b)


class _LoRALinear(torch.autograd.Function):
    """y = x W^T + b + s (x A^T) B^T (arXiv 2106.09685, eq. 3), W and b frozen.

    With g = dL/dy and h = x A^T: dL/dx = g W + s (g B) A, dL/dA = s (g B)^T x, dL/dB = s g^T h.
    A 4-bit W is dequantized in both passes and never kept; x is shared with the layers beside it.
    Each pass is an operator that a compiler does not look into: it would take the products in
    place apart, and copy what they add to.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, base: nn.Linear, a: Tensor, b: Tensor, scale: float) -> Tensor:
        rows = x.flatten(0, -2)  # (N, in)
        bias = None if base.bias is None else base.bias.to(x.dtype)
        out, hidden = _lora_linear(rows, layer_weight(base, x.dtype), bias, a, b, scale)
        ctx.save_for_backward(x, hidden, a, b)
        ctx.base, ctx.scale = base, scale
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        x, hidden, a, b = ctx.saved_tensors
        wanted = ctx.needs_input_grad[0]
        grad_x, grad_a, grad_b = _lora_linear_backward(
            grad.flatten(0, -2),
            x.flatten(0, -2),
            hidden,
            layer_weight(ctx.base, x.dtype) if wanted else None,
            a,
            b,
            ctx.scale,
        )
        return grad_x.view(x.shape) if wanted else None, None, grad_a, grad_b, None


def layer_weight(base: nn.Linear, dtype: torch.dtype) -> Tensor:
    """The layer's weight, (out, in), in the dtype to compute in."""
    if isinstance(base, bnb.nn.Linear4bit):
        return dequantize_4bit(base.weight.data, base.weight.quant_state).to(dtype)
    return base.weight.to(dtype)


class _FusedForward:
    """The forward pass of the two classes below; what it does not know, it leaves to peft."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if args or kwargs or not self._plain():
            self.cast_input_dtype_enabled = False  # no fp32 copy of x, which autocast would undo
            return super().forward(x, *args, **kwargs)
        (adapter,) = self.active_adapters
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        a, b = (part[adapter].weight.to(dtype) for part in (self.lora_A, self.lora_B))
        return _LoRALinear.apply(x.to(dtype), self.base_layer, a, b, self.scaling[adapter])

    def _plain(self) -> bool:
        """One active adapter, of the vanilla kind, that neither is merged nor drops out."""
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


# What `LoraConfig._register_custom_module` takes, peft's extension point for one's own layers.
FUSED_LAYERS = {bnb.nn.Linear4bit: FusedLinear4bit, nn.Linear: FusedLinear}
