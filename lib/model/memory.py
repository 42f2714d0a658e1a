"""What a run costs in arithmetic, memory and time, from the shapes of its model.

Time has two terms: arithmetic at the rate that the machine's matrix products reach, and traffic at
its memory bandwidth. Both rates are measured (`measure_machine`) or taken from a data sheet
(`GPUS`). How far estimates are from runs stands in tests/benchmarks/NOTES.md.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import nn
from transformers import AutoModel, PretrainedConfig
from transformers.pytorch_utils import Conv1D

from lib.machine import memory_of

GIB = 2**30
# Elements that norms, rotary positions, activations, residuals, adapters and gradients read and
# write for a token in a layer, as multiples of the hidden and of the intermediate size, and
# elements kept for the backward pass. Fitted to SmolLM2-135M on CPUs and, in training, to shapes of
# 1, 3 and 8 billion weights on one H200 (NOTES.md).
TRAFFIC_TRAIN, TRAFFIC_INFER = {"cpu": (180, 120), "cuda": (90, 60)}, (40, 20)
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


def inference_flops(shape: Shape, lengths: Sequence[int], *, r: int = 0) -> float:
    """FLOPs of a forward pass over documents of these lengths in tokens.

    2 (P + P_lora) for each token, P the weights of linear layers and P_lora those of adapters, and
    4 D T (T + 1) / 2 for each document's causal attention in each layer, D its width (arXiv
    2001.08361, table 1, halved because no token sees those after it).
    """
    products = 2 * (shape.linear_params + shape.lora_params(r)) * sum(lengths)
    pairs = sum(t * (t + 1) / 2 for t in lengths)
    return products + 4 * shape.attention_width * shape.num_layers * pairs


def training_flops(shape: Shape, lengths: Sequence[int], *, r: int) -> float:
    """FLOPs of a forward and backward pass over documents of these lengths in tokens.

    Twice those of the forward pass where weights are frozen: 4 P a token, because they need the
    gradient of their input alone. Three times for whatever trains: 6 P_lora a token, 6 P in full
    fine-tuning (`r` = 0), and for attention, both of whose factors need a gradient. Computing
    something again is not counted; the first input's gradient and an unread last block are.

    Model FLOPs utilisation is this number over seconds times the rate of matrix products of the
    model's shapes (arXiv 2204.02311, appendix B).
    """
    frozen = 2 * shape.linear_params * sum(lengths) if r else 0
    return 3 * inference_flops(shape, lengths, r=r) - frozen


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


@dataclass(frozen=True)
class Machine:
    """A machine's rates: `flops` in FLOP/s in its dtype, `bandwidth` in bytes/s, memory in GiB.

    `device` is "cpu" or "cuda", `process_gib` what Python and its libraries take of that memory
    before any model.
    """

    name: str
    flops: float
    bandwidth: float
    memory_gib: float
    itemsize: int = 2
    device: str = "cuda"
    process_gib: float = 0.0

    def train_seconds(self, shape: Shape, lengths: Sequence[int], *, r: int) -> float:
        """Seconds to train on documents of these lengths once."""
        hidden, intermediate = TRAFFIC_TRAIN[self.device]
        traffic = hidden * shape.hidden + intermediate * shape.intermediate
        return self._seconds(training_flops(shape, lengths, r=r), traffic, shape, lengths)

    def infer_seconds(self, shape: Shape, lengths: Sequence[int], *, r: int = 0) -> float:
        """Seconds of a forward pass over documents of these lengths."""
        traffic = TRAFFIC_INFER[0] * shape.hidden + TRAFFIC_INFER[1] * shape.intermediate
        return self._seconds(inference_flops(shape, lengths, r=r), traffic, shape, lengths)

    def _seconds(self, flops: float, elements: int, shape: Shape, lengths: Sequence[int]) -> float:
        moved = elements * shape.num_layers * sum(lengths) * self.itemsize
        return flops / self.flops + moved / self.bandwidth


# Data sheets: dense FLOP/s and memory bandwidth, in bfloat16, but for the T4, which has none and
# computes in float32. No run reaches them: half of the arithmetic and 80 % of the bandwidth are
# assumed here, and were not measured.
GPUS = {
    "T4": Machine("T4", 0.5 * 8.1e12, 0.8 * 320e9, 16.0, itemsize=4),
    "L4": Machine("L4", 0.5 * 121e12, 0.8 * 300e9, 24.0),
    "A100": Machine("A100", 0.5 * 312e12, 0.8 * 1555e9, 40.0),
    "H100": Machine("H100", 0.5 * 989e12, 0.8 * 3350e9, 80.0),
}


def measure_machine(
    shape: Shape, *, device: torch.device, dtype: torch.dtype, seconds: float = 10.0
) -> Machine:
    """This machine's rates, measured for about so many seconds.

    Arithmetic is the rate over all matrix products of one block's forward pass and of its input's
    gradient, 2,048 rows each; bandwidth is that of copying 256 MiB.
    """
    kinds = [(o, i) for o, i in shape.linear[: max(1, len(shape.linear) // shape.num_layers)]]
    operands = [
        (
            torch.randn(2048, i, device=device).to(dtype),
            torch.randn(o, i, device=device).to(dtype),
            torch.randn(2048, o, device=device).to(dtype),
        )
        for o, i in kinds
    ]

    def products() -> None:
        for x, weight, grad in operands:
            nn.functional.linear(x, weight)
            grad @ weight

    source = torch.zeros(2**26, device=device)
    target = torch.empty_like(source)
    per_block = median_seconds(products, seconds / 2, device)
    per_copy = median_seconds(lambda: target.copy_(source), seconds / 2, device)
    return Machine(
        "this machine",
        flops=2 * 2 * 2048 * sum(o * i for o, i in kinds) / per_block,
        bandwidth=2 * source.nbytes / per_copy,
        memory_gib=memory_of(device),
        itemsize=dtype.itemsize,
        device=device.type,
        process_gib=PROCESS_GIB if device.type == "cpu" else 0.0,
    )


def median_seconds(work: Callable[[], object], budget: float, device: torch.device) -> float:
    """Median seconds of a call, repeated until `budget` seconds are over, three times at least."""
    work()
    taken: list[float] = []
    while len(taken) < 3 or sum(taken) < budget:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)
