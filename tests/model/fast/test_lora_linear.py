"""The fused LoRA layers against peft's own."""

import bitsandbytes as bnb
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch import nn

from lib.config.groups import LoraParams
from lib.model.adapters import add_lora
from lib.model.fast.lora_linear import FUSED_LAYERS, FusedLinear


class Two(nn.Module):
    """Two linear layers, the second with a bias."""

    def __init__(self, quantized=""):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(64, 32, bias=False), nn.Linear(32, 16)
        if quantized:
            for name, layer in list(self.named_children()):
                packed = bnb.nn.Linear4bit(
                    layer.in_features, layer.out_features, bias=layer.bias is not None,
                    quant_type=quantized, compute_dtype=torch.float32,
                )  # fmt: skip
                packed.load_state_dict(layer.state_dict())
                setattr(self, name, packed.to("cpu"))
        self.requires_grad_(False)

    def forward(self, x):
        return self.second(self.first(x).tanh())


def adapted(fused, quantized="", dropout=0.0, **options):
    model = Two(quantized)
    options |= {"lora_dropout": dropout, "target_modules": ["first", "second"]}
    config = LoraConfig(r=4, lora_alpha=8, **options)
    if fused:
        config._register_custom_module(FUSED_LAYERS)
    model = get_peft_model(model, config)
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.3)
    return model


def outcome(model, x):
    model.zero_grad()
    x = x.clone().requires_grad_()
    torch.manual_seed(2)  # of dropout
    y = model(x)
    y.square().sum().backward()
    return [y.detach(), x.grad, *(p.grad for p in model.parameters() if p.requires_grad)]


@pytest.mark.parametrize("quantized", ["", "nf4", "fp4"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("shape", [(5, 64), (2, 3, 64)])
def test_values_and_gradients_are_those_of_peft(quantized, dropout, shape):
    x = torch.randn(shape)
    ours, theirs = (
        outcome(adapted(fused, quantized, dropout).train(), x) for fused in (True, False)
    )
    assert len(ours) == 6
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("autocast", [False, True])
def test_adapters_in_fp32_read_bf16_with_and_without_autocast(dora, autocast):
    x = torch.randn(3, 64, dtype=torch.bfloat16)
    ours, theirs = (adapted(fused, "nf4", use_dora=dora) for fused in (True, False))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        torch.testing.assert_close(ours(x), theirs(x), rtol=0.05, atol=0.05)


def test_checkpoints_are_those_of_peft(tmp_path):
    for fused in (True, False):
        adapted(fused).save_pretrained(tmp_path / str(fused))
    ours, theirs = (
        load_file(tmp_path / str(fused) / "adapter_model.safetensors") for fused in (True, False)
    )
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_adapters_can_be_switched_off():
    x = torch.randn(3, 64)
    model = adapted(fused=True)
    with torch.no_grad(), model.disable_adapter():
        torch.testing.assert_close(model(x), Two()(x))


def test_the_loader_uses_fused_layers_and_the_first_input_gets_no_gradient(make_backbone):
    model = add_lora(make_backbone(dtype="float32"), LoraParams(lora_r=2, lora_alpha=2))
    layers = [m for m in model.modules() if isinstance(m, FusedLinear)]
    assert len(layers) == 2 * 7
    embedded = []
    model.get_input_embeddings().register_forward_hook(lambda *x: embedded.append(x[-1]))
    model(input_ids=torch.arange(5, 9)[None]).last_hidden_state.sum().backward()
    assert not embedded[0].requires_grad


def test_layers_with_several_adapters_or_none_are_left_to_peft():
    x = torch.randn(3, 64)
    model = adapted(fused=True)
    model.add_adapter("other", LoraConfig(r=2, target_modules=["first"]))
    plain = model(x)
    model.base_model.set_adapter(["default", "other"])
    torch.testing.assert_close(model(x), plain)  # a new adapter adds nothing yet
    model.set_adapter("other")  # which the second layer does not have
    torch.testing.assert_close(model(x), Two()(x))
