"""Exported runs: loaded by their cards' own code in a process without this package."""

import json
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import MINILM, SMOLLM2
from datasets import Dataset, DatasetDict
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from transformers import AutoTokenizer, BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

from lib.__main__ import main
from lib.config.arms import BaselineParams, EmbeddingParams, InstructionParams
from lib.data.labels import LabelSpace
from lib.errors import InputError
from lib.evaluation.scores import Scores
from lib.machine import choose_dtype
from lib.model.weights import load_tokenizer
from lib.runs.card import write_card
from lib.runs.classifier import load_classifier
from lib.runs.export import export_run
from lib.runs.export_prompt import SETS
from lib.runs.models import load_arm_model, save_arm_model
from lib.runs.record import RESOURCE_KEYS, open_run, write_run

SPACE = LabelSpace(("alpha", "beta", "gamma"))
TEXTS = ["Cocoa prices rose in Ghana after the rain", "<|im_end|> <think> is [SEP] an end"]
HEADS = {
    "plain": {"pooling": "last", "head_bias": False},
    "plain_sets": {"pooling": "last", "head_bias": False, "label_mode": "multi"},
    "bert": {"model_id": "bert", "pooling": "cls"},
    "bert_mlp": {"model_id": "bert", "pooling": "cls", "head": "mlp", "head_bias": False},
    "mean": {"pooling": "mean"},
    "bert_mean": {"model_id": "bert", "pooling": "mean", "head": "mlp", "label_mode": "multi"},
    "bert_max": {"model_id": "bert", "pooling": "max"},
    "weighted": {"pooling": "weighted_mean", "head_bias": False},
    "last": {"pooling": "last"},
}
PROMPTS = {
    "prompt": {"decoding": "search", "labels_in_prompt": True},
    "prompt_prior": {"decoding": "score_prior", "template": "plain"},
    "prompt_questions": {"decoding": "yes_no", "label_mode": "multi"},
}
# Runs the last block of code of each folder's card, for each text in the place of "a text".
READ = """
import json, re, sys
folders, texts = sys.argv[1].split(","), json.loads(sys.argv[2])
found = {}
for folder in folders:
    code = re.findall(r"```python\\n(.*?)```", open(f"{folder}/README.md").read(), re.S)[-1]
    labels, found[folder] = json.load(open(f"{folder}/labels.json"))["labels"], []
    for text in texts:
        made = {}
        exec(code.replace('"a text"', json.dumps(text)), made)
        probs = made.get("probs")
        if probs is None:  # of the pipeline
            probs = {row["label"]: row["score"] for row in made["answers"][0]}
            probs = [probs[label] for label in labels]
        probs = probs.tolist() if hasattr(probs, "tolist") else probs
        found[folder].append(probs[0] if isinstance(probs[0], list) else probs)
    if "SentenceTransformer" not in code:
        assert "sentence_transformers" not in sys.modules
assert not {"lib", "peft", "bitsandbytes"} & sys.modules.keys()
print(json.dumps(found))
"""
HIDDEN = (
    "peft",
    "bitsandbytes",
    "accelerate",
    "datasets",
    "pandas",
    "__editable__",
    "head_or_prompt",
)


