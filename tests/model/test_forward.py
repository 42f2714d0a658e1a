"""Logits from hidden states are those of the model itself, scaled and bounded as it does."""

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertGenerationConfig,
    Cohere2Config,
    FalconH1Config,
    Gemma2Config,
    GPTNeoXConfig,
    GraniteConfig,
    LlamaConfig,
    ModernBertDecoderConfig,
)

from lib.model.checks import check_logits
from lib.model.forward import next_token_logits
from lib.model.parts import decoder_of

SHAPE = {
    "vocab_size": 99, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0,
}  # fmt: skip


def make(config):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    model.get_output_embeddings().weight.data.normal_(std=5.0)  # logits that a bound would change
    return model


@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(**SHAPE),
        GraniteConfig(**SHAPE, logits_scaling=8.0),
        Cohere2Config(**SHAPE, logit_scale=0.0625),
        Gemma2Config(**SHAPE, final_logit_softcapping=3.0),
        GPTNeoXConfig(**SHAPE),
        FalconH1Config(**SHAPE, lm_head_multiplier=0.5),
    ],
    ids=lambda config: config.model_type,
)
@torch.no_grad()
def test_logits_are_scaled_and_bounded_as_the_model_does(config):
    model = make(config)
    ids = torch.tensor([[5, 6, 7]])
    states = decoder_of(model)(input_ids=ids).last_hidden_state
    torch.testing.assert_close(next_token_logits(model, states), model(input_ids=ids).logits)
    check_logits(model)


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        (ModernBertDecoderConfig(**SHAPE), "transforms its logits"),
        (BertConfig(**SHAPE), "transforms its logits"),
        (BertGenerationConfig(**SHAPE), "depend on those after it"),
    ],
    ids=["transformed", "encoder", "both ways"],
)
def test_models_with_other_logits_are_refused(config, complaint):
    with pytest.raises(ValueError, match=complaint):
        check_logits(make(config))
