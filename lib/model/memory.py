"""Memory that a model takes, from its shapes; and training that fits into what there is.

```
allowed: `memory_gib`, or 90 % of the device
|-- process --|-- weights, adapters, optimizer --|-- logits --|-- activations of a micro-batch --|
                                                              |<---------- room_gib ------------>|
too little room:  1. smaller micro-batches, while that costs little
                  2. as large ones as before, and as few checkpointed layers as suffice
                  3. all layers checkpointed, and smaller micro-batches after all
```

Constants without a source are our choices or, where a comment says so, fitted to measurements.
tests/benchmarks/NOTES.md shows how far estimates are from runs.
"""

import logging
from dataclasses import dataclass
from functools import partial
from typing import Self

import torch
from torch import nn
from transformers import AutoModel, PretrainedConfig
from transformers.pytorch_utils import Conv1D

from lib.machine import GIB, memory_of
from lib.model.fast.blocks import blocks_of, checkpoint_blocks
from lib.model.parts import first_adapted_layer, pretrained

log = logging.getLogger(__name__)

# Elements kept for the backward pass per token and layer, as multiples of the hidden and of the
# intermediate size. Fitted to SmolLM2-135M on CPUs and to shapes of 1, 3 and 8 billion weights on
# one H200; compiled blocks keep less (9 times the hidden size on a CPU; 6 and 3 times on a GPU).
KEPT = {"cpu": (14, 4), "cuda": (9, 4)}
BUSY_TOKENS = {"cpu": 512, "cuda": 2048}  # in a micro-batch; in a smaller one a token costs more
USABLE = 0.9  # of a device's memory; the rest is the driver's and lost to fragmentation
ROW_BYTES = 10  # per logit under a loss: in bfloat16, its fp32 copy and its fp32 gradient
PROCESS_GIB = 0.9  # Python, torch and transformers, imported (measured)
NF4_BYTES = 0.5 + 1 / 64 + 4 / 64 / 256  # weight, 8-bit scale of 64, fp32 scale of 256 scales
OPTIMIZER_BYTES = 12  # per weight that trains: fp32 gradient and AdamW's two moments


@dataclass(frozen=True)
class Shape:
    """Sizes of a model, which decide its costs."""

    num_layers: int
    hidden: int
    intermediate: int
    attention_width: int
    vocabulary: int
    linear: tuple[tuple[int, int], ...]  # (out, in) of every linear layer of its blocks
    embedding_params: int  # all parameters but those of `linear`, most of them the embedding's
    lm_head_params: int  # of a language-model head; 0 if it is tied to the embedding

    @classmethod
    def from_config(cls, config: PretrainedConfig) -> Self:
        """Shape of the model that the config describes, of any architecture, without weights."""
        config = config.get_text_config()
        with torch.device("meta"):
            model = AutoModel.from_config(config)
        kinds = (nn.Linear, Conv1D)
        linear = tuple(tuple(m.weight.shape) for m in model.modules() if isinstance(m, kinds))
        heads = getattr(config, "num_attention_heads", 1)
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
        intermediate = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
        total = sum(p.numel() for p in model.parameters())
        tied = getattr(config, "tie_word_embeddings", False)
        return cls(
            num_layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            intermediate=max(intermediate) if isinstance(intermediate, list) else intermediate,
            attention_width=heads * head_dim,
            vocabulary=config.vocab_size,
            linear=linear,
            embedding_params=total - sum(o * i for o, i in linear),
            lm_head_params=0 if tied else config.vocab_size * config.hidden_size,
        )

    @property
    def linear_params(self) -> int:
        """Number of weights that NF4 packs; every token is multiplied with each of them."""
        return sum(o * i for o, i in self.linear)

    def lora_params(self, r: int) -> int:
        """Number of parameters of adapters of rank r on all linear layers."""
        return r * sum(o + i for o, i in self.linear)


def unpacked_gib(shape: Shape, itemsize: int) -> float:
    """GiB of all weights but a language-model head's, at `itemsize` bytes each: none quantized."""
    return (shape.linear_params + shape.embedding_params) * itemsize / GIB


def weights_gib(shape: Shape, *, r: int | None, quantized: bool, itemsize: int) -> float:
    """GiB of the base model and of what trains, with gradients and AdamW's moments.

    `r` is the rank of the adapters that train, 0 if all weights train (16 bytes each), or None if
    nothing trains. `itemsize` is the bytes of a weight that is not quantized. A language-model head
    is not counted.
    """
    if r == 0:
        return unpacked_gib(shape, 4 + OPTIMIZER_BYTES)
    linear = shape.linear_params * (NF4_BYTES if quantized else itemsize)
    adapters = (4 + OPTIMIZER_BYTES) * shape.lora_params(r or 0)
    return (linear + shape.embedding_params * itemsize + adapters) / GIB


