"""Seconds from FLOPs and traffic: FLOPs as torch counts them, rates as they were measured."""

import time
from dataclasses import replace

import pandas as pd
import pytest
import torch
from conftest import SMOLLM2
from peft.tuners import lora
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, LlamaConfig

from lib.config.groups import LoraParams
from lib.model.adapters import add_lora
from lib.model.fast.lora_linear import FusedLinear
from lib.model.memory import Shape
from lib.model.weights import resolve_model
from lib.runs.rates import GPUS, inference_flops, measure_machine, training_flops
from lib.storage import ROOT

LLAMA_8B = LlamaConfig(
    hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
    num_key_value_heads=8, vocab_size=128256,
)  # fmt: skip


@pytest.mark.parametrize("r", [0, 8])
def test_flops_are_those_that_torch_counts(make_backbone, r):
    """Short documents, so that what attention computes above the diagonal does not matter."""
    model = make_backbone(dtype="float32", quantization="none")
    model.set_attn_implementation("eager")
    shape = Shape.from_config(model.config)
    if r:
        model = add_lora(model, LoraParams(lora_r=r, lora_alpha=8))
        for module in model.modules():
            if isinstance(module, FusedLinear):
                module.__class__ = lora.Linear  # the same products, where the counter sees them
    else:
        model.requires_grad_(True)
    with FlopCounterMode(display=False) as counter:
        states = model(input_ids=torch.arange(5, 21).repeat(4, 1)).last_hidden_state
        forward = counter.get_total_flops()
        states.sum().backward()
    assert forward == pytest.approx(inference_flops(shape, [16] * 4, r=r), rel=0.01)
    # Of two layers, the first has no gradient of its input: q, k and v of it, 4 % of the whole.
    assert counter.get_total_flops() == pytest.approx(
        training_flops(shape, [16] * 4, r=r), rel=0.05
    )


def test_seconds_grow_with_documents_and_shrink_with_the_rates():
    shape = Shape.from_config(LLAMA_8B)
    one, two = (GPUS["H200"].train_seconds(shape, [512] * n, r=8) for n in (1, 2))
    assert two == pytest.approx(2 * one)
    faster = replace(GPUS["H200"], flops=1e30)  # traffic alone is left
    assert 0 < faster.train_seconds(shape, [512], r=8) < one
    faster = replace(faster, bandwidth=1e30)
    assert faster.train_seconds(shape, [512], r=8) == pytest.approx(0, abs=1e-9)


def test_estimates_of_a_gpu_are_near_what_was_measured_there():
    """Of an 8B model, in training: figures/bench/gpu.csv."""
    table = pd.read_csv(ROOT / "figures/bench/gpu.csv").set_index(["case", "baseline", "metric"])
    shape, machine = Shape.from_config(LLAMA_8B), GPUS["H200"]
    rate = table.loc["train_512: 8B", "machine_limit", "model FLOP/s of ours"]["theirs"]
    assert machine.flops / 1e12 == pytest.approx(rate, rel=0.001)
    speed = table.loc["train_512: ours", "usual", "tokens per second"]["ours"]
    assert 512 / machine.train_seconds(shape, [512], r=8) == pytest.approx(speed, rel=0.15)


def test_this_machine_is_measured():
    """At the rate of one product of a size that the measurement contains, within a factor."""
    shape = Shape.from_config(AutoConfig.from_pretrained(resolve_model(SMOLLM2)))
    machine = measure_machine(shape, device=torch.device("cpu"), dtype=torch.float32, seconds=0.5)
    rows, columns = 2048, 576
    x, weight = torch.randn(rows, columns), torch.randn(columns, columns)
    taken = []
    for _ in range(20):
        start = time.perf_counter()
        torch.nn.functional.linear(x, weight)
        taken.append(time.perf_counter() - start)
    rate = 2 * rows * columns**2 / sorted(taken)[10]
    assert rate / 8 < machine.flops < 8 * rate  # a shared machine drifts
    assert 1e9 < machine.bandwidth < 1e13
    assert machine.itemsize == 4
    assert machine.device == "cpu"
