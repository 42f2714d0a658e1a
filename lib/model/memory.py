"""Memory of a run, from the shapes of its model (tests/benchmarks/NOTES.md: estimates, runs)."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import nn
from transformers import AutoModel, PretrainedConfig
from transformers.pytorch_utils import Conv1D

GIB = 2**30
# Elements kept for the backward pass per token and layer, as multiples of the hidden and of the
# intermediate size. Fitted to SmolLM2-135M on CPUs and to models of 1, 3 and 8 billion weights on
# one H200 (NOTES.md).
KEPT = {"cpu": (14, 4), "cuda": (9, 4)}
BUSY_TOKENS = {"cpu": 512, "cuda": 2048}  # of a micro-batch, below which a token costs more
USABLE = 0.9  # of a device's memory; the rest is the driver's and what does not fit together
ROW_BYTES = 10  # of a logit that a loss is taken of, its fp32 copy and its gradient
PROCESS_GIB = 0.9  # Python, torch and transformers, imported (measured)
NF4_BYTES = 0.5 + 1 / 64 + 4 / 64 / 256  # weight, its block's 8-bit scale, that one's fp32 scale
OPTIMIZER_BYTES = 12  # of a weight that trains: fp32 gradient and AdamW's two moments


@dataclass(frozen=True)
class Shape:
    """What of a model decides its costs.

    Attributes
    ----------
    linear
        Both sides of every linear layer of its blocks.
    embedding_params
        Parameters outside them.
    lm_head_params
        Parameters that a language-model head adds; 0 where it is tied to the embedding.
    """

    num_layers: int
    hidden: int
    intermediate: int
    attention_width: int
    vocabulary: int
    linear: tuple[tuple[int, int], ...]
    embedding_params: int
    lm_head_params: int

    @classmethod
    def from_config(cls, config: PretrainedConfig) -> Self:
        """Shapes of the model that the config describes, of any architecture, without weights."""
        config = config.get_text_config()
        with torch.device("meta"):
            model = AutoModel.from_config(config)
        kinds = (nn.Linear, Conv1D)
        linear = tuple(tuple(m.weight.shape) for m in model.modules() if isinstance(m, kinds))
        heads = getattr(config, "num_attention_heads", 1)
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
        intermediate = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
        total = sum(p.numel() for p in model.parameters())
        return cls(
            num_layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            intermediate=max(intermediate) if isinstance(intermediate, list) else intermediate,
            attention_width=heads * head_dim,
            vocabulary=config.vocab_size,
            linear=linear,
            embedding_params=total - sum(o * i for o, i in linear),
            lm_head_params=(not getattr(config, "tie_word_embeddings", False))
            * config.vocab_size
            * config.hidden_size,
        )

    @property
    def linear_params(self) -> int:
        """Weights that NF4 packs and every token is multiplied with."""
        return sum(o * i for o, i in self.linear)

    def lora_params(self, r: int) -> int:
        """Parameters of adapters of rank r on all linear layers."""
        return r * sum(o + i for o, i in self.linear)


def kept_gib(
    shape: Shape,
    *,
    num_tokens: int,
    itemsize: int,
    device: str,
    num_layers: int = 0,
    checkpointed: int = 0,
) -> float:
    """GiB that a micro-batch of so many tokens keeps from its forward for its backward pass.

    On the CPU 14 times the hidden size (compiled, 9), on a GPU 9 times, and 4 times the
    intermediate size (compiled, on a GPU, 6 and 3) for each token and each of the `num_layers` that
    train (0: all); of the `checkpointed` ones among them the hidden size alone, and all of it for
    one at a time.
    """
    hidden, intermediate = KEPT[device]
    a_layer = hidden * shape.hidden + intermediate * shape.intermediate
    whole = (num_layers or shape.num_layers) - checkpointed + (checkpointed > 0)
    return (a_layer * whole + shape.hidden * checkpointed) * num_tokens * itemsize / GIB


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
    """Tokens of a micro-batch, and how many layers to checkpoint, to keep at most `room_gib`.

    Micro-batches get smaller as long as that costs little (`BUSY_TOKENS`). If it does not suffice,
    they stay as large as they were, and layers are computed again in the backward pass (gradient
    checkpointing, arXiv 1604.06174), as few as it takes at that size; if all are not enough,
    micro-batches get smaller after all.

    Parameters
    ----------
    num_tokens, longest
        Most tokens of a micro-batch, and those of the longest document, which it has to hold.
    num_layers
        How many of the model's layers train.
    """

    def kept(tokens: int, checkpointed: int) -> float:
        return kept_gib(
            shape, num_tokens=tokens, itemsize=itemsize, device=device, num_layers=num_layers,
            checkpointed=checkpointed,
        )  # fmt: skip

    fitting = int(room_gib / kept(1, 0))
    if fitting >= min(num_tokens, max(longest, BUSY_TOKENS[device])):
        return min(num_tokens, fitting), 0
    for checkpointed in range(1, num_layers + 1):
        if kept(num_tokens, checkpointed) <= room_gib:
            return num_tokens, checkpointed
    return max(longest, int(room_gib / kept(1, num_layers))), num_layers


def unpacked_gib(shape: Shape, itemsize: int) -> float:
    """GiB of all weights where none is quantized."""
    return (shape.linear_params + shape.embedding_params) * itemsize / GIB


def unpacks_once(gib: float, allowed_gib: float) -> bool:
    """Whether 4-bit weights that take `gib` unpacked are unpacked for good.

    They are where the run may use four times as much, which leaves room for training.
    """
    return 4 * gib <= allowed_gib


def weights_gib(shape: Shape, *, r: int | None, quantized: bool, itemsize: int) -> float:
    """GiB of the base model and of what trains, with gradients and AdamW's moments.

    Adapters of rank r, everything (`r` = 0; 16 bytes a weight), or nothing (`r` = None).
    """
    if r == 0:
        return unpacked_gib(shape, 4 + OPTIMIZER_BYTES)
    linear = shape.linear_params * (NF4_BYTES if quantized else itemsize)
    adapters = (4 + OPTIMIZER_BYTES) * shape.lora_params(r or 0)
    return (linear + shape.embedding_params * itemsize + adapters) / GIB
