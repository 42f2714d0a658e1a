"""`fast: false` switches the speed engine off; what is computed stays the same within rounding."""

import numpy as np
import pytest
import torch
from conftest import SMOLLM2
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig

from lib import storage
from lib.config.groups import HeadParams, LoraParams
from lib.head.model import EmbeddingModel, predict_logits
from lib.model import add_lora, cache_lower_layers, last_hidden_states, load_backbone
from lib.model.batches import pad
from lib.model.fast.attention import is_packed
from lib.model.fast.blocks import BlockForward, blocks_of
from lib.model.fast.lora_linear import FUSED_LAYERS
from lib.model.forward import maybe_compiled, skips_padding
from lib.prompt.label_scores import score_labels
from lib.training.finetune import answer_log_probs

F32 = torch.float32
DOCUMENTS = [[81, 2, 216, 9690, 20], [278, 5], [81, 9690, 278, 100, 200, 300, 21, 22], [7] * 6]
TARGETS = torch.tensor([0, 1, 2, 0])
ANSWERS = [[20, 21, 2], [20, 22, 23, 2], [30, 2], [30, 31, 2]]


WHOLE = pytest.param("whole", marks=pytest.mark.slow)


@pytest.fixture(scope="module", params=["random", "cut", WHOLE])
def model_id(request, tmp_path_factory, tokenizer, cut_model):
    """A tiny random decoder, the packaged one's first layers, or all of it."""
    if request.param != "random":
        return SMOLLM2 if request.param == "whole" else cut_model(3)
    config = LlamaConfig(
        vocab_size=49152, hidden_size=64, intermediate_size=128, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
    )  # fmt: skip
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("random")
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def load(model_id, fast, head="none"):
    options = {"quantization": "nf4", "dtype": F32, "device": "cpu"}
    return load_backbone(model_id, head=head, fast=fast, **options)


def with_adapters(model):
    """Adapters on the last two layers, that change something from the start."""
    model = add_lora(model, LoraParams(lora_r=4, lora_alpha=8, lora_layers=2))
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            values = torch.randn(parameter.shape, generator=generator)
            parameter.data.copy_(0.02 * values)
    return model


def step(model, loss):
    """One step of gradient descent; the gradient, flat."""
    loss.backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    gradient = torch.cat([p.grad.flatten() for p in trained])
    torch.optim.SGD(trained, lr=0.1).step()
    return gradient.numpy()


def head_results(model_id, fast):
    """States, logits before and after a training step, and its gradient."""
    backbone = load(model_id, fast)
    ids, mask = pad(DOCUMENTS, backbone.config.pad_token_id)
    with torch.no_grad():
        states = last_hidden_states(backbone, ids, mask, compute_dtype=F32)
    head = HeadParams(pooling="last")
    model = with_adapters(EmbeddingModel(backbone, head, num_labels=3, compute_dtype=F32))
    before = predict_logits(model, DOCUMENTS, token_budget=64).values
    gradient = step(model, nn.functional.cross_entropy(model(ids, mask), TARGETS))
    after = predict_logits(model, DOCUMENTS, token_budget=64).values
    return states[mask.bool()].numpy(), before, gradient, after


def prompt_results(model_id, fast):
    """Scores of labels before and after a training step, and its gradient."""
    model = load(model_id, fast, head="lm")
    prompts = [[9, 8, *document] for document in DOCUMENTS]
    before = score_labels(model, prompts, ANSWERS, token_budget=64, compute_dtype=F32)
    model = with_adapters(model).train()
    ids, mask = pad(prompts, model.config.pad_token_id)
    batch = {"input_ids": ids, "attention_mask": mask, "targets": torch.tensor([1, 2, 3, 2])}
    gradient = step(model, -answer_log_probs(model, batch, F32).mean())
    after = score_labels(model, prompts, ANSWERS, token_budget=64, compute_dtype=F32)
    return before, gradient, after


@pytest.mark.parametrize("results", [head_results, prompt_results])
def test_results_agree_within_rounding(model_id, results):
    for quick, plain in zip(results(model_id, True), results(model_id, False), strict=True):
        np.testing.assert_allclose(quick, plain, rtol=2e-3, atol=1e-3 * np.abs(plain).max())


def shortcuts(model, monkeypatch, cache):
    """Names of the shortcuts that a model with adapters takes."""
    monkeypatch.setattr(storage, "CACHE", cache)
    states, _ = cache_lower_layers(
        model, {"train": DOCUMENTS}, compute_dtype=F32, fingerprint="x", token_budget=64
    )
    with maybe_compiled(model, 10**9):  # wraps blocks; without a pass nothing is compiled
        pass
    fused = tuple(FUSED_LAYERS.values())
    taken = {
        "packed": is_packed(model) and skips_padding(model),
        "fused": any(isinstance(m, fused) for m in model.modules()),
        "compiled": any(isinstance(b.forward, BlockForward) for b in blocks_of(model)),
        "cached": bool(states),
        "dequantized": not any(getattr(p, "quant_state", None) for p in model.parameters()),
    }
    return {name for name, is_taken in taken.items() if is_taken}


def test_a_model_that_is_not_fast_takes_no_shortcut(make_backbone, monkeypatch, tmp_path):
    every = {"packed", "fused", "compiled", "cached", "dequantized"}
    for fast, expected in ((True, every), (False, set())):
        backbone = make_backbone(layers=3, dtype="float32", fast=fast)
        model = EmbeddingModel(backbone, HeadParams(), num_labels=3, compute_dtype=F32)
        model = with_adapters(model)
        assert shortcuts(model, monkeypatch, tmp_path / str(fast)) == expected
