"""Linear layers of a backbone in int8, for predictions on a CPU.

```
x (N, in), float --/ s, rounded to 8 bits, a scale per token--+
                                                              x -- products and sums of integers
W (out, in), float --* s, int8, a scale per output------------+        |
                                                  scales multiplied in -> y (N, out), float
```

One factor s per input channel moves large inputs into the weights: s_j = sqrt(max|x_j| / max|W_j|),
SmoothQuant (arXiv 2211.10438, eq. 4, alpha 0.5). Without it, the few channels in which decoders
have values a hundred times as large as elsewhere would leave no bits to the others.
"""

import logging
import time
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from lib.errors import InputError
from lib.model.batches import pad
from lib.model.fast.blocks import BlockForward, blocks_of
from lib.model.forward import last_hidden_states
from lib.model.parts import decoder_of
from lib.model.tokens import position_limit
from lib.model.windows import Documents

log = logging.getLogger(__name__)

# Our choices.
NUM_TIMED, LENGTH = 8, 64  # documents of the pass that is timed, and most tokens of each
REPEATS = 5  # of that pass, beside a warm-up
GAIN = 1.1  # int8 is used if it is at least this many times as fast
# A channel's largest input counts as at least this share of the median channel's: channels that
# the few documents hardly use would get a factor near zero.
RARE = 0.1
INPUT_LEVELS = 127  # of a rounded input, on either side of zero


class Int8Linear(nn.Module):
    """A linear layer with int8 weights, by oneDNN's product of integers, on a CPU.

    `largest`, (in,), is the largest absolute input of each channel. Processors without VNNI add two
    products in 16 bits, and 2 * 255 * 64 is less than 2^15: weights have only 64 levels on either
    side of zero there, and 127 elsewhere.
    """

    def __init__(self, layer: nn.Linear, largest: Tensor) -> None:
        super().__init__()
        weight, largest = layer.weight.detach().float(), largest.float()
        tiny = torch.finfo(torch.float32).tiny
        largest = largest.clamp(min=max(RARE * float(largest.median()), tiny))
        factor = (largest / weight.abs().amax(0).clamp(min=1e-6)).sqrt()
        weight = weight * factor
        levels = 127 if torch.cpu._is_vnni_supported() else 64
        self.inverse = 1 / factor
        self.scale = (weight.abs().amax(1) / levels).clamp(min=tiny)
        self.zeros = torch.zeros(len(weight), dtype=torch.int64)
        rounded = (weight / self.scale[:, None]).round().to(torch.int8)
        self.weight = torch.ops.onednn.qlinear_prepack(rounded, None)  # in a layout of oneDNN's
        self.bias = None if layer.bias is None else layer.bias.detach().float()

    def forward(self, x: Tensor) -> Tensor:
        """x W^T + c, (..., out), in the dtype of x (..., in)."""
        rows = x.flatten(0, -2) * self.inverse  # (N, in) float32
        largest = torch.maximum(rows.amax(1, keepdim=True), -rows.amin(1, keepdim=True))
        scale = largest.clamp_(min=1e-30).div_(INPUT_LEVELS)
        zero = INPUT_LEVELS + 1
        rounded = rows.div_(scale).add_(zero + 0.5).to(torch.uint8)  # cutting x + 0.5 rounds x
        out = torch.ops.onednn.qlinear_pointwise(
            rounded, 1.0, zero, self.weight, self.scale, self.zeros, None,
            1.0, 0, torch.float32, "none", [], "",
        ).mul_(scale)  # fmt: skip
        if self.bias is not None:
            out.add_(self.bias)
        return out.to(x.dtype).view(*x.shape[:-1], -1)


@torch.no_grad()
def use_int8(model: nn.Module, documents: Documents, *, compute_dtype: torch.dtype) -> None:
    """Put the linear layers of an unquantized backbone on a CPU into int8, if that is faster here.

    The largest input of each channel is read from a few tokenized documents. Heads stay as they
    are. The log says which layers were replaced, or why none was.

    Raises
    ------
    InputError
        The model is not on a CPU, or has no `nn.Linear`.
    """
    decoder = decoder_of(model)
    if decoder.device.type != "cpu":
        raise InputError(f"int8: made for a CPU, and the model is on {decoder.device}; omit it")
    largest: dict[str, Tensor] = {}

    def record(name: str, x: Tensor) -> None:
        found = x.detach().flatten(0, -2).abs().amax(0)
        largest[name] = torch.maximum(found, largest.get(name, found))

    layers = {name: m for name, m in decoder.named_modules() if type(m) is nn.Linear}
    hooks = [
        layer.register_forward_pre_hook(lambda _, given, name=name: record(name, given[0]))
        for name, layer in layers.items()
    ]
    batch = pad(documents, model.config.pad_token_id)
    last_hidden_states(model, *batch, compute_dtype=compute_dtype)
    for hook in hooks:
        hook.remove()
    if not largest:
        raise InputError(f"int8: {type(decoder).__name__} has no plain linear layers; omit it")
    if not torch.backends.mkldnn.is_available():
        log.info("int8: torch has no such product on this machine; weights stay as they are")
        return
    plain = {name: layers[name] for name in largest}
    quantized = {name: Int8Linear(plain[name], most) for name, most in largest.items()}
    # The time of a whole pass decides: attention is no faster, and inputs have to be rounded.
    length = min(LENGTH, position_limit(model.config) or LENGTH)
    rows = [(list(d) * length)[:length] for d in documents if d]
    ids = torch.tensor([rows[i % len(rows)] for i in range(NUM_TIMED)])

    def seconds(layers: Mapping[str, nn.Module]) -> float:
        _place(decoder, layers)
        began = time.perf_counter()
        last_hidden_states(model, ids, torch.ones_like(ids), compute_dtype=compute_dtype)
        return time.perf_counter() - began

    times = [(seconds(plain), seconds(quantized)) for _ in range(REPEATS + 1)]
    before, after = np.median(times[1:], axis=0)  # the first is a warm-up
    if (gain := before / after) < GAIN:
        _place(decoder, plain)
        log.info("int8: %.1f times as fast on this machine; weights stay as they are", gain)
        return
    for own in map(BlockForward.of, blocks_of(decoder)):
        own.compiled = own.original  # never compiled: weights are in a layout of oneDNN's
    log.info("int8: %d layers; a pass is %.1f times as fast", len(largest), gain)


def _place(decoder: nn.Module, layers: Mapping[str, nn.Module]) -> None:
    for name, layer in layers.items():
        decoder.set_submodule(name, layer)