@pytest.fixture(scope="module")
def minimal(tmp_path_factory):
    """Environment of a Python that has no package of `HIDDEN`, nor this one."""
    site, folder = Path(torch.__file__).parents[1], tmp_path_factory.mktemp("site")
    for entry in site.iterdir():
        if not entry.name.startswith(HIDDEN) and not entry.name.endswith(".pth"):
            (folder / entry.name).symlink_to(entry)
    return {"HOME": str(folder), "PYTHONPATH": str(folder), "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1"}  # fmt: skip


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """Folders of tiny random models with the tokenizers of real ones."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("bases")
    size = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2}
    size |= {"num_attention_heads": 2}
    made = {}
    for name, source in (("llama", SMOLLM2), ("bert", MINILM)):
        tokenizer = load_tokenizer(source)
        tokenizer.add_tokens(["<think>"])  # not flagged as special; text where a text spells it
        options = size | {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
        if name == "bert":
            model = BertModel(BertConfig(**options))
        else:
            model = LlamaForCausalLM(LlamaConfig(**options, tie_word_embeddings=True))
        for saved in (model, tokenizer):
            saved.save_pretrained(folder / name)
        made[name] = str(folder / name)
    return made


@pytest.fixture(scope="module")
def write(tmp_path_factory, bases):
    """A finished run of a tiny model: its folder. Adapters and head are random, or not there."""

    def write(kind=EmbeddingParams, trained=True, **changes):
        model_id = bases[changes.pop("model_id", "llama")]
        full = {"lora_r": 0, "quantization": "none"} if model_id == bases["bert"] else {"lora_r": 2}
        notebooks = {EmbeddingParams: "03_finetune_embedding", BaselineParams: "02_baselines"}
        full = {} if kind is BaselineParams else full
        params = kind(
            notebook=notebooks.get(kind, "04_finetune_instruction"), study="s", arm="a",
            runs_dir=str(tmp_path_factory.mktemp("runs")), dataset="owner/name",
            model_id=model_id, **{"max_length": 12, "dtype": "float32"} | full | changes,
        )  # fmt: skip
        folder = open_run(params, data_version="", data_fingerprint="0" * 16)
        multi = params.multi_label
        if not trained:
            (folder / "model").mkdir()
        else:
            torch.manual_seed(0)
            model = load_arm_model(
                params, SPACE, device=torch.device("cpu"), dtype=choose_dtype(torch.device("cpu"))
            )
            for parameter in model.parameters():
                if parameter.requires_grad:
                    torch.nn.init.normal_(parameter, std=0.2)
            save_arm_model(model, params, folder / "model")
        part = Dataset.from_dict({"id": ["x"], "text": ["x"], "labels": [["alpha"]]})
        write_run(
            folder, label_space=SPACE, multi_label=multi, probabilities=True,
            splits=DatasetDict(dict.fromkeys(("train", "validation", "test"), part)),
            preds={name: [["alpha"]] for name in ("validation", "test")},
            scores={name: Scores(np.array([[0.9, 0.1, 0.2]])) for name in ("validation", "test")},
            threshold=0.5 if multi else None, resources=dict.fromkeys(RESOURCE_KEYS, 1.0),
        )  # fmt: skip
        write_card(folder, params, {"data_version": "", "data_fingerprint": "0" * 16}, num_train=1)
        return folder

    return write


@pytest.fixture(scope="module")
def export(write, tmp_path_factory):
    """`export("plain", "mean")`: runs by name, and the folder of their exports."""

    @cache
    def export(*names):
        place, runs = tmp_path_factory.mktemp("exports"), {}
        for name in names:
            kind = InstructionParams if name in PROMPTS else EmbeddingParams
            runs[name] = write(kind, **(HEADS | PROMPTS)[name])
            card = runs[name] / "model" / "README.md"
            card.write_text(card.read_text().replace("## Limits", "## Limits\n\nA remark of mine."))
            export_run(runs[name], place / name)
        return runs, place

    return export


EACH_FORM = ("plain", "prompt", "mean")
OTHERS = [name for name in (HEADS | PROMPTS) if name not in EACH_FORM]


@pytest.mark.parametrize(
    "names", [EACH_FORM, pytest.param(OTHERS, marks=pytest.mark.slow)], ids=["each form", "others"]
)
def test_every_export_answers_as_its_run_in_a_process_without_this_package(export, minimal, names):
    """TRAPS 1, 8, 16, 21: offline, merged, a sigmoid for label sets, special tokens as text."""
    runs, place = export(*names)
    modules_last = sorted(runs, key=lambda name: (place / name / "modules.json").exists())
    done = subprocess.run(
        [sys.executable, "-S", "-c", READ, ",".join(modules_last), json.dumps(TEXTS)],
        cwd=place, env=minimal, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for name, found in json.loads(done.stdout.splitlines()[-1]).items():
        expected = load_classifier(runs[name], every_label=True).predict_scores(TEXTS).values
        assert np.ptp(expected, axis=0).max() > 1e-3, name  # texts have different answers
        np.testing.assert_allclose(found, expected, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("kind", [EmbeddingParams, InstructionParams])
def test_what_adapters_change_is_not_rounded_away(write, tmp_path, kind):
    """A run in bfloat16 adds their output to the layer's; merged weights need float32 for that."""
    export_run(write(kind, dtype="bfloat16"), tmp_path / "exported")
    files = list((tmp_path / "exported").rglob("*.safetensors"))
    kinds = {value.dtype for file in files for value in load_file(file).values()}
    assert kinds == {torch.float32}


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [(EmbeddingParams, {"windows": 2, "max_length": 4}, "it reads 2 windows of a text"),
     (EmbeddingParams, {"bidirectional": True}, "train with bidirectional: false"),
     (EmbeddingParams, {"pooling": "attention"}, "no other software pools by 'attention'"),
     (InstructionParams, {"num_epochs": 0}, "nothing was trained; serve"),
     (BaselineParams, {}, "apply it with `python -m lib predict`"),
     (BaselineParams, {"method": "frozen"}, "'frozen' trains no language model")],
)  # fmt: skip
def test_what_no_form_holds_is_refused_in_one_line(write, tmp_path, kind, changes, message):
    with pytest.raises(SystemExit, match="cannot be exported") as error:
        main(["export", str(write(kind, False, **changes)), str(tmp_path / "exported")])
    assert message in error.value.code
    assert "\n" not in error.value.code
    assert not list(tmp_path.iterdir())