def should_dequantize(unpacked_gib: float, allowed_gib: float) -> bool:
    """True if 4-bit weights are dequantized once, for good, instead of in every pass.

    Dequantized, they then take at most a quarter of what is allowed; the rest is for training.
    """
    return 4 * unpacked_gib <= allowed_gib


def activation_gib(
    shape: Shape,
    *,
    num_tokens: int,
    itemsize: int,
    device: str,
    num_layers: int = 0,
    checkpointed: int = 0,
) -> float:
    """GiB that a micro-batch of `num_tokens` keeps from its forward for its backward pass.

    Each token keeps `KEPT` elements of `itemsize` bytes in each of the `num_layers` that train (0:
    all). A checkpointed layer keeps its input alone, of the hidden size. In the backward pass the
    layers are computed again one by one, so that one of them has all its elements at a time.
    """
    hidden, intermediate = KEPT[device]
    per_layer = hidden * shape.hidden + intermediate * shape.intermediate
    whole = (num_layers or shape.num_layers) - checkpointed + (checkpointed > 0)
    return (per_layer * whole + shape.hidden * checkpointed) * num_tokens * itemsize / GIB


def fit_micro_batch(
    shape: Shape,
    *,
    num_tokens: int,
    longest: int,
    num_layers: int,
    itemsize: int,
    device: str,
    room_gib: float,
) -> tuple[int, int]:
    """Tokens of a micro-batch, and the number of layers to checkpoint, for `room_gib`.

    The steps are those of the picture above: micro-batches shrink to `BUSY_TOKENS` first, then
    layers are checkpointed (arXiv 1604.06174), then micro-batches shrink further, down to
    `longest`, which is returned even if it does not fit.

    Parameters
    ----------
    num_tokens, longest
        Tokens of the largest micro-batch that is wanted, and of the longest document, which a
        micro-batch has to hold.
    num_layers
        Number of layers that train.
    itemsize
        Bytes of an element of the states.
    """
    options = {"itemsize": itemsize, "device": device, "num_layers": num_layers}
    kept = partial(activation_gib, shape, **options)
    num_tokens = max(num_tokens, longest)  # such a document has a micro-batch of its own
    fitting = int(room_gib / kept(num_tokens=1))
    if fitting >= min(num_tokens, max(longest, BUSY_TOKENS[device])):
        return min(num_tokens, fitting), 0
    for checkpointed in range(1, num_layers + 1):
        if kept(num_tokens=num_tokens, checkpointed=checkpointed) <= room_gib:
            return num_tokens, checkpointed
    return max(longest, int(room_gib / kept(num_tokens=1, checkpointed=num_layers))), num_layers


def fit_into_memory(
    model: nn.Module, *, num_tokens: int, longest: int, memory_gib: float, reserved_gib: float = 0.0
) -> int:
    """Tokens of a micro-batch with which training fits into memory; checkpoints layers if need be.

    `memory_gib` is what the run may take, 0 for what the device has. `reserved_gib` is what
    training takes beside the model and its layers, such as logits. Other arguments are those of
    `fit_micro_batch`. Nothing stops a run that needs more than was estimated.
    """
    base = pretrained(model)
    device = base.device.type
    # Room: what is allowed, without the process, the model and its optimizer.
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    weights = sum(t.nbytes for t in (*model.parameters(), *model.buffers()))  # a head's too
    allowed = memory_gib or USABLE * memory_of(base.device)
    taken = (weights + trained * OPTIMIZER_BYTES) / GIB + reserved_gib
    taken += PROCESS_GIB if device == "cpu" else 0.0
    # Activations are kept from the first adapted layer on.
    first, depth = first_adapted_layer(model), base.config.get_text_config().num_hidden_layers
    fitting, count = fit_micro_batch(
        Shape.from_config(base.config), num_tokens=num_tokens, longest=longest,
        num_layers=depth - first, itemsize=base.dtype.itemsize, device=device,
        room_gib=allowed - taken,
    )  # fmt: skip
    if count and len(blocks_of(base)) != depth:
        log.warning("%s does not mark its layers (GradientCheckpointingLayer): training without "
                    "gradient checkpointing", type(base).__name__)  # fmt: skip
        return fitting
    if fitting < num_tokens or count:
        log.info("for %.1f GiB: micro-batches of %d tokens, gradient checkpointing of %d layers",
                 allowed, fitting, count)  # fmt: skip
    checkpoint_blocks(base, range(first, first + count))
    return fitting
