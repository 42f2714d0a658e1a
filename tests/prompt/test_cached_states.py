"""Labels scored from cached states below the adapters are scored as by the whole model."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma4TextConfig, GraniteConfig

from lib.config.groups import LoraParams
from lib.data.labels import LabelSpace
from lib.model import add_lora
from lib.model.fast.packing import use_packing
from lib.model.parts import decoder_of
from lib.prompt import cached_states as face
from lib.prompt.cached_states import lower_states
from lib.prompt.decode import decode_labels
from lib.prompt.template import PromptTemplate

NAMES = ("card_arrival", "card", "card_linking", "earn", "nat-gas")
TEXTS = ["Cocoa rose.", "Gas prices fell again in the east, traders said.", "x", "I lost my card"]
PARAMS = SimpleNamespace(multi_label=False, num_epochs=1, decoding="score", quantization="none")


@pytest.fixture
def adapted(make_backbone):
    """Two layers, of which the last has adapters that answer otherwise than the model alone."""
    model = add_lora(
        make_backbone("lm", dtype="float32"), LoraParams(lora_r=4, lora_alpha=8, lora_layers=1)
    )
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.fixture
def decoding(tokenizer):
    return {
        "template": PromptTemplate.build(tokenizer, instruction="Topic?", max_length=20),
        "label_space": LabelSpace(NAMES),
        "max_new_tokens": 8,
        "token_budget": 60,
        "compute_dtype": torch.float32,
    }


def prompts_of(decoding):
    return [decoding["template"].prompt_ids(text) for text in TEXTS]


def test_scores_on_cached_states_are_those_of_the_whole_model(adapted, decoding):
    prompts = prompts_of(decoding)
    states = lower_states(adapted, prompts, PARAMS, decoding, fingerprint="a")
    assert len(states) > 1  # several micro-batches
    for strategy in ("score", "score_length", "score_prior"):
        options = {"prompts": prompts, "strategy": strategy, **decoding}
        whole = decode_labels(adapted, **options)[1].values
        np.testing.assert_allclose(
            decode_labels(adapted, lower=states, **options)[1].values, whole, atol=1e-5
        )
    changed = [states[0] + 1, *states[1:]]
    other = decode_labels(adapted, lower=changed, **options)[1].values
    assert np.abs(other - whole).max() > 1e-3  # they are read


def test_states_are_computed_once_for_the_same_prompts_labels_and_weights(
    adapted, decoding, caplog
):
    prompts, options = prompts_of(decoding), {"params": PARAMS, "decoding": decoding}
    caplog.set_level("INFO", face.__name__)
    for _ in range(2):
        lower_states(adapted, prompts, **options, fingerprint="b")
    assert caplog.text.count("read 4 prompts and their labels once") == 1
    lower_states(adapted, prompts[:3], **options, fingerprint="b")
    fewer = decoding | {"label_space": LabelSpace(NAMES[:3])}
    lower_states(adapted, prompts, PARAMS, fewer, fingerprint="b")
    lower_states(adapted, prompts, **options, fingerprint="other weights")
    assert caplog.text.count("and their labels once") == 4


@pytest.mark.parametrize(
    "changed", [{"decoding": "search"}, {"multi_label": True}, {"num_epochs": 0}]
)
def test_nothing_is_cached_where_nothing_is_read_again(adapted, decoding, changed):
    params = SimpleNamespace(**vars(PARAMS) | changed)
    assert lower_states(adapted, prompts_of(decoding), params, decoding, fingerprint="c") == []


def test_adapters_on_all_layers_leave_nothing_to_cache(make_backbone, decoding):
    model = add_lora(make_backbone("lm", dtype="float32"), LoraParams(lora_r=4, lora_alpha=8))
    assert lower_states(model, prompts_of(decoding), PARAMS, decoding, fingerprint="d") == []


def test_a_model_whose_upper_layers_alone_score_otherwise_is_not_cached(
    adapted, decoding, monkeypatch
):
    below = face.masked_states_below
    monkeypatch.setattr(face, "masked_states_below", lambda *a, **k: 2 * below(*a, **k))
    assert lower_states(adapted, prompts_of(decoding), PARAMS, decoding, fingerprint="e") == []


TINY = {
    "vocab_size": 49152, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0,
}  # fmt: skip
APART = {
    "the last norm hides a scale": GraniteConfig(
        **TINY, embedding_multiplier=12.0, logits_scaling=8.0, residual_multiplier=0.01
    ),
    "every layer reads tokens": Gemma4TextConfig(
        **TINY, sliding_window=200, global_head_dim=8, layer_types=["full_attention"] * 2,
        hidden_size_per_layer_input=8, vocab_size_per_layer_input=49152,
    ),
}  # fmt: skip


@pytest.mark.parametrize("reason", APART)
def test_layers_that_cannot_be_taken_apart_are_not_cached(reason, decoding):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(APART[reason]).eval()
    assert use_packing(model)
    decoder_of(model).first_adapted_layer = 1
    assert lower_states(model, prompts_of(decoding), PARAMS, decoding, fingerprint="g") == []


@pytest.mark.parametrize("rank", [0, 1])
def test_of_several_processes_the_one_that_evaluates_computes_them(
    adapted, decoding, monkeypatch, rank
):
    monkeypatch.setattr(face.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(face.dist, "get_rank", lambda: rank)
    states = lower_states(adapted, prompts_of(decoding), PARAMS, decoding, fingerprint="f")
    assert (len(states) > 0) == (rank == 0)
