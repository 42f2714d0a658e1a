"""Seconds of a run, from the arithmetic and the memory traffic of its model.

Time has two terms: FLOPs at the rate that the machine's matrix products reach, and bytes at its
memory bandwidth. Both rates are measured, here (`measure_machine`) or once on a GPU (`GPUS`).
tests/benchmarks/NOTES.md compares the estimates with runs.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from lib.machine import memory_of
from lib.model.memory import PROCESS_GIB, Shape

# Elements that norms, rotary positions, activations, residuals, adapters and gradients read and
# write per token and layer, as multiples of the hidden and of the intermediate size. Fitted to
# SmolLM2-135M on CPUs and, in training, to models of 1, 3 and 8 billion weights on one H200.
TRAFFIC_TRAIN = {"cpu": (180, 120), "cuda": (90, 60)}
TRAFFIC_INFER = (40, 20)
ROWS = 2048  # of the matrix products that are timed (our choice)


def inference_flops(shape: Shape, lengths: Sequence[int], *, r: int = 0) -> float:
    """FLOPs of a forward pass over documents of these lengths in tokens.

    2 (P + P_lora) per token, P the weights of linear layers and P_lora those of adapters of rank
    `r`, and 4 D T (T + 1) / 2 per layer for a document's causal attention, D its width, T its
    tokens (arXiv 2001.08361, table 1, halved because no token sees those after it).
    """
    products = 2 * (shape.linear_params + shape.lora_params(r)) * sum(lengths)
    pairs = sum(t * (t + 1) / 2 for t in lengths)
    return products + 4 * shape.attention_width * shape.num_layers * pairs


def training_flops(shape: Shape, lengths: Sequence[int], *, r: int) -> float:
    """FLOPs of a forward and backward pass over documents of these lengths in tokens.

    Frozen weights take 4 P per token, twice the forward pass, because only their input needs a
    gradient. What trains takes three times its forward pass: 6 P_lora, or 6 P in full fine-tuning
    (`r` = 0). So does attention, whose factors both need a gradient. Recomputation is not counted,
    as in model FLOPs utilisation (arXiv 2204.02311, appendix B); the first input's gradient and
    unread positions of the last layer are.
    """
    frozen = 2 * shape.linear_params * sum(lengths) if r else 0
    return 3 * inference_flops(shape, lengths, r=r) - frozen


@dataclass(frozen=True)
class Machine:
    """A machine's rates and its memory."""

    name: str
    flops: float  # of its matrix products in its dtype, FLOP/s
    bandwidth: float  # of its memory, bytes/s
    memory_gib: float  # of a GPU, or of this machine
    itemsize: int = 2  # bytes of a number in its dtype
    device: str = "cuda"
    process_gib: float = 0.0  # memory that Python and its libraries take before any model

    def train_seconds(self, shape: Shape, lengths: Sequence[int], *, r: int) -> float:
        """Seconds of one epoch over documents of these lengths in tokens; see `training_flops`."""
        flops = training_flops(shape, lengths, r=r)
        return self._seconds(flops, TRAFFIC_TRAIN[self.device], shape, lengths)

    def infer_seconds(self, shape: Shape, lengths: Sequence[int], *, r: int = 0) -> float:
        """Seconds of a forward pass over documents of these lengths; see `inference_flops`."""
        return self._seconds(inference_flops(shape, lengths, r=r), TRAFFIC_INFER, shape, lengths)

    def _seconds(
        self, flops: float, traffic: tuple[int, int], shape: Shape, lengths: Sequence[int]
    ) -> float:
        elements = traffic[0] * shape.hidden + traffic[1] * shape.intermediate
        moved = elements * shape.num_layers * sum(lengths) * self.itemsize
        return flops / self.flops + moved / self.bandwidth


# As `measure_machine` measured it, with the matrix products of an 8B model (figures/bench/gpu.md).
GPUS = {"H200": Machine("H200", flops=681e12, bandwidth=3789e9, memory_gib=139.0)}


def measure_machine(
    shape: Shape, *, device: torch.device, dtype: torch.dtype, seconds: float = 10.0
) -> Machine:
    """Rates of this machine, measured for about `seconds`.

    Arithmetic is the rate over all matrix products of one block's forward pass and of its input's
    gradient, `ROWS` rows each; bandwidth is that of copying 256 MiB.
    """
    weights = shape.linear[: max(1, len(shape.linear) // shape.num_layers)]  # of one block
    sizes = [((ROWS, i), (o, i), (ROWS, o)) for o, i in weights]  # of inputs, weights, gradients
    operands = [[torch.randn(n, m, device=device).to(dtype) for n, m in each] for each in sizes]

    def products() -> None:
        for x, weight, grad in operands:
            nn.functional.linear(x, weight)
            grad @ weight

    source = torch.zeros(2**26, device=device)  # 256 MiB of float32
    target = torch.empty_like(source)
    per_block = _median_seconds(products, seconds / 2, device)
    per_copy = _median_seconds(lambda: target.copy_(source), seconds / 2, device)
    # Two products per weight, of 2 FLOPs per row each; a copy reads and writes every byte.
    return Machine(
        "this machine",
        flops=2 * 2 * ROWS * sum(o * i for o, i in weights) / per_block,
        bandwidth=2 * source.nbytes / per_copy,
        memory_gib=memory_of(device),
        itemsize=dtype.itemsize,
        device=device.type,
        process_gib=PROCESS_GIB if device.type == "cpu" else 0.0,
    )


def _median_seconds(work: Callable[[], object], budget: float, device: torch.device) -> float:
    """Median seconds per call, over `budget` seconds and at least three calls."""
    work()  # a first call, which allocates and compiles, is not timed
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
