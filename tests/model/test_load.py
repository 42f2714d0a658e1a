import json
import logging
import shutil
import subprocess
import sys

import bitsandbytes as bnb
import pytest
import torch
from conftest import MINILM, SMOLLM2
from peft.tuners.lora import LoraLayer
from transformers import Gemma3TextConfig

from lib.config.groups import HeadParams, LoraParams
from lib.errors import ModelError
from lib.head.model import EmbeddingModel
from lib.machine import mixed_precision
from lib.model.adapters import add_lora
from lib.model.load import count_parameters, load_backbone
from lib.model.parts import decoder_of
from lib.model.weights import load_config, load_tokenizer, resolve_model
from lib.storage import ROOT

PARAMETERS = 134_515_008  # SmolLM2-135M, from its model card's safetensors


def forward(model):
    with mixed_precision(torch.device("cpu"), torch.bfloat16):
        return model(input_ids=torch.arange(5, 37)[None]).last_hidden_state


def states(model):
    with torch.inference_mode():
        return model(input_ids=torch.arange(5, 37)[None]).last_hidden_state


def test_packaged_gguf_loads_in_nf4_with_double_quantization(live_nf4):
    model = load_backbone(SMOLLM2, dtype="bfloat16")
    layers = [m for m in model.modules() if isinstance(m, bnb.nn.Linear4bit)]
    assert len(layers) == 30 * 7
    assert {m.weight.quant_state.quant_type for m in layers} == {"nf4"}
    assert all(m.weight.quant_state.nested for m in layers)
    assert {m.compute_dtype for m in layers} <= {torch.bfloat16, torch.float32}
    assert count_parameters(model) == (0, PARAMETERS)
    assert model.get_memory_footprint() < 0.11 * 2**30  # embeddings stay in 16 bits


def test_dequantized_once_is_the_nf4_model_value_for_value(make_backbone):
    once = make_backbone(dtype="bfloat16")
    assert not any(isinstance(m, bnb.nn.Linear4bit) for m in once.modules())
    packed = make_backbone(dtype="bfloat16", memory_gib=0.1)
    assert any(isinstance(m, bnb.nn.Linear4bit) for m in packed.modules())
    torch.testing.assert_close(states(once), states(packed), rtol=0, atol=0)


def test_nf4_follows_the_unquantized_model(make_backbone):
    exact = states(make_backbone(quantization="none", dtype="float32"))
    nf4 = states(make_backbone(dtype="float32"))
    assert torch.cosine_similarity(exact.flatten(), nf4.flatten(), dim=0) > 0.95


def test_an_evaluation_does_not_change_what_training_computes(live_nf4, make_backbone):
    """Bitsandbytes would repack 4-bit weights at the first no-grad eval forward."""
    model = add_lora(make_backbone(dtype="bfloat16"), LoraParams(lora_r=2, lora_alpha=4)).train()
    before = forward(model).detach()
    model.eval()
    with torch.no_grad():
        forward(model)
    model.train()
    assert torch.equal(forward(model), before)
    weight = next(m.weight for m in model.modules() if isinstance(m, bnb.nn.Linear4bit))
    assert not getattr(weight.quant_state, "packing_format_for_cpu", False)


def test_the_loader_says_what_it_chose(caplog):
    with caplog.at_level(logging.INFO, logger="lib"):
        load_backbone(MINILM, quantization="none", dtype="float32", device="cpu")
    assert "weights as stored (none) on cpu, float32 compute, eager attention" in caplog.text


def test_pad_token_is_set_in_tokenizer_and_model(tmp_path):
    """On a model whose config and tokenizer lack it."""
    folder = tmp_path / "model"
    shutil.copytree(resolve_model(SMOLLM2), folder)
    for name in ("config.json", "tokenizer_config.json"):
        values = json.loads((folder / name).read_text())
        values.pop("pad_token_id", None), values.pop("pad_token", None)
        (folder / name).write_text(json.dumps(values))
    tokenizer = load_tokenizer(str(folder))
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    assert load_backbone(str(folder), quantization="none").config.pad_token_id == 2


