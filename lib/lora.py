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


class _LoRALinear(torch.autograd.Function):
    """y = x W^T + b + s (x A^T) B^T (arXiv 2106.09685, eq. 3), W and b frozen.

    With g = dL/dy and h = x A^T: dL/dx = g W + s (g B) A, dL/dA = s (g B)^T x, dL/dB = s g^T h.
    A 4-bit W is dequantized in both passes and never kept; x is shared with the layers beside it.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, base: nn.Linear, a: Tensor, b: Tensor, scale: float) -> Tensor:
        rows = x.flatten(0, -2)  # (N, in)
        weight = layer_weight(base, x.dtype)
        bias = None if base.bias is None else base.bias.to(x.dtype)
        hidden = rows @ a.T  # (N, r)
        out = functional.linear(rows, weight, bias).addmm_(hidden, b.T, alpha=scale)
        ctx.save_for_backward(x, hidden, a, b)
        ctx.base, ctx.scale = base, scale
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        x, hidden, a, b = ctx.saved_tensors
        rows, grad_rows = x.flatten(0, -2), grad.flatten(0, -2)
        grad_hidden = (grad_rows @ b) * ctx.scale  # (N, r)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = (
                (grad_rows @ layer_weight(ctx.base, x.dtype)).addmm_(grad_hidden, a).view(x.shape)
            )
        # h^T g and not g^T h: the tall factor last is up to five times faster on a CPU.
        grad_b = (hidden.T @ grad_rows).T * ctx.scale
        return grad_x, None, grad_hidden.T @ rows, grad_b, None


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
