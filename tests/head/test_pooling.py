import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from scipy.special import softmax

from lib.config.arms import POOLINGS, EmbeddingParams
from lib.config.groups import HeadParams, LoraParams
from lib.data.labels import NUM_TOP
from lib.head.losses import HeadLoss
from lib.head.model import EmbeddingModel, predict_logits, predict_probabilities
from lib.head.pooling import AttentionPooling, PoolingHead, pool
from lib.machine import choose_dtype
from lib.model.adapters import add_lora
from lib.model.probes import states_alone
from lib.model.windows import Windows, split_windows
from lib.training.evaluate import evaluate_embedding
from lib.training.trainer import MicroBatchCollator

COMPUTE = choose_dtype(torch.device("cpu"))  # emulated bfloat16 would take minutes
DOCUMENTS = [[81, 2, 216, 9690, 2], [278], [81, 9690, 278, 100, 200, 300, 2, 2]]


@pytest.mark.parametrize("mode", POOLINGS)
def test_pooling_ignores_padding_and_its_side(mode):
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


def test_poolings_are_what_they_say():
    states = torch.tensor([[[0.0, 9], [3, 3], [7, 7]], [[6, 5], [8, -9], [1, 1]]]).bfloat16()
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    expected = {
        "last": [[3, 3], [1, 1]],
        "cls": [[0, 9], [6, 5]],
        "mean": [[1.5, 6], [5, -1]],
        "weighted_mean": [[2, 5], [25 / 6, -10 / 6]],  # 1 and 2 thirds; 1, 2 and 3 sixths
        "max": [[3, 9], [8, 5]],
    }
    assert set(expected) == set(POOLINGS)
    for mode, rows in expected.items():
        torch.testing.assert_close(pool(states, mask, mode), torch.tensor(rows).float())


def test_attention_pooling_starts_as_the_mean_learns_and_ignores_padding():
    torch.manual_seed(0)
    states, mask = torch.randn(2, 5, 8), torch.tensor([[1, 1, 1, 0, 0], [1] * 5])
    attention = AttentionPooling(8)
    torch.testing.assert_close(attention(states, mask), pool(states, mask, "mean"))
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    pooled = attention(states, mask)
    torch.testing.assert_close(pooled[:1], attention(states[:1, :3], torch.ones(1, 3)))
    pooled.sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in attention.parameters())


def test_of_many_labels_the_best_alone_are_predicted(make_backbone, monkeypatch):
    model = EmbeddingModel(
        make_backbone(), HeadParams(pooling="mean"), num_labels=300, compute_dtype=COMPUTE
    )
    dense = predict_logits(model, DOCUMENTS, token_budget=99)
    monkeypatch.setattr("lib.head.model.DENSE_LABELS", 200)
    sparse = predict_logits(model, DOCUMENTS, token_budget=99)
    assert sparse.shape == dense.shape
    assert sparse.values.shape == (len(DOCUMENTS), NUM_TOP)
    for i, row in enumerate(dense.values):
        expected = np.sort(row)[::-1][:NUM_TOP]
        np.testing.assert_allclose(sparse.values[i], expected, rtol=1e-4)
        np.testing.assert_allclose(row[sparse.labels[i]], expected, rtol=1e-4)
    params = EmbeddingParams(token_budget=99, max_length=9)
    probs = predict_probabilities(model, DOCUMENTS, params)  # shares of all labels, not of the best
    np.testing.assert_allclose(
        probs.values,
        np.take_along_axis(softmax(dense.values, axis=1), sparse.labels, axis=1),
        rtol=1e-4,
    )
    truth = csr_array(np.eye(3, 300, dtype=bool))
    evaluated = evaluate_embedding(
        model, documents=DOCUMENTS, y_true=truth, multi_label=True, token_budget=99
    )
    assert 0 <= evaluated["micro_f1"] <= 1


def test_all_padding_rows_and_unknown_modes_are_errors():
    states = torch.zeros(2, 3, 4)
    with pytest.raises(ValueError, match=r"rows \[1\] hold no token"):
        pool(states, torch.tensor([[1, 0, 0], [0, 0, 0]]), "last")
    with pytest.raises(ValueError, match="'median' is not known"):
        pool(states, torch.ones(2, 3), "median")