def test_damaged_local_weights_are_refused_in_one_line(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(resolve_model(MINILM), folder)
    (folder / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ModelError, match="cannot be loaded") as caught:
        load_backbone(str(folder), quantization="none")
    assert "\n" not in str(caught.value)


def test_a_tokenizer_that_cannot_be_had_is_refused_in_one_line():
    """The hub is offline here; a gated model fails alike."""
    with pytest.raises(ModelError, match="nobody/nothing: cannot be loaded: OSError") as caught:
        load_tokenizer("nobody/nothing")
    assert "\n" not in str(caught.value)


def test_lora_trains_adapters_only_in_fp32_and_leaves_the_base_as_it_was(make_backbone):
    backbone = make_backbone(dtype="bfloat16")
    base = {name: p.clone() for name, p in backbone.named_parameters()}
    model = add_lora(backbone, LoraParams(lora_r=4, lora_alpha=8))
    trainable, _ = count_parameters(model)
    # r x (in + out) for q, k, v, o, gate, up, down of two layers
    widths = [(576, 576), (576, 192), (576, 192), (576, 576)] + [(576, 1536)] * 3
    assert trainable == 2 * 4 * sum(a + b for a, b in widths)
    adapters = [p for p in model.parameters() if p.requires_grad]
    assert {p.dtype for p in adapters} == {torch.float32}
    optimizer = torch.optim.SGD(adapters, lr=1.0)
    for _ in range(2):
        forward(model).float().sum().backward()
        assert all(p.grad is not None for p in adapters)
        optimizer.step()
    after = {n.replace(".base_layer", ""): p for n, p in backbone.named_parameters()}
    assert all(torch.equal(after[name], value) for name, value in base.items())


def test_all_linear_means_the_backbone_whatever_the_head_is_made_of(make_backbone):
    model = EmbeddingModel(
        make_backbone(),
        HeadParams(pooling="attention", head="mlp"),
        num_labels=3,
        compute_dtype=torch.float32,
    )
    model = add_lora(model, LoraParams(lora_r=2, lora_alpha=4))
    adapted = {n for n, m in model.named_modules() if isinstance(m, LoraLayer)}
    assert len(adapted) == 2 * 7
    assert not any("head" in name for name in adapted)


def test_adapters_of_the_last_layers_leave_the_others_alone(make_backbone):
    model = add_lora(
        make_backbone("lm", layers=3), LoraParams(lora_r=2, lora_alpha=4, lora_layers=1)
    )
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trained
    assert all(".layers.2." in name for name in trained)
    with pytest.raises(ValueError, match="lora_layers: 4 were asked for, but the model has 3"):
        add_lora(make_backbone("lm", layers=3), LoraParams(lora_r=2, lora_alpha=4, lora_layers=4))


def test_variants_differ_in_scale_and_magnitude(make_backbone):
    plain, rank_stable, magnitude = (
        add_lora(make_backbone(dtype="float32"), LoraParams(lora_r=4, lora_alpha=8, lora_variant=v))
        for v in ("lora", "rslora", "dora")
    )
    scales = [
        next(m.scaling["default"] for m in model.modules() if isinstance(m, LoraLayer))
        for model in (plain, rank_stable)
    ]
    assert scales == [2.0, 4.0]
    assert count_parameters(magnitude)[0] > count_parameters(plain)[0]
    torch.testing.assert_close(states(magnitude), states(plain), rtol=1e-3, atol=1e-3)
    forward(magnitude).float().sum().backward()
    assert all(p.grad is not None for p in magnitude.parameters() if p.requires_grad)


def test_unknown_target_modules_name_the_known_ones(make_backbone):
    with pytest.raises(ValueError, match=r"\['query'\] are not layers of this model: .*'q_proj'"):
        add_lora(
            make_backbone(), LoraParams(lora_r=2, lora_alpha=4, target_modules=["q_proj", "query"])
        )


def test_importing_lib_is_quiet_and_loading_needs_no_network():
    """Bitsandbytes looks for a hub kernel on the CPU and warns."""
    code = (
        f"import lib.model.weights; lib.model.weights.load_tokenizer({MINILM!r}); print('loaded')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("loaded\n", "")


@pytest.mark.parametrize("head", ["none", "lm"])
def test_depth_keeps_the_first_blocks(make_backbone, cut_model, head):
    whole = make_backbone(head, layers=3, dtype="float32")
    shorter = make_backbone(head, layers=3, dtype="float32", depth=2)
    ids = torch.arange(5, 37)[None]
    with torch.inference_mode():
        states = whole(input_ids=ids, output_hidden_states=True).hidden_states[2]  # before the norm
        found = shorter(input_ids=ids, output_hidden_states=True).hidden_states[-1]
    torch.testing.assert_close(decoder_of(whole).norm(states), found)
    assert load_config(cut_model(3), depth=2).num_hidden_layers == 2


def test_a_model_with_fewer_blocks_than_depth_is_refused(cut_model):
    with pytest.raises(ModelError, match="depth: 4 blocks were asked for"):
        load_config(cut_model(3), depth=4)


def test_blocks_of_several_kinds_keep_their_kinds(tmp_path):
    kinds = ["sliding_attention", "full_attention"] * 2
    Gemma3TextConfig(num_hidden_layers=4, layer_types=kinds).save_pretrained(tmp_path)
    assert load_config(str(tmp_path), depth=3).layer_types == kinds[:3]
