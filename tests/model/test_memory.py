import pytest
from conftest import SMOLLM2
from transformers import AutoConfig, LlamaConfig

from lib.config.groups import LoraParams
from lib.model.adapters import add_lora
from lib.model.load import count_parameters, load_backbone
from lib.model.memory import (
    Shape,
    activation_gib,
    fit_micro_batch,
    should_dequantize,
    unpacked_gib,
    weights_gib,
)
from lib.model.weights import resolve_model

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
    assert (
        shape.lora_params(8)
        == count_parameters(add_lora(model, LoraParams(lora_r=8, lora_alpha=8)))[0]
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
    kept = activation_gib(shape, num_tokens=2048, itemsize=2, device="cuda")
    assert (
        activation_gib(shape, num_tokens=2048, itemsize=2, device="cuda", checkpointed=32)
        < kept / 10
    )


def test_micro_batches_shrink_before_layers_are_checkpointed_and_both_before_memory_runs_out():
    shape = Shape.from_config(LLAMA_8B)

    def fit(gib, longest=512, **options):
        options = {"num_layers": 32, "itemsize": 2, "device": "cuda"} | options
        tokens, checkpointed = fit_micro_batch(
            shape, num_tokens=8192, longest=longest, room_gib=gib, **options
        )
        assert activation_gib(shape, num_tokens=tokens, checkpointed=checkpointed, **options) <= gib
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
    tokens, checkpointed = fit(20.0, longest=16_384)  # more than the budget: it is alone
    assert tokens >= 16_384
    assert checkpointed
    assert fit(20.0, num_layers=8) == (8192, 0)  # of layers that do not train nothing is kept


def test_weights_are_dequantized_where_four_times_as_much_is_allowed():
    assert should_dequantize(1.0, 4.0)
    assert not should_dequantize(1.0, 3.9)
