"""What a model is trained to answer."""

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from lib.prompt.examples import ShuffledAnswers, choose_questions
from lib.prompt.template import PromptTemplate
from lib.training import trainer
from lib.training.finetune import finetune_instruction


@given(
    st.lists(st.sets(st.integers(0, 4), min_size=1).map(sorted), min_size=1, max_size=20),
    st.integers(0, 9),
)
def test_questions_are_about_all_labels_and_as_many_others(labels, seed):
    """TRAPS 15: every label of a set is asked about, not the first alone."""
    questions = choose_questions(labels, num_labels=5, seed=seed)
    assert len(set(questions)) == len(questions)
    present = {c for row in labels for c in row}
    for i, row in enumerate(labels):
        asked = {
            flag: {c for j, c, right in questions if (j, right) == (i, flag)} for flag in (0, 1)
        }
        assert asked[True] == set(row)
        assert asked[False] <= present - set(row)
        assert len(asked[False]) == min(len(row), len(present) - len(row))
    assert questions == choose_questions(labels, num_labels=5, seed=seed)


def test_a_label_alone_does_not_tell_the_answer():
    labels = [[0]] * 60 + [[1]] * 30 + [[2]] * 30
    asked = Counter((c, right) for _, c, right in choose_questions(labels, num_labels=4, seed=0))
    for c in range(3):
        assert asked[c, False] == pytest.approx(asked[c, True], rel=0.5)
    assert not asked[3, False]


def test_label_sets_come_in_another_order_each_epoch_and_resume_alike(
    tokenizer, tmp_path, monkeypatch
):
    """TRAPS 15, 19: the first of both runs is killed in its third epoch."""
    template = PromptTemplate.build(tokenizer, instruction="?", max_length=4)
    ids = [f"d{i}" for i in range(6)]
    real, seen, limit = trainer.MicroBatchCollator.__call__, [], [99]

    def watching(self, batch):
        if len(seen) >= limit[0]:
            raise KeyboardInterrupt
        seen.append({e["id"]: e["input_ids"] for e in batch})
        return real(self, batch)

    def finetune(folder):
        examples = ShuffledAnswers(
            template,
            ids=ids,
            prompts=[[5, 6]] * 6,
            labels=[["corn", "gas", "grain", "oil"]] * 6,
            whole=False,
            seed=1,
        )
        config = LlamaConfig(
            hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
            vocab_size=len(tokenizer),
        )  # fmt: skip
        finetune_instruction(
            LlamaForCausalLM(config), examples, lambda _: {"micro_f1": 0.0},
            compute_dtype=torch.float32, output_dir=folder, pad_token_id=2, token_budget=64,
            num_epochs=3, batch_size=3, learning_rate=1e-3,
        )  # fmt: skip

    monkeypatch.setattr(trainer.MicroBatchCollator, "__call__", watching)
    finetune(tmp_path / "whole")
    whole, limit[0] = seen.copy(), 5
    seen.clear()
    with pytest.raises(KeyboardInterrupt):
        finetune(tmp_path / "resumed")
    before, limit[0] = seen.copy(), 99
    seen.clear()
    finetune(tmp_path / "resumed")
    assert before == whole[:5]
    assert seen == whole[4:]
    epochs = [whole[0] | whole[1], whole[2] | whole[3], whole[4] | whole[5]]
    orders = {tuple(epoch[name]) for epoch in epochs for name in ids}
    assert len(orders) > 6
    assert all(any(e[name] != epochs[0][name] for e in epochs) for name in ids)
