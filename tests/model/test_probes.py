"""Models of many kinds, tiny and random: exact where they run, one line where they do not."""

import re

import numpy as np
import pytest
import torch
import transformers
from peft import get_peft_model_state_dict
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedTokenizerFast,
)

from lib import storage
from lib.config.groups import HeadParams, LoraParams
from lib.errors import InputError, ModelError
from lib.head.model import EmbeddingModel
from lib.model import load as loader
from lib.model.adapters import add_lora, load_lora
from lib.model.batches import pad
from lib.model.checks import greedily
from lib.model.fast import attention, packing
from lib.model.fast.attention import is_packed
from lib.model.forward import last_hidden_states
from lib.model.load import load_backbone
from lib.model.memory import fit_into_memory
from lib.model.parts import decoder_of
from lib.model.probes import probes_of
from lib.prompt.decode import generate_answers, stop_ids
from lib.prompt.label_scores import score_labels
from lib.prompt.search import search_labels
from lib.prompt.template import PromptTemplate

PAD, BOS, EOS = 256, 257, 258
TINY = {
    "vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": PAD,
    "bos_token_id": BOS, "eos_token_id": EOS, "max_position_embeddings": 128,
}  # fmt: skip
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
LINEAR = {
    "layer_types": ["linear_attention", "full_attention"], "linear_num_key_heads": 2,
    "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
}  # fmt: skip
MAMBA = {
    "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1,
    "mamba_expand": 2, "num_local_experts": 4, "num_experts_per_tok": 2,
    "layer_types": ["mamba", "attention"],
}  # fmt: skip
# Decoders whose layers cannot branch: recurrent, convolutional, or with attention of their own.
NO_TREES = {
    "qwen3_5_text": LINEAR,
    "lfm2": {"layer_types": ["conv", "full_attention"], "conv_L_cache": 3},
    "granitemoehybrid": MAMBA,
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 2,
              "mamba_d_state": 8, "mamba_dt_rank": 4},
    "diffllama": {},
    "bloom": {"n_layer": 2, "n_head": 4},  # its bias counts tokens of the mask, not positions
}  # fmt: skip
TREES = {
    "llama": {}, "qwen3_moe": EXPERTS, "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4},
    "gpt_neox": {}, "nemotron": {},
    "mistral": {"sliding_window": 100},
}  # fmt: skip
PROMPTS = [[9, 8, 7, 11, 12, 13, 14], [9, 8, 7, 21, 22, 23, 24, 25, 26], [9, 8, 7, 31]]
ANSWERS = [[20, 21, EOS], [20, 22, 23, EOS], [30, EOS], [30, 31, EOS], [40, 41, 42, EOS]]
DOCUMENTS = [[*range(5, 29)], [40, 41, 42], [*range(60, 73)]]
EXACT = {"quantization": "none", "dtype": "float32", "device": "cpu"}


@pytest.fixture(scope="module")
def make_folder(tmp_path_factory):
    """Saves a random model of a type, with a tokenizer of bytes; the folder."""

    def make(model_type, kind="lm", **values):
        known = {key: v for key, v in (TINY | values).items() if v is not None}
        model_type = model_type.split(",")[0]
        config = transformers.AutoConfig.for_model(model_type, **known)
        torch.manual_seed(0)
        auto = AutoModelForCausalLM if kind == "lm" else AutoModel
        model = auto.from_config(config).eval()
        for name, weights in model.named_parameters():
            if weights.ndim > 1:
                torch.nn.init.normal_(weights, std=1.0 if "embed" in name else 0.1)
        folder = tmp_path_factory.mktemp(model_type)
        model.save_pretrained(folder)
        byte_tokenizer().save_pretrained(folder)
        return str(folder)

    return make


@pytest.fixture(autouse=True)
def fresh_probes(monkeypatch, tmp_path):
    monkeypatch.setattr(storage, "CACHE", tmp_path / "cache")


