import pytest
from transformers import LlamaConfig

from lib.data.labels import LabelSpace
from lib.errors import DataError
from lib.prompt.listing import build_template, label_list

NAMED = LabelSpace(("A01", "B02"), ("farming", "physics"))


def test_what_a_prompt_lists_explains_codes_and_describes_labels():
    codes, described = NAMED.verbalized("code"), {"A01": "growing plants"}
    assert label_list(codes, NAMED, {}) == ["A (farming)", "B (physics)"]
    assert label_list(NAMED, NAMED, {}) == ["farming", "physics"]
    assert label_list(codes, NAMED, described) == ["A (farming: growing plants)", "B (physics)"]
    assert label_list(NAMED, NAMED, described) == ["farming (growing plants)", "physics"]


def test_descriptions_are_read_from_a_file(tokenizer, tmp_path):
    file = tmp_path / "descriptions.yaml"
    options = {"instruction": "Topic?", "max_length": 9, "labels_in_prompt": True}
    options["label_descriptions"] = str(file)
    file.write_text("A01: growing plants\n")
    template, called = build_template(tokenizer, LlamaConfig(), NAMED, **options)
    assert called.texts == ("farming", "physics")
    shown = tokenizer.decode(template.prefix_ids)
    assert "Answer with one of: farming (growing plants), physics." in shown
    file.write_text("farming: growing plants\n")
    with pytest.raises(DataError, match=r"'farming' is no label of the data \(A01, B02 ...\)"):
        build_template(tokenizer, LlamaConfig(), NAMED, **options)


@pytest.mark.parametrize(("context", "num_examples"), [(700, 0), (2500, 20)])
def test_a_list_without_room_is_left_out_and_that_is_said(tokenizer, caplog, context, num_examples):
    """TRAPS 17: also where examples take the room."""
    space = LabelSpace(tuple(f"label {i}" for i in range(150)))
    config = LlamaConfig(max_position_embeddings=context)
    options = {"instruction": "Topic?", "max_length": 80, "num_examples": num_examples}
    with caplog.at_level("WARNING", "lib"):
        template, _ = build_template(tokenizer, config, space, labels_in_prompt=True, **options)
    assert "the 150 labels are left out of the prompt" in caplog.text
    assert f"of a context of {context:,}" in caplog.text
    assert template == build_template(tokenizer, config, space, **options)[0]
    caplog.clear()
    roomy = LlamaConfig(max_position_embeddings=5000)
    template, _ = build_template(tokenizer, roomy, space, labels_in_prompt=True, **options)
    assert "label 149" in tokenizer.decode(template.prefix_ids)
    assert not caplog.text
