import pytest
from transformers import LlamaConfig

from lib.config.arms import InstructionParams
from lib.data.labels import LabelSpace
from lib.prompt.template import build_template, label_list

NAMED = LabelSpace(("A01", "B02"), ("farming", "physics"))


def test_what_a_prompt_lists_explains_codes():
    assert label_list(NAMED.verbalized("code"), NAMED) == ["A (farming)", "B (physics)"]
    assert label_list(NAMED, NAMED) == ["farming", "physics"]


def test_labels_are_listed_behind_the_instruction(tokenizer):
    options = {"instruction": "Topic?", "max_length": 9, "labels_in_prompt": True}
    template, called = build_template(tokenizer, LlamaConfig(), NAMED, InstructionParams(**options))
    assert called.texts == ("farming", "physics")
    shown = tokenizer.decode(template.prefix_ids)
    assert "Topic? Answer with one of: farming, physics." in shown


@pytest.mark.parametrize(("context", "num_examples"), [(700, 0), (2500, 20)])
def test_a_list_without_room_is_left_out_and_that_is_said(tokenizer, caplog, context, num_examples):
    """Also where examples take the room."""
    space = LabelSpace(tuple(f"label {i}" for i in range(150)))
    config = LlamaConfig(max_position_embeddings=context)
    options = {"instruction": "Topic?", "max_length": 80, "num_examples": num_examples}
    options |= {"num_epochs": 0}
    listed = InstructionParams(**options, labels_in_prompt=True)
    with caplog.at_level("WARNING", "lib"):
        template, _ = build_template(tokenizer, config, space, listed)
    assert "the 150 labels are left out of the prompt" in caplog.text
    assert f"of a context of {context:,}" in caplog.text
    assert template == build_template(tokenizer, config, space, InstructionParams(**options))[0]
    caplog.clear()
    roomy = LlamaConfig(max_position_embeddings=5000)
    template, _ = build_template(tokenizer, roomy, space, listed)
    assert "label 149" in tokenizer.decode(template.prefix_ids)
    assert not caplog.text
