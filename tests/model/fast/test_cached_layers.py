"""Layers below the adapters: computed once, with the results of computing them every time."""

import numpy as np
import pytest
import torch
from transformers import AutoModel, Gemma4TextConfig, GPTNeoXConfig, GraniteConfig

from lib import storage
from lib.config.arms import EmbeddingParams, InstructionParams
from lib.config.groups import HeadParams, LoraParams
from lib.head.losses import HeadLoss
from lib.head.model import EmbeddingModel, predict_logits
from lib.machine import Cost, choose_dtype
from lib.model.adapters import add_lora
from lib.model.fast import cached_layers
from lib.model.fast.cached_layers import cache_lower_layers, states_below
from lib.model.fast.packing import use_packing
from lib.model.windows import Windows
from lib.training.finetune import finetune_embedding, finetune_instruction

COMPUTE = choose_dtype(torch.device("cpu"))  # emulated bfloat16 would take minutes
TRAINING = {
    "max_length": 64, "token_budget": 64, "num_epochs": 3, "batch_size": 2, "learning_rate": 1e-2,
    "warmup_share": 0.0,
}  # fmt: skip
WINDOWS = Windows([[81, 9690, 278, 100, 200], [300, 2, 2]])
DOCUMENTS = [[81, 2, 216, 9690, 2], [278, 5], WINDOWS, [7] * 6]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "CACHE", tmp_path / "cache")


def make(make_backbone, *, adapted=1):
    torch.manual_seed(0)
    model = EmbeddingModel(
        make_backbone(layers=3), HeadParams(pooling="mean"), num_labels=2, compute_dtype=COMPUTE
    )
    return add_lora(model, LoraParams(lora_r=4, lora_alpha=8, lora_layers=adapted))


def keep(model, documents=DOCUMENTS):
    return cache_lower_layers(
        model, {"train": documents}, compute_dtype=COMPUTE, fingerprint="x", token_budget=16
    )


def test_predictions_are_those_of_the_whole_model(make_backbone):
    model = make(make_backbone)
    states, spent = keep(model)
    assert [x.shape for x in states["train"]] == [(len(d), 576) for d in DOCUMENTS]
    assert spent["train"].seconds > 0
    first, again = (
        predict_logits(model, DOCUMENTS, token_budget=16, cached_states=states["train"]).values
        for _ in range(2)
    )
    whole = predict_logits(model, DOCUMENTS, token_budget=16).values
    assert np.array_equal(first, again)
    np.testing.assert_allclose(first, whole, rtol=1e-3, atol=1e-3)


def test_training_is_that_of_the_whole_model(make_backbone, tmp_path):
    results = []
    for use in (False, True):
        model = make(make_backbone)
        states, _ = keep(model)
        examples = [
            {"id": f"d{i}", "input_ids": d, "target": i % 2} for i, d in enumerate(DOCUMENTS)
        ]
        history, cost = finetune_embedding(
            model, examples, lambda _: {"micro_f1": 0.0}, EmbeddingParams(**TRAINING),
            head_loss=HeadLoss("cross_entropy", 2), output_dir=tmp_path / str(use),
            cached=states["train"] if use else (), setup_cost=Cost(100.0, 0.0),
        )  # fmt: skip
        results.append(
            (history["loss"].dropna(), predict_logits(model, DOCUMENTS, token_budget=64).values)
        )
        assert cost["train_seconds"] > 100
    np.testing.assert_allclose(results[0][0], results[1][0], rtol=2e-3)
    np.testing.assert_allclose(results[0][1], results[1][1], rtol=1e-2, atol=1e-2)


def test_a_prompts_training_is_that_of_the_whole_model(make_backbone, tmp_path):
    losses = []
    for use in (False, True):
        torch.manual_seed(0)
        backbone = make_backbone(head="lm", layers=3)
        model = add_lora(backbone, LoraParams(lora_r=4, lora_alpha=8, lora_layers=1))
        states, spent = keep(model)
        assert spent["train"].seconds > 0
        examples = [{"id": f"d{i}", "input_ids": d, "target": 1} for i, d in enumerate(DOCUMENTS)]
        history, _ = finetune_instruction(
            model, examples, lambda _: {"micro_f1": 0.0}, InstructionParams(**TRAINING),
            compute_dtype=COMPUTE, output_dir=tmp_path / str(use),
            cached=states["train"] if use else (),
        )  # fmt: skip
        losses.append(history["loss"].dropna())
    np.testing.assert_allclose(*losses, rtol=2e-3)


def test_what_was_computed_is_not_computed_again(make_backbone, monkeypatch):
    model = make(make_backbone)
    states, spent = keep(model)
    monkeypatch.setattr(cached_layers, "_compute", lambda *_: pytest.fail("computed again"))
    again, same = keep(model)
    assert np.array_equal(states["train"][2], again["train"][2])
    np.testing.assert_equal(spent["train"], same["train"])


TINY = {
    "vocab_size": 99, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0,
}  # fmt: skip
APART = {
    "its last norm has another name": GPTNeoXConfig(**TINY),
    "what comes in is scaled": GraniteConfig(**TINY, embedding_multiplier=12.0),
    "the last norm hides the scale": GraniteConfig(
        **TINY, embedding_multiplier=12.0, initializer_range=0.3, residual_multiplier=0.01
    ),
    "every layer reads tokens": Gemma4TextConfig(
        **TINY, sliding_window=20, global_head_dim=8, layer_types=["full_attention"] * 2,
        hidden_size_per_layer_input=8, vocab_size_per_layer_input=99,
    ),
}  # fmt: skip


@pytest.mark.parametrize("reason", APART)
def test_layers_that_cannot_be_taken_apart_run_in_every_epoch(reason, caplog):
    torch.manual_seed(0)
    backbone = AutoModel.from_config(APART[reason]).eval()
    assert use_packing(backbone)
    backbone.first_adapted_layer = 1
    model = EmbeddingModel(
        backbone, HeadParams(pooling="mean"), num_labels=2, compute_dtype=torch.float32
    )
    with caplog.at_level("INFO", "lib"):
        assert keep(model, [[5, 6, 7], [8, 9]])[0] == {}
    assert "do not reproduce this model" in caplog.text


def test_damaged_states_are_computed_again(make_backbone, tmp_path, damage, caplog):
    model = make(make_backbone)
    before, _ = keep(model)
    before = [np.array(rows) for rows in before["train"]]
    damage(tmp_path / "cache" / "lower")
    states, spent = keep(model)
    assert "computing it anew" in caplog.text
    assert spent["train"].seconds > 0
    assert all(map(np.array_equal, states["train"], before))


def test_states_in_bfloat16_come_back_bit_for_bit(make_backbone):
    backbone = make_backbone(layers=2, dtype="bfloat16")
    backbone.first_adapted_layer = 1
    states, _ = cache_lower_layers(
        backbone, {"train": DOCUMENTS[:1]}, compute_dtype=torch.bfloat16, fingerprint="x",
        token_budget=16,
    )  # fmt: skip
    ids = torch.tensor(DOCUMENTS[:1])
    assert states["train"][0].dtype == np.int16
    expected = states_below(backbone, ids, torch.ones_like(ids), compute_dtype=torch.bfloat16)
    assert torch.equal(torch.from_numpy(states["train"][0].copy()).view(torch.bfloat16), expected)


def test_without_gain_or_room_every_layer_runs(make_backbone, monkeypatch):
    assert keep(make(make_backbone, adapted=3))[0] == {}
    monkeypatch.setattr(storage, "MAX_SHARE", 0.0)
    states, spent = keep(make(make_backbone))
    assert (states, spent["train"]) == ({}, Cost())
