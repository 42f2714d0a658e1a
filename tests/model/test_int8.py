"""int8 layers: the integers are those of a product by hand, and tokens do not depend on others."""

import numpy as np
import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

from lib.errors import InputError
from lib.model import int8
from lib.model.forward import last_hidden_states
from lib.model.int8 import Int8Linear, use_int8

LEVELS = 127 if torch.cpu._is_vnni_supported() else 64


def by_hand(x, weight, bias, largest):
    """The same arithmetic with NumPy's 64-bit integers."""
    factor = np.sqrt(np.maximum(largest, 0.1 * np.median(largest)) / np.abs(weight).max(axis=0))
    weight, x = weight * factor, x / factor
    per_output = np.abs(weight).max(axis=1, keepdims=True) / LEVELS
    per_token = np.abs(x).max(axis=1, keepdims=True) / 127
    product = np.floor(x / per_token + 0.5).astype(int) @ np.rint(weight / per_output).astype(int).T
    return product * per_token * per_output.T + bias


@pytest.mark.parametrize("rows", [1, 7, 300])
def test_a_layer_is_a_product_of_integers_without_overflow(rows):
    """Channels of very different sizes; and values that are all at the end of their range."""
    random = np.random.default_rng(0)
    layer = nn.Linear(96, 48)
    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    x = random.normal(size=(rows, 96)).astype(np.float32) * 10 ** random.uniform(-2, 2, 96)
    largest = np.abs(x).max(axis=0)
    found = Int8Linear(layer, torch.tensor(largest))(torch.tensor(x, dtype=torch.float32)[None])
    assert found.shape == (1, rows, 48)
    exact = x @ weight.T + bias
    expected = by_hand(x, weight, bias, largest)
    # A value in the middle between two integers may be rounded to either.
    assert np.abs(found[0].numpy() - expected).max() < 0.01 * np.abs(exact).max()
    assert np.abs(found[0].numpy() - exact).max() < 0.05 * np.abs(exact).max()

    nn.init.ones_(layer.weight)
    ones = torch.ones(rows, 96)
    torch.testing.assert_close(Int8Linear(layer, ones[0])(ones), layer(ones))
    torch.testing.assert_close(Int8Linear(layer, ones[0])(-ones), layer(-ones))


def test_a_layer_keeps_the_dtype_and_takes_zeros():
    layer = nn.Linear(32, 16, bias=False, dtype=torch.bfloat16)
    quantized = Int8Linear(layer, torch.zeros(32))
    zeros = torch.zeros(2, 32, dtype=torch.bfloat16)
    assert torch.equal(quantized(zeros), torch.zeros(2, 16, dtype=torch.bfloat16))


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, pad_token_id=0,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


@torch.no_grad()
def test_states_stay_and_do_not_depend_on_the_texts_beside(model, monkeypatch):
    monkeypatch.setattr(int8, "GAIN", 0)
    ids = torch.randint(1, 50, (4, 9))
    inputs = (ids, torch.ones_like(ids))
    before = last_hidden_states(model, *inputs, compute_dtype=torch.float32)
    use_int8(model, ids.tolist(), compute_dtype=torch.float32)
    assert sum(isinstance(m, Int8Linear) for m in model.model.modules()) == 14
    assert type(model.lm_head) is nn.Linear
    forwards = [block.forward for block in model.model.layers]  # those never compile
    assert all(forward.compiled == forward.original for forward in forwards)
    after = last_hidden_states(model, *inputs, compute_dtype=torch.float32)
    assert 0 < (after - before).norm() / before.norm() < 0.05
    first = last_hidden_states(model, ids[:1], inputs[1][:1], compute_dtype=torch.float32)
    torch.testing.assert_close(first, after[:1])


def test_weights_stay_where_int8_is_slower_and_a_gpu_is_refused(model, monkeypatch, caplog):
    monkeypatch.setattr(int8, "GAIN", 1e9)
    layers = list(model.modules())
    with caplog.at_level("INFO", logger="lib"):
        use_int8(model, [[1, 2, 3]], compute_dtype=torch.float32)
    assert "times as fast on this machine; weights stay as they are" in caplog.text
    assert all(a is b for a, b in zip(model.modules(), layers, strict=True))
    with pytest.raises(InputError, match="int8: made for a CPU, and the model is on meta"):
        use_int8(model.to("meta"), [[1, 2, 3]], compute_dtype=torch.float32)


def test_weights_stay_where_torch_has_no_such_product(model, monkeypatch, caplog):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    with caplog.at_level("INFO", logger="lib"):
        use_int8(model, [[1, 2, 3]], compute_dtype=torch.float32)
    assert "torch has no such product on this machine" in caplog.text
    assert not any(isinstance(m, Int8Linear) for m in model.modules())


def test_the_pass_that_is_timed_fits_the_positions_of_a_short_model(monkeypatch):
    monkeypatch.setattr(int8, "GAIN", 0)
    config = BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=1, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=9,
    )  # fmt: skip
    model = BertModel(config).eval()
    use_int8(model, [[1, 2, 3]], compute_dtype=torch.float32)
    assert any(isinstance(m, Int8Linear) for m in model.modules())
