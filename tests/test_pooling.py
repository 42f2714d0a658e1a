import numpy as np
import pytest
import torch

from lib.device import choose_dtype
from lib.loader import add_lora
from lib.pooling import EmbeddingModel, PoolingHead, pool, predict_logits

COMPUTE = choose_dtype(torch.device("cpu"))  # emulated bfloat16 would take minutes
DOCUMENTS = [[81, 2, 216, 9690, 2], [278], [81, 9690, 278, 100, 200, 300, 2, 2]]


@pytest.mark.parametrize("mode", ["last", "mean"])
def test_pooling_ignores_padding_and_its_side(mode):
    """TRAPS 1."""
    states = torch.randn(1, 4, 8)
    junk = torch.full((1, 3, 8), 1e6)
    expected = pool(states, torch.ones(1, 4), mode)
    for parts, mask in (
        ((states, junk), [1, 1, 1, 1, 0, 0, 0]),
        ((junk, states), [0, 0, 0, 1, 1, 1, 1]),
    ):
        padded = pool(torch.cat(parts, dim=1), torch.tensor([mask]), mode)
        torch.testing.assert_close(padded, expected)
    assert expected.dtype == torch.float32


def test_last_and_mean_are_what_they_say():
    states = torch.arange(12.0).view(2, 3, 2).bfloat16()
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    assert pool(states, mask, "last").tolist() == [[2.0, 3.0], [10.0, 11.0]]
    assert pool(states, mask, "mean").tolist() == [[1.0, 2.0], [8.0, 9.0]]


def test_all_padding_rows_and_unknown_modes_are_errors():
    states = torch.zeros(2, 3, 4)
    with pytest.raises(ValueError, match=r"rows \[1\] hold no token"):
        pool(states, torch.tensor([[1, 0, 0], [0, 0, 0]]), "last")
    with pytest.raises(ValueError, match="'max' is not known"):
        pool(states, torch.ones(2, 3), "max")


def test_the_head_sees_one_row_a_document_in_fp32_even_under_autocast():
    """TRAPS 3, 6."""
    head = PoolingHead(8, 5, "last")
    seen = []
    head.linear.register_forward_hook(lambda m, inputs, out: seen.append((inputs[0], out)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        head(torch.randn(3, 7, 8, dtype=torch.bfloat16), torch.ones(3, 7, dtype=torch.long))
    (inputs, outputs) = seen[0]
    assert inputs.shape == (3, 8)
    assert inputs.dtype == outputs.dtype == torch.float32


@pytest.mark.parametrize("mode", ["last", "mean"])
def test_real_model_gives_a_document_equal_logits_alone_and_in_a_batch(make_backbone, mode):
    """TRAPS 1, 4: pad = EOS stands inside texts, and batches pad. bf16 keeps 8 bits, and summing in
    another order costs a few of them: 0.02 of the largest logit, with equal predictions."""
    model = EmbeddingModel(make_backbone(), num_labels=6, mode=mode, compute_dtype=COMPUTE)
    assert model.config.pad_token_id == 2
    batched = predict_logits(model, DOCUMENTS, token_budget=10_000)
    alone = predict_logits(model, DOCUMENTS, token_budget=1)
    assert abs(batched - alone).max() < 0.02 * abs(alone).max()
    assert (batched.argmax(1) == alone.argmax(1)).all()


def test_head_stays_fp32_and_trainable_beside_nf4_and_lora(make_backbone, live_nf4):
    """TRAPS 6, 7."""
    model = EmbeddingModel(make_backbone(), num_labels=6, mode="last", compute_dtype=COMPUTE)
    model = add_lora(model, r=2, alpha=4)
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert any("head" in name for name in trainable)
    assert {p.dtype for p in trainable.values()} == {torch.float32}
    kinds = {type(m).__name__ for m in model.modules()}
    assert "Linear4bit" in kinds


def test_the_untrained_head_gives_each_label_its_share():
    head = PoolingHead(8, 3, "mean")
    head.init_bias(np.array([0.0, 10.0, 98.0], dtype="float32"), 98)
    torch.nn.init.zeros_(head.linear.weight)
    probs = head(torch.randn(2, 4, 8), torch.ones(2, 4)).sigmoid()
    torch.testing.assert_close(probs, torch.tensor([[0.01, 0.11, 0.99]] * 2))