def test_the_head_sees_one_row_a_document_in_fp32_even_under_autocast():
    head = PoolingHead(8, 5, HeadParams(pooling="last"))
    seen = []
    features = head.classifier.features
    head.classifier.features = lambda pooled: seen.append(pooled) or features(pooled)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = head(
            torch.randn(3, 7, 8, dtype=torch.bfloat16), torch.ones(3, 7, dtype=torch.long)
        )
    assert seen[0].shape == (3, 8)
    assert seen[0].dtype == logits.dtype == torch.float32


@pytest.mark.parametrize("mode", ["last", "mean", "weighted_mean", "attention"])
def test_real_model_gives_a_document_equal_logits_alone_and_in_a_batch(make_backbone, mode):
    """Pad = EOS stands inside texts, and batches pad. bf16 keeps 8 bits, and summing in
    another order costs a few of them: 0.02 of the largest logit, with equal predictions."""
    model = EmbeddingModel(
        make_backbone(), HeadParams(pooling=mode), num_labels=6, compute_dtype=COMPUTE
    )
    assert model.config.pad_token_id == 2
    batched = predict_logits(model, DOCUMENTS, token_budget=10_000).values
    alone = predict_logits(model, DOCUMENTS, token_budget=1).values
    assert abs(batched - alone).max() < 0.02 * abs(alone).max()
    assert (batched.argmax(1) == alone.argmax(1)).all()


WINDOWS = Windows([[81, 2, 216, 9690], [278, 100, 200], [300, 2]])


@pytest.mark.parametrize("fast", [True, False], ids=["packed", "padded"])
def test_windows_are_read_apart_and_pooled_together(make_backbone, fast):
    """As one pass per window computes them, whatever shares a micro-batch with them."""
    backbone = make_backbone(dtype="float32", fast=fast)
    documents = [DOCUMENTS[0], WINDOWS, DOCUMENTS[2]]
    with torch.no_grad():
        states = torch.cat(states_alone(backbone, split_windows(WINDOWS)))[None]  # (1, 9, H)
    for mode in (*POOLINGS, "attention"):
        torch.manual_seed(0)
        model = EmbeddingModel(
            backbone, HeadParams(pooling=mode), num_labels=2, compute_dtype=torch.float32
        )
        for parameter in model.head.attention.parameters() if model.head.attention else ():
            torch.nn.init.normal_(parameter, std=0.1)
        with torch.no_grad():
            expected = model.head(states, torch.ones(1, 9, dtype=torch.long))[0]
        for budget in (1, 30, 10_000):
            logits = predict_logits(model, documents, token_budget=budget).values
            np.testing.assert_allclose(logits[1], expected, rtol=1e-3, atol=1e-3)
        # Training computes the loss of the same logits.
        collate = MicroBatchCollator(30, 2, packed=fast)
        batches = collate([{"id": "", "input_ids": d, "target": 1} for d in documents])
        loss = sum(
            model.loss(b["input_ids"], b["attention_mask"], b["targets"],
                       HeadLoss("cross_entropy", 2), windows=b.get("windows"))
            for b in batches["micro_batches"]
        )  # fmt: skip
        log_probs = torch.as_tensor(logits).log_softmax(1)[:, 1]
        torch.testing.assert_close(loss.detach(), -log_probs.sum(), rtol=1e-3, atol=1e-3)


def test_head_stays_fp32_and_trainable_beside_nf4_and_lora(make_backbone, live_nf4):
    model = EmbeddingModel(
        make_backbone(), HeadParams(pooling="last"), num_labels=6, compute_dtype=COMPUTE
    )
    model = add_lora(model, LoraParams(lora_r=2, lora_alpha=4))
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert any("head" in name for name in trainable)
    assert {p.dtype for p in trainable.values()} == {torch.float32}
    kinds = {type(m).__name__ for m in model.modules()}
    assert "Linear4bit" in kinds


def test_the_untrained_head_gives_each_label_its_share():
    head = PoolingHead(8, 3, HeadParams(pooling="mean"))
    head.init_bias(np.array([0.0, 10.0, 98.0], dtype="float32"), 98)
    torch.nn.init.zeros_(head.classifier.weight)
    probs = head(torch.randn(2, 4, 8), torch.ones(2, 4)).sigmoid()
    torch.testing.assert_close(probs, torch.tensor([[0.01, 0.11, 0.99]] * 2))
