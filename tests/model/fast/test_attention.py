"""Packed attention against the padded path of transformers, values and gradients."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn
from transformers import (
    AutoModel,
    BertConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from lib.config.groups import HeadParams, LoraParams
from lib.head.model import EmbeddingModel
from lib.machine import mixed_precision
from lib.model import forward
from lib.model.adapters import add_lora
from lib.model.batches import pad
from lib.model.bidirectional import bidirectional_config, disable_causal_mask
from lib.model.fast import attention
from lib.model.fast.attention import is_packed
from lib.model.fast.blocks import wrap_for_compiling
from lib.model.fast.packing import use_packing
from lib.model.forward import additive_mask, last_hidden_states

TINY = {
    "vocab_size": 99,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
    "use_cache": False,
}
FAMILIES = {
    "llama": LlamaConfig(**TINY),
    "qwen2": Qwen2Config(**TINY),
    "qwen3": Qwen3Config(**TINY),
    "mistral, sliding window": MistralConfig(**TINY, sliding_window=5),
    "gemma3": Gemma3TextConfig(**TINY, sliding_window=6, query_pre_attn_scalar=8),
}
DOCUMENTS = [[5, 6, 7], [8] * 9, [9, 3, 4, 1, 8, 7, 5, 5, 2, 6, 4], [2]]


def make(config, attention="eager"):
    torch.manual_seed(0)
    return AutoModel.from_config(config, attn_implementation=attention)


def states_of(model, input_ids, mask, compute_dtype=torch.float32):
    return last_hidden_states(model, input_ids, mask, compute_dtype=compute_dtype)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("side", ["right", "left"])
def test_packed_documents_get_the_hidden_states_of_padded_ones(family, side):
    model = make(FAMILIES[family])
    input_ids, mask = pad(DOCUMENTS, 0)
    if side == "left":
        input_ids, mask = input_ids.flip(1), mask.flip(1)
    with torch.no_grad():
        padded = model(
            input_ids, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0)
        ).last_hidden_state
        assert use_packing(model)
        assert is_packed(model)
        packed = states_of(model, input_ids, mask)
    torch.testing.assert_close(packed[mask.bool()], padded[mask.bool()], rtol=1e-4, atol=1e-5)
    assert not packed[~mask.bool()].any()


@pytest.mark.parametrize(
    "config",
    [
        Gemma2Config(**TINY),  # a soft cap
        LlamaConfig(**TINY, attention_dropout=0.1),
        GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=99),  # learnt positions
        BertConfig(**TINY),  # every token sees every other
    ],
    ids=lambda config: config.model_type,
)
def test_models_for_which_packing_is_not_exact_keep_their_mask(config):
    model = make(config).eval()
    assert not use_packing(model)
    input_ids, mask = pad(DOCUMENTS, 0)
    with torch.no_grad():
        batch = states_of(model, input_ids, mask)
        alone = states_of(model, *pad(DOCUMENTS[:1], 0))
    torch.testing.assert_close(batch[0, :3], alone[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_in_both_directions_every_token_sees_its_whole_document(family):
    """LLM2Vec's change of mask, against each document by itself, without padding or packing."""
    windowed = "sliding" in family or family == "gemma3"
    model = make(bidirectional_config(FAMILIES[family])).eval()
    disable_causal_mask(model)
    alone = [model(torch.tensor([d])).last_hidden_state[0] for d in DOCUMENTS]
    changed = model(torch.tensor([[*DOCUMENTS[0][:-1], 90]])).last_hidden_state[0]
    assert not torch.allclose(changed[0], alone[0][0])
    assert use_packing(model) != windowed
    states = states_of(model, *pad(DOCUMENTS, 0))
    for row, expected in zip(states, alone, strict=True):
        torch.testing.assert_close(row[: len(expected)], expected, rtol=1e-4, atol=1e-5)


def test_a_model_that_keeps_its_causal_mask_is_refused():
    model = make(FAMILIES["llama"]).eval()  # its config does not ask for it
    with pytest.raises(ValueError, match="LlamaModel keeps its causal mask"):
        disable_causal_mask(model)


def test_a_row_of_padding_alone_is_an_error():
    model = make(FAMILIES["llama"])
    use_packing(model)
    with pytest.raises(ValueError, match="holds no token"):
        states_of(model, torch.ones(2, 3, dtype=torch.long), torch.tensor([[1, 1, 0], [0] * 3]))


@pytest.mark.parametrize("given", [None, "mask"])
def test_without_boundaries_it_is_transformers_sdpa(given):
    """As in prefill and generation; a mask is needed only beyond a sliding window."""
    input_ids, mask = pad(DOCUMENTS, 0)
    config = FAMILIES["llama" if given is None else "mistral, sliding window"]
    mask = None if given is None else mask.flip(1)
    ours, theirs = make(config), make(config, "sdpa")
    assert use_packing(ours)
    with torch.no_grad():
        a, b = (m(input_ids, attention_mask=mask).last_hidden_state for m in (ours, theirs))
    real = slice(None) if mask is None else mask.bool()
    torch.testing.assert_close(a[real], b[real])


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_behind_a_shared_prefix_get_the_states_of_whole_rows(family):
    model = make(FAMILIES[family])
    assert use_packing(model)
    rows = torch.tensor([[5, 6, 7, 8, 2], [5, 6, 9, 3, 1]])
    visible = torch.ones(2, 3, 3, dtype=torch.bool).tril()
    with torch.inference_mode():
        whole = model(input_ids=rows).last_hidden_state
        prefix = model(input_ids=rows[:1, :2], use_cache=True).past_key_values
        behind = model(
            input_ids=rows[:, 2:],
            position_ids=torch.arange(2, 5).repeat(2, 1),
            attention_mask=additive_mask(visible, torch.float32),
            prefix=prefix,
        ).last_hidden_state
    torch.testing.assert_close(behind, whole[:, 2:], atol=1e-5, rtol=1e-4)