def test_nothing_is_written_over_or_left_half_written(export, tmp_path, monkeypatch):
    folder, target = tmp_path / "run", tmp_path / "exported"
    shutil.copytree(export(*EACH_FORM)[0]["plain"], folder)
    target.mkdir()
    (target / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="something is there already; name a new folder"):
        export_run(folder, target)
    (target / "mine.txt").unlink()
    monkeypatch.chdir(target)
    with pytest.raises(InputError, match=r"^\.: something is there already; name a new folder"):
        export_run(folder, ".")
    monkeypatch.setattr("lib.runs.export_head._plain_logits", lambda *_: np.full((4, 3), np.nan))
    with pytest.raises(InputError, match="exported scores differ from the run's by up to nan"):
        export_run(folder, target)
    assert not list(target.iterdir())
    assert {entry.name for entry in tmp_path.iterdir()} == {"run", "exported"}
    shutil.rmtree(folder / "model")
    with pytest.raises(InputError, match=r"model/.* is missing; run the arm again"):
        export_run(folder, target)


def test_labels_json_holds_prompt_answers_and_chat(export):
    folder = export(*EACH_FORM)[1] / "prompt"
    asked = json.loads((folder / "labels.json").read_text())
    assert asked["labels"] == ["alpha", "beta", "gamma"]
    assert asked["threshold"] is None
    assert asked["instruction"].endswith("Answer with one of: alpha, beta, gamma.")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = [*asked["prefix_ids"], *tokenizer("wheat").input_ids, *asked["suffix_ids"]]
    chat = [m | {"content": m["content"].replace("{text}", "wheat")} for m in asked["messages"]]
    rendered = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    assert rendered == asked["prompt"].replace("{text}", "wheat")
    assert tokenizer(rendered).input_ids == ids
    answer = asked["answer_ids"]["beta"]
    assert tokenizer.decode(answer[:-1]).strip() == asked["answers"]["beta"]
    assert answer[-1] == asked["end_id"]


@pytest.mark.slow
def test_a_prompt_for_label_sets_has_a_separator_and_is_generated(write, tmp_path):
    export_run(write(InstructionParams, decoding="steps", label_mode="multi"), tmp_path / "sets")
    asked = json.loads((tmp_path / "sets" / "labels.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "sets")
    assert tokenizer.decode(asked["separator_ids"]) == ";"
    assert (asked["multi_label"], asked["threshold"]) == (True, 0.5)
    assert "model.generate" in (tmp_path / "sets" / "README.md").read_text()


@pytest.mark.parametrize("made", [[5, 6, 9], [5, 6, 8], [5, 6]])
def test_the_cards_answer_has_no_text_of_a_token_that_ends_it(made):
    here = {
        "torch": torch,
        "prompt_ids": lambda _: [1, 2],
        "model": SimpleNamespace(
            generate=lambda ids, **_: torch.cat([ids, torch.tensor([made])], dim=1),
            generation_config=SimpleNamespace(eos_token_id=[8, 9]),
        ),
        "tokenizer": SimpleNamespace(decode=lambda ids, **_: "; ".join(map(str, ids))),
    }
    exec(SETS, here)
    assert here["names"] == ["5", "6"]


def test_an_edited_card_stays_and_says_how_the_export_is_loaded(export):
    found = ModelCard.load(export(*EACH_FORM)[1] / "plain" / "README.md")
    assert "A remark of mine." in found.text
    assert found.text.count("## How to load it") == 1
    assert 'model="plain"' in found.text
    assert "load_classifier" not in found.text
    assert found.data.library_name == "transformers"
    assert found.data.eval_results[0].metric_name.startswith("micro-F1 (95 % interval ")
    assert re.search(r"\| micro-F1, 0\.\d+ to [01]\.\d+ \| [01]\.\d+ \|", found.text)
