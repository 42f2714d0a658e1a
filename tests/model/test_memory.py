from dataclasses import replace

import pandas as pd
import pytest
import torch
from conftest import SMOLLM2
from peft.tuners import lora
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, LlamaConfig

from lib.model.adapters import add_lora
from lib.model.fast.lora_linear import FusedLinear
from lib.model.load import count_parameters, load_backbone
from lib.model.memory import (
    GPUS,
    Shape,
    fit_micro_batch,
    inference_flops,
    kept_gib,
    measure_machine,
    training_flops,
    unpacked_gib,
    weights_gib,
)
from lib.model.weights import resolve_model
from lib.storage import ROOT

LLAMA_8B = LlamaConfig(
    hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
    num_key_value_heads=8, vocab_size=128256,
)  # fmt: skip


@pytest.fixture(scope="module")
def shape():
    return Shape.from_config(AutoConfig.from_pretrained(resolve_model(SMOLLM2)))


def test_shapes_are_those_of_the_model_with_its_weights(shape):
    model = load_backbone(SMOLLM2)
    assert shape.linear_params + shape.embedding_params == count_parameters(model)[1]
    assert shape.lora_params(8) == count_parameters(add_lora(model, r=8, alpha=8))[0]


@pytest.mark.parametrize("r", [0, 8])
def test_flops_are_those_that_torch_counts(make_backbone, r):
    """Short documents, so that what attention computes above the diagonal does not matter."""
    model = make_backbone(dtype="float32", quantization="none")
    model.set_attn_implementation("eager")
    shape = Shape.from_config(model.config)
    if r:
        model = add_lora(model, r=r, alpha=8)
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


def test_memory_of_weights_is_that_of_the_loaded_model(shape, live_nf4):
    model = load_backbone(SMOLLM2, dtype="bfloat16")
    estimate = weights_gib(shape, r=None, quantized=True, itemsize=2)
    assert estimate == pytest.approx(model.get_memory_footprint() / 2**30, rel=0.02)


def test_an_8b_model_is_estimated_without_its_weights():
    shape = Shape.from_config(LLAMA_8B)
    assert shape.linear_params + shape.embedding_params == pytest.approx(7.5e9, rel=0.01)
    assert unpacked_gib(shape, 2) == pytest.approx(14.0, abs=0.1)
    assert weights_gib(shape, r=8, quantized=True, itemsize=2) < 5
    kept = kept_gib(shape, num_tokens=2048, itemsize=2, device="cuda")
    assert kept_gib(shape, num_tokens=2048, itemsize=2, device="cuda", checkpointed=32) < kept / 10
    one, two = (GPUS["L4"].train_seconds(shape, [512] * n, r=8) for n in (1, 2))
    assert two == pytest.approx(2 * one)
    assert GPUS["H100"].train_seconds(shape, [512], r=8) < one


def test_micro_batches_shrink_before_layers_are_checkpointed_and_both_before_memory_runs_out():
    shape = Shape.from_config(LLAMA_8B)

    def fit(gib, longest=512, **options):
        options = {"num_layers": 32, "itemsize": 2, "device": "cuda"} | options
        tokens, checkpointed = fit_micro_batch(
            shape, num_tokens=8192, longest=longest, room_gib=gib, **options
        )
        assert kept_gib(shape, num_tokens=tokens, checkpointed=checkpointed, **options) <= gib
        return tokens, checkpointed

    assert fit(60.0) == (8192, 0)
    tokens, checkpointed = fit(20.0)
    assert 2048 <= tokens < 8192
    assert not checkpointed
    assert fit(20.0, longest=4096)[1] > 0  # a document has to fit
    (tokens, some), (_, more) = fit(10.0), fit(6.0)
    assert tokens == 8192
    assert 0 < some < more < 32
    tokens, checkpointed = fit(1.0)
    assert 512 < tokens < 8192
    assert checkpointed == 32
    assert fit(20.0, num_layers=8) == (8192, 0)  # of layers that do not train nothing is kept


def test_estimates_of_a_gpu_are_near_what_was_measured_there():
    """figures/bench/gpu.csv, at the rates that were measured beside it (gpu.md): training time."""
    table = pd.read_csv(ROOT / "figures/bench/gpu.csv").set_index(["case", "baseline", "metric"])
    shape = Shape.from_config(LLAMA_8B)
    rate = table.loc["train_512: 8B", "machine_limit", "model FLOP/s of ours"]["theirs"]
    machine = replace(GPUS["H100"], flops=rate * 1e12, bandwidth=3789e9)
    speed = table.loc["train_512: ours", "usual", "tokens per second"]["ours"]
    assert 512 / machine.train_seconds(shape, [512], r=8) == pytest.approx(speed, rel=0.15)


def test_this_machine_is_measured(shape):
    machine = measure_machine(shape, device=torch.device("cpu"), dtype=torch.float32, seconds=0.1)
    assert machine.flops > 1e9
    assert machine.bandwidth > 1e8
    assert machine.itemsize == 4