def byte_tokenizer():
    names = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "<pad>", "<s>", "</s>", "<unk>"]
    tokenizer = Tokenizer(models.BPE(vocab={name: i for i, name in enumerate(names)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def states_of(model, input_ids, mask):
    return last_hidden_states(model, input_ids, mask, compute_dtype=torch.float32)


@torch.no_grad()
def by_plain_passes(folder):
    """log p of each answer behind each prompt, by transformers alone, one pass a pair."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
    scores = np.empty((len(PROMPTS), len(ANSWERS)))
    for i, prompt in enumerate(PROMPTS):
        for j, answer in enumerate(ANSWERS):
            logits = model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0].log_softmax(-1)
            behind = enumerate(answer, start=len(prompt) - 1)
            scores[i, j] = sum(float(logits[at, token]) for at, token in behind)
    return scores


@torch.no_grad()
def states_by_plain_passes(folder):
    model = AutoModel.from_pretrained(folder, dtype="float32").eval()
    return [model(input_ids=torch.tensor([d])).last_hidden_state[0] for d in DOCUMENTS]


@pytest.mark.parametrize("model_type", [*NO_TREES, *TREES])
def test_scores_and_searches_equal_plain_passes_in_every_kind_of_decoder(make_folder, model_type):
    folder = make_folder(model_type, **(NO_TREES | TREES)[model_type])
    model = load_backbone(folder, head="lm", **EXACT)
    expected = by_plain_passes(folder)
    options = {"token_budget": 60, "compute_dtype": torch.float32}
    scores = score_labels(model, PROMPTS, ANSWERS, **options)
    np.testing.assert_allclose(scores, expected, atol=2e-3)
    assert probes_of(model).answers["trees"] == (model_type in TREES)
    for greedy in (True, False):
        found = search_labels(model, PROMPTS, ANSWERS, greedy=greedy, **options)
        finished = np.isfinite(found)
        assert finished.any(axis=1).all()
        np.testing.assert_allclose(found[finished], expected[finished], atol=2e-3)
    assert (found.argmax(axis=1) == expected.argmax(axis=1)).all()


def test_a_plain_pass_fills_no_cache(make_folder):
    """Layers that compute their activations again would fill it twice."""
    model, kept = load_backbone(make_folder("llama"), fast=False, **EXACT), []
    model.config.use_cache = True
    model.register_forward_hook(lambda *args: kept.append(args[-1].past_key_values))
    ids = torch.tensor([[5, 6, 7]])
    states_of(model, ids, torch.ones_like(ids))
    assert kept == [None]


MAMBA_ALONE = {"state_size": 4, "time_step_rank": 4}
ADAPTED = {
    "falcon_h1": {"mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8,
                  "mamba_n_groups": 1},
    "mamba": MAMBA_ALONE, "falcon_mamba": MAMBA_ALONE,
    "mamba2": {"num_heads": 4, "head_dim": 16, "state_size": 8, "n_groups": 1, "expand": 2},
    "biogpt": {}, "rwkv": {"attention_hidden_size": 32},  # whose heads have other names
}  # fmt: skip


@pytest.mark.parametrize("model_type", ADAPTED)
def test_all_linear_layers_that_peft_takes_are_adapted_but_no_head(make_folder, model_type):
    model = load_backbone(make_folder(model_type, **ADAPTED[model_type]), head="lm", **EXACT)
    head = model.get_output_embeddings()
    adapted = add_lora(model, LoraParams(lora_r=2, lora_alpha=4))
    trained = [name for name, p in adapted.named_parameters() if p.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)
    assert type(model.get_output_embeddings()) is type(head) is torch.nn.Linear


LATENT = {
    "kv_lora_rank": 8, "q_lora_rank": 12, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
    "v_head_dim": 8, "first_k_dense_replace": 1, "head_dim": None, "num_key_value_heads": 4,
    "n_routed_experts": 4, "n_shared_experts": 1, "n_group": 1, "topk_group": 1,
}  # fmt: skip
GEMMA_3N = {
    "num_hidden_layers": 4, "num_kv_shared_layers": 2, "layer_types": [
        "sliding_attention", "full_attention"] * 2, "altup_num_inputs": 2,
    "activation_sparsity_pattern": [0.0] * 4, "hidden_size_per_layer_input": 8, "laurel_rank": 4,
    "vocab_size_per_layer_input": 300, "sliding_window": 100,
}  # fmt: skip
SOME_LAYERS = {  # kinds with experts beside dense layers, and others
    "deepseek_v2": EXPERTS | LATENT, "deepseek_v3": EXPERTS | LATENT,
    "glm4_moe": EXPERTS | LATENT | {"head_dim": 8},
    "dots1": EXPERTS | LATENT | {"head_dim": 8},
    "ernie4_5_moe": EXPERTS | {"moe_num_experts": 4, "moe_k": 2},
    "qwen3_next": EXPERTS | LINEAR | {"shared_expert_intermediate_size": 24},
    "afmoe": EXPERTS | {"num_dense_layers": 1, "layer_types": None},
    "laguna": EXPERTS | {"head_dim": 8, "shared_expert_intermediate_size": 24, "layer_types": None},
    "mixtral": {"num_local_experts": 4}, "qwen3_moe": EXPERTS, "llama": {},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4}, "gemma3n_text": GEMMA_3N,
}  # fmt: skip


@pytest.mark.parametrize("model_type", SOME_LAYERS)
def test_the_last_layers_are_trained_and_no_experts(make_folder, tmp_path, model_type):
    folder = make_folder(model_type, **SOME_LAYERS[model_type])
    for layers in (0, 1):
        params = LoraParams(lora_r=2, lora_alpha=4, lora_layers=layers, lora_dropout=0.1)
        model = load_backbone(folder, head="lm", **EXACT)
        adapted = add_lora(model, params)
        first, depth = decoder_of(model).first_adapted_layer, model.config.num_hidden_layers
        trained = [name for name, p in adapted.named_parameters() if p.requires_grad]
        inside = [found for name in trained if (found := re.search(r"\.(?:layers|h)\.(\d+)", name))]
        assert {int(found[1]) for found in inside} == set(range(first, depth))
        assert layers == 0 or len(inside) == len(trained)
        assert not [name for name in trained if "experts." in name.replace("shared_experts", "")]
    for p in adapted.parameters():
        if p.requires_grad:
            torch.nn.init.normal_(p, std=0.1)
    adapted.save_pretrained(tmp_path)
    again = load_lora(load_backbone(folder, head="lm", **EXACT), tmp_path, params)
    of_both = (get_peft_model_state_dict(m) for m in (adapted, again))
    torch.testing.assert_close(*of_both, rtol=0, atol=0)


def test_a_layer_named_beside_experts_is_adapted_and_they_are_not(make_folder):
    model = load_backbone(make_folder("deepseek_v3", **EXPERTS | LATENT), head="lm", **EXACT)
    adapted = add_lora(model, LoraParams(lora_r=2, lora_alpha=4, target_modules=["down_proj"]))
    found = {n.split(".lora_")[0] for n, p in adapted.named_parameters() if p.requires_grad}
    parts = ("0.mlp.down_proj", "1.mlp.shared_experts.down_proj")
    assert found == {f"base_model.model.model.layers.{part}" for part in parts}


def test_adapters_that_the_states_do_not_depend_on_are_not_trained(make_folder):
    model = add_lora(
        load_backbone(make_folder("bert", "none"), **EXACT), LoraParams(lora_r=2, lora_alpha=4)
    )
    ids = torch.tensor([[5, 6, 7]])
    states_of(model, ids, torch.ones_like(ids)).square().sum().backward()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert trained
    assert [name for name, p in trained.items() if p.grad is None] == []
    assert not [name for name in trained if "pooler" in name]


def test_answers_are_greedy_whatever_a_models_own_settings(make_folder):
    model = load_backbone(make_folder("llama"), head="lm", **EXACT)
    ids = torch.tensor([PROMPTS[0]])
    plain = model.generate(ids, max_new_tokens=6, do_sample=False, eos_token_id=EOS)
    own = {"num_beams": 3, "repetition_penalty": 5.0, "suppress_tokens": plain[0, -6:].tolist()}
    before = model.generation_config = GenerationConfig(eos_token_id=EOS, **own)
    with greedily(model):
        found = model.generate(ids, max_new_tokens=6)
    assert found.tolist() == plain.tolist()
    assert model.generation_config is before


def test_an_answer_ends_at_each_of_a_models_own_stop_tokens(make_folder):
    model = load_backbone(make_folder("llama"), head="lm", **EXACT)
    tokenizer = byte_tokenizer()
    template = PromptTemplate.build(tokenizer, instruction="Topic?", max_length=20)
    prompt = template.prompt_ids("a text")
    options = {"max_new_tokens": 6, "token_budget": 99, "compute_dtype": torch.float32}
    plain = model.generate(torch.tensor([prompt]), max_new_tokens=6, do_sample=False)
    answer = plain[0, len(prompt) :].tolist()
    assert EOS not in answer
    stop = answer[2]
    model.generation_config.eos_token_id = [EOS, stop]
    assert stop_ids(model, template) == sorted([EOS, stop])
    (found,) = generate_answers(model, template, [prompt], **options)
    assert found == tokenizer.decode(answer[: answer.index(stop)])  # without it: it is not special


@pytest.mark.parametrize("model_type", ["mistral", "gemma2", "phimoe", "gpt_oss"])
def test_prompts_beyond_a_sliding_window_are_scored_exactly(make_folder, model_type):
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2}
    folder = make_folder(model_type, sliding_window=5, **experts)
    model = load_backbone(folder, head="lm", **EXACT)
    scores = score_labels(model, PROMPTS, ANSWERS, token_budget=60, compute_dtype=torch.float32)
    np.testing.assert_allclose(scores, by_plain_passes(folder), atol=2e-3)


PACKED = {"llama": {}, "mistral": {"sliding_window": 5}, "qwen3_moe": EXPERTS, "gpt_neox": {}}
PADDED = {
    "nemotron": {},  # does not hand boundaries on
    "phimoe": {"sliding_window": 5, "num_local_experts": 4, "num_experts_per_tok": 2},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4},
    "qwen3_5_text": LINEAR,
    "qwen3_next": LINEAR | EXPERTS | {"shared_expert_intermediate_size": 24},
    "falcon": {"num_kv_heads": 2, "head_dim": None},
    "falcon, alibi": {"alibi": True, "new_decoder_architecture": False, "multi_query": False,
                      "head_dim": None},  # which its plain attention would add twice
    "bert": {},
}  # fmt: skip


@pytest.mark.parametrize("model_type", [*PACKED, *PADDED])
def test_a_head_reads_the_states_that_each_document_has_alone(make_folder, model_type):
    folder = make_folder(model_type, "none", **(PACKED | PADDED)[model_type])
    backbone = load_backbone(folder, **EXACT)
    assert is_packed(backbone) == (model_type in PACKED)
    ids, mask = pad(DOCUMENTS, PAD)
    with torch.no_grad():
        states = states_of(backbone, ids, mask)
    for row, alone in zip(states, states_by_plain_passes(folder), strict=True):
        torch.testing.assert_close(row[: len(alone)], alone, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("model_type", [*PACKED, *PADDED])
def test_a_head_on_every_kind_of_backbone_trains_and_comes_back(make_folder, tmp_path, model_type):
    folder = make_folder(model_type, "none", **(PACKED | PADDED)[model_type])

    def build():
        backbone = load_backbone(folder, **EXACT)
        torch.manual_seed(1)
        return EmbeddingModel(
            backbone, HeadParams(pooling="mean"), num_labels=3, compute_dtype=torch.float32
        )

    params = LoraParams(lora_r=2, lora_alpha=4)
    model = add_lora(build(), params)
    ids, mask = pad(DOCUMENTS, PAD)
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert all(p.grad is None for p in trained.values())  # the first pass leaves none behind
    optimizer = torch.optim.SGD(trained.values(), lr=0.5)
    model(ids, mask).square().sum().backward()
    optimizer.step()
    model.eval()
    with torch.no_grad():
        expected = model(ids, mask)
        model.save_pretrained(tmp_path / "saved")
        again = load_lora(build(), tmp_path / "saved", params).eval()
        torch.testing.assert_close(again(ids, mask), expected)


def test_a_packed_pass_without_boundaries_raises(make_folder):
    backbone = load_backbone(make_folder("llama", "none"), **EXACT)
    ids = torch.tensor([[5, 6, 7]])
    with attention.boundaries_expected(), pytest.raises(ValueError, match="need their boundaries"):
        backbone(input_ids=ids, use_cache=False)
    backbone(input_ids=ids)  # a plain pass needs none


NOT_CUT = {
    "minicpm3": LATENT | {"num_hidden_layers": 4},  # each block scales by their number
    "gemma3n_text": GEMMA_3N,  # the last ones have no keys of their own
    "gemma4_text": {
        "num_hidden_layers": 4, "num_kv_shared_layers": 2, "global_head_dim": 8,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 300,
    },
}  # fmt: skip


@pytest.mark.parametrize("depth", [2, 3])
@pytest.mark.parametrize("model_type", NOT_CUT)
def test_blocks_that_depend_on_how_many_there_are_are_not_cut(make_folder, model_type, depth):
    folder = make_folder(model_type, "none", **NOT_CUT[model_type])
    message = f"depth: the blocks of {model_type} depend on how many there are; write depth: 0"
    with pytest.raises(ModelError, match=message):
        load_backbone(folder, depth=depth, **EXACT)


@pytest.mark.parametrize("model_type", ["llama", "qwen3_moe", "gpt2", "bert"])
def test_blocks_that_do_not_are_cut(make_folder, model_type):
    folder = make_folder(model_type, "none", **(TREES | PADDED)[model_type])
    assert load_backbone(folder, depth=1, **EXACT).config.num_hidden_layers == 1


@pytest.mark.parametrize(
    ("model_type", "kind", "values", "complaint"),
    [
        ("t5", "none", {}, "encoder-decoder"),
        ("bart", "none", {"encoder_layers": 1, "decoder_layers": 1}, "encoder-decoder"),
        ("opt", "none", {"word_embed_proj_dim": 16, "ffn_dim": 32}, "states of 16 numbers"),
        ("fnet", "none", {}, "other hidden states where documents are padded"),
        ("bert", "lm", {}, "BertLMHeadModel transforms its logits"),
    ],
)
def test_what_does_not_suit_is_refused_in_one_line_that_names_the_model(
    make_folder, model_type, kind, values, complaint
):
    folder = make_folder(model_type, kind, **values)
    with pytest.raises(ModelError, match=complaint) as caught:
        load_backbone(folder, head=kind, **EXACT)
    assert folder in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_model_that_takes_no_adapters_is_refused_in_one_line(make_folder):
    backbone = load_backbone(make_folder("mamba", "none", state_size=8), **EXACT)
    with pytest.raises(InputError, match=r"target_modules: MambaModel .* cannot be trained") as e:
        add_lora(backbone, LoraParams(lora_r=2, target_modules=["out_proj"]))
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("model_type", ["mpnet", "deberta-v2", "gptj", "bloom"])
def test_models_without_sdpa_keep_their_own_attention(make_folder, model_type):
    values = {"relative_attention": True} if model_type == "deberta-v2" else {}
    values |= {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4}
    folder = make_folder(model_type, "none", **values)
    model = load_backbone(folder, max_length=600, **EXACT)
    assert model.config._attn_implementation == "eager"


def test_a_layer_that_a_model_scales_in_place_takes_fused_adapters(make_folder):
    folder = make_folder("longformer", "none", attention_window=[4, 4], pad_token_id=1)
    model = add_lora(load_backbone(folder, **EXACT), LoraParams(lora_r=2, lora_alpha=4))
    ids, mask = pad(DOCUMENTS, 1)
    model(input_ids=ids, attention_mask=mask).last_hidden_state.sum().backward()


def test_probes_are_asked_once_per_structure(make_folder, monkeypatch):
    folder = make_folder("llama")
    first = load_backbone(folder, head="lm", **EXACT)
    options = {"token_budget": 60, "compute_dtype": torch.float32}
    score_labels(first, PROMPTS, ANSWERS, **options)

    def never(*_):
        raise AssertionError("asked again")

    for module, name in (
        (packing, "_packs_exactly"), (loader, "check_padding"), (loader, "check_logits"),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, never)
    again = load_backbone(folder, head="lm", **EXACT)
    assert probes_of(again).answers.items() <= probes_of(first).answers.items()
    assert is_packed(again)
    changed = make_folder("llama", num_key_value_heads=4)
    with pytest.raises(ModelError, match="asked again"):
        load_backbone(changed, head="lm", **EXACT)


def test_probes_leave_weights_and_random_numbers_as_they_were(make_folder):
    folder = make_folder("qwen3_moe", **EXPERTS)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    model = load_backbone(folder, quantization="none", dtype="bfloat16", device="cpu", head="lm")
    score_labels(model, PROMPTS, ANSWERS, token_budget=60, compute_dtype=torch.bfloat16)
    assert torch.equal(torch.rand(3), expected)
    for (name, ours), (_, theirs) in zip(
        model.state_dict().items(), plain.state_dict().items(), strict=True
    ):
        assert ours.dtype == theirs.dtype, name
        assert torch.equal(ours, theirs), name
    assert all(b.dtype == torch.float32 for n, b in model.named_buffers() if "inv_freq" in n)


VISION = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
          "num_attention_heads": 2, "image_size": 28, "patch_size": 14}  # fmt: skip
TOWERS = {
    "gemma3": {"text_config": TINY | {"sliding_window": 64}, "mm_tokens_per_image": 4},
    "mistral3": {"text_config": TINY | {"model_type": "mistral"}, "spatial_merge_size": 1},
    "qwen3_vl": {"text_config": TINY | {"rope_parameters": {
        "rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}}},
}  # fmt: skip


@pytest.mark.parametrize("model_type", TOWERS)
def test_of_a_model_with_a_vision_tower_the_text_model_is_taken(tmp_path, model_type):
    own = {"depth": 1, "num_heads": 2, "out_hidden_size": 32, "deepstack_visual_indexes": [0]}
    vision = VISION | (own if model_type == "qwen3_vl" else {})
    config = transformers.AutoConfig.for_model(
        model_type, vision_config=vision, pad_token_id=PAD, **TOWERS[model_type]
    )
    torch.manual_seed(0)
    whole = transformers.AutoModelForImageTextToText.from_config(config).eval()
    whole.save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    backbone = load_backbone(str(tmp_path), **EXACT)
    assert backbone.config.hidden_size == 32
    model = load_backbone(str(tmp_path), head="lm", **EXACT)
    assert not [
        name for name, _ in model.named_parameters() if "vision" in name or "visual" in name
    ]
    ids = torch.tensor([DOCUMENTS[0]])
    with torch.no_grad():
        expected = whole(input_ids=ids).logits
        torch.testing.assert_close(model(input_ids=ids).logits, expected, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(
            backbone(input_ids=ids).last_hidden_state,
            decoder_of(model)(input_ids=ids).last_hidden_state, rtol=1e-3, atol=1e-4,
        )  # fmt: skip
    score_labels(model, PROMPTS, ANSWERS, token_budget=60, compute_dtype=torch.float32)
    adapted = add_lora(model, LoraParams(lora_r=2, lora_alpha=4))
    fit_into_memory(adapted, num_tokens=64, longest=32, memory_gib=1.0)  # as training asks
    for head in ("none", "lm"):
        packed = load_backbone(str(tmp_path), quantization="nf4", device="cpu", head=head)
        assert packed.nf4_share > 0


@pytest.mark.parametrize("stored", ["int8", "fp4", "nf4"])
def test_a_quantized_checkpoint_is_what_it_is_or_is_refused(make_folder, tmp_path, stored):
    config = transformers.BitsAndBytesConfig(
        load_in_8bit=stored == "int8", load_in_4bit=stored != "int8", bnb_4bit_quant_type=stored
        if stored != "int8" else "nf4",
    )  # fmt: skip
    folder = make_folder("llama")
    packed = AutoModelForCausalLM.from_pretrained(folder, quantization_config=config)
    packed.save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    asked = {"device": "cpu", "head": "lm"}
    if stored != "nf4":
        with pytest.raises(ModelError, match=rf"stored as {stored}, not as NF4; write quant"):
            load_backbone(str(tmp_path), quantization="nf4", **asked)
    model = load_backbone(str(tmp_path), quantization="nf4" if stored == "nf4" else "none", **asked)
    assert model.quantization == stored
    assert (model.nf4_share > 0) == (stored == "nf4")
    if stored == "int8":  # fused adapters would read its bytes as numbers
        adapted = add_lora(model, LoraParams(lora_r=2, lora_alpha=4))
        assert not [m for m in adapted.modules() if type(m).__name__.startswith("Fused")]


def test_experts_that_stay_in_16_bits_are_no_share_of_nf4(make_folder, caplog):
    folder = make_folder("qwen3_moe", "none", **EXPERTS)
    with caplog.at_level("INFO", logger="lib"):
        model = load_backbone(folder, quantization="nf4", device="cpu")
    total = sum(p.numel() for p in model.parameters())
    in_experts = sum(p.numel() for n, p in model.named_parameters() if ".experts." in n)
    assert in_experts
    assert 0 < model.nf4_share < 1 - in_experts / total
    assert f"NF4 ({model.nf4_share:.0%} of the weights)" in caplog.text


@pytest.mark.parametrize("head", ["none", "lm"])
def test_a_model_that_does_not_compute_in_nf4_is_refused_for_that(live_nf4, make_folder, head):
    folder = make_folder("mamba", **MAMBA_ALONE)
    message = 'cannot compute with weights in NF4; write quantization: "none": RuntimeError'
    with pytest.raises(ModelError, match=message):
        load_backbone(folder, quantization="nf4", dtype="float32", device="cpu", head=head)
    load_backbone(folder, head=head, **EXACT)


def test_a_token_without_a_row_is_refused_with_its_model(make_folder):
    folder = make_folder("llama", vocab_size=259)
    with pytest.raises(ModelError, match="<unk>"):
        load_backbone(folder, **EXACT)


LENGTHS = {  # models in which the longest text of a batch decides for all from some length on
    "longrope": ("llama", {"rope_parameters": {
        "rope_type": "longrope", "rope_theta": 1e4, "factor": 4.0,
        "original_max_position_embeddings": 16, "long_factor": [4.0, 5.0, 6.0, 7.0],
        "short_factor": [1.0] * 4}}),
    "doge": ("doge", {"keep_window_size": 8}),
    "gpt_neo": ("gpt_neo", {"attention_types": [[["local"], 2]], "window_size": 12,
                            "num_layers": 2, "num_heads": 4}),
}  # fmt: skip


@pytest.mark.parametrize("name", LENGTHS)
def test_no_text_depends_on_the_length_of_those_beside_it(make_folder, name):
    model_type, values = LENGTHS[name]
    folder = make_folder(model_type, **values)
    model = load_backbone(folder, head="lm", **EXACT)
    options = {"token_budget": 400, "compute_dtype": torch.float32}
    prompts = [*PROMPTS, [*range(50, 85)]]
    together = score_labels(model, prompts, ANSWERS, **options)
    alone = [score_labels(model, [prompt], ANSWERS, **options)[0] for prompt in prompts]
    np.testing.assert_allclose(together, alone, atol=2e-3)
    ids, mask = pad([*DOCUMENTS, [*range(50, 85)]], PAD)
    decoder = decoder_of(model)
    with torch.no_grad():
        states = states_of(decoder, ids, mask)
        for row, real in zip(range(len(ids)), mask.bool(), strict=True):
            own = ids[row : row + 1, real], mask[row : row + 1, real]
            torch.testing.assert_close(
                states[row, real], states_of(decoder, *own)[0], rtol=1e-3, atol=1e-4
            )


def test_layers_without_attention_cannot_attend_both_ways(make_folder):
    folder = make_folder("qwen3_5_text", "none", **LINEAR)
    with pytest.raises(ModelError, match=r"bidirectional: some layers .* have no attention"):
        load_backbone(folder, bidirectional=True, **EXACT)


DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}
PER_TYPE = {"full_attention": DYNAMIC,
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}  # fmt: skip


@pytest.mark.parametrize(("kind", "rotary"), [("llama", DYNAMIC), ("gemma3_text", PER_TYPE)])
def test_texts_beyond_dynamic_rotary_positions_are_refused(make_folder, kind, rotary):
    layers = {} if rotary is DYNAMIC else {"layer_types": [*rotary]}
    values = {"max_position_embeddings": 20, "rope_parameters": rotary}
    folder = make_folder(kind, "none", **values, **layers)
    backbone = load_backbone(folder, **EXACT)
    ids, mask = pad(DOCUMENTS, PAD)
    states_of(backbone, ids[1:, :13], mask[1:, :13])
    with pytest.raises(ModelError, match=r"more than 20 tokens depend on those before; lower it"):
        states_of(backbone, ids, mask)