def step(path, dtype):
    """Logits and gradients of one training step of a small Llama on one of our paths."""
    backbone = make(FAMILIES["llama"]).to(dtype).requires_grad_(False)
    model = EmbeddingModel(backbone, HeadParams(pooling="mean"), num_labels=3, compute_dtype=dtype)
    model = add_lora(model, LoraParams(lora_r=4, lora_alpha=8)).train()
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.dtype == torch.float32, name
            nn.init.normal_(parameter, std=0.1)
    if path == "plain":
        plain = {name: m for name, m in model.named_modules() if hasattr(m, "lora_A")}
        for m in plain.values():
            m.__class__ = next(c for c in type(m).__mro__ if c.__module__.startswith("peft."))
    else:
        use_packing(backbone)
    if path == "compiled":
        assert wrap_for_compiling(model, num_tokens=10**9)
    logits = model(*pad(DOCUMENTS, 0))
    nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 0])).backward()
    grads = [p.grad.flatten() for p in model.parameters() if p.requires_grad]
    return logits.detach(), torch.cat(grads)


@pytest.mark.parametrize("path", ["packed", pytest.param("compiled", marks=pytest.mark.slow)])
def test_a_step_equals_the_plain_path_in_fp32(path):
    """Packed, fused and compiled against padding, mask and peft: 1e-5 of the largest value."""
    for ours, plain in zip(step(path, torch.float32), step("plain", torch.float32), strict=True):
        assert (ours - plain).abs().max() < 1e-5 * plain.abs().max()


@pytest.mark.parametrize("path", ["packed", pytest.param("compiled", marks=pytest.mark.slow)])
def test_a_step_in_bfloat16_is_as_near_to_fp32_as_the_plain_path(path):
    exact, ours, plain = (
        step(p, dtype)
        for p, dtype in [
            ("plain", torch.float32), (path, torch.bfloat16), ("plain", torch.bfloat16),
        ]
    )  # fmt: skip
    for reference, a, b in zip(exact, ours, plain, strict=True):
        assert (a - reference).norm() < 1.2 * (b - reference).norm()
        assert (a - reference).norm() < 0.05 * reference.norm()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("mode", "computed"), [("last", 4), ("cls", 4), ("mean", 24)])
def test_the_last_block_computes_only_what_is_read(family, mode, computed, monkeypatch):
    def logits_and_gradients():
        backbone = make(FAMILIES[family]).requires_grad_(False)
        assert use_packing(backbone)
        model = EmbeddingModel(
            backbone, HeadParams(pooling=mode), num_labels=3, compute_dtype=torch.float32
        )
        model = add_lora(model, LoraParams(lora_r=4, lora_alpha=8)).train()
        torch.manual_seed(1)
        for parameter in model.parameters():
            if parameter.requires_grad:
                nn.init.normal_(parameter, std=0.1)
        tokens = []
        for block in backbone.layers:
            for part in (block.self_attn.k_proj, block.mlp.down_proj):
                part.register_forward_pre_hook(
                    lambda _, args: tokens.append(args[0].numel() // args[0].shape[-1])
                )
        logits = model(*pad(DOCUMENTS, 0))
        nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 0])).backward()
        named = dict(model.named_parameters())
        return tokens, logits, {n: p.grad for n, p in named.items() if p.requires_grad}

    tokens, logits, gradients = logits_and_gradients()
    assert tokens == [24, 24, 24, computed]
    monkeypatch.setattr(forward, "skip_unread_positions", lambda *_: nullcontext())
    tokens, expected, expected_gradients = logits_and_gradients()
    assert tokens == [24] * 4
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected_gradients[name], rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_packed_attention_on_a_gpu_is_that_of_the_cpu():
    lengths = [3, 40, 170]
    q, k, v = (torch.randn(sum(lengths), h, 64) for h in (6, 2, 2))
    offsets = torch.tensor([0, *lengths]).cumsum(0).int()
    module = nn.Module()
    module.is_causal = True
    outputs = [
        attention.packed_attention_forward(
            module, *(x.transpose(0, 1)[None].to(device, torch.bfloat16) for x in (q, k, v)), None,
            scaling=0.125, cu_seq_lens_q=offsets.to(device), max_length_q=170,
        )[0].float().cpu()
        for device in ("cpu", "cuda")
    ]  # fmt: skip
    torch.testing.assert_close(*outputs, rtol=0.02, atol=0.02)


def test_autocast_reaches_the_fused_layers():
    with mixed_precision(torch.device("cpu"), torch.bfloat16):
        backbone = make(FAMILIES["llama"])
        use_packing(backbone)
        model = add_lora(backbone, LoraParams(lora_r=2, lora_alpha=2))
        states = states_of(model, *pad(DOCUMENTS, 0), torch.bfloat16)
        assert states.isfinite().all()
