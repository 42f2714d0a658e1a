import os

import pytest

from lib.config.arms import EmbeddingParams, InstructionParams, StudyParams
from lib.config.choices import SET_DECODINGS
from lib.config.study import load_params
from lib.errors import ParamsError

COMMON = 'study: "mine"\n'
ARM = 'notebook: "03_finetune_embedding"\narm: "embedding"\n'


@pytest.fixture
def load(tmp_path):
    def load(common="", arm="", **overrides):
        (tmp_path / "common.yaml").write_text(COMMON + common)
        (tmp_path / "embedding.yaml").write_text(ARM + arm)
        return load_params(tmp_path / "common.yaml", tmp_path / "embedding.yaml", **overrides)

    return load


def test_later_files_and_then_overrides_win(load):
    params = load("max_length: 32\n", "max_length: 64\n", seed=3)
    assert isinstance(params, EmbeddingParams)
    assert (params.study, params.max_length, params.seed) == ("mine", 64, 3)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("learning_rat: 1.0e-3", "learning_rat: unknown parameter; did you mean 'learning_rate'"),
        ("learning_rate: 2e-4", "write the number as 2.0e-4"),
        ("quantization: no", "quote it"),
        ("quantization: nf5", "did you mean 'nf4'"),
        ("num_epochs: 1.5", "num_epochs: 1.5 is not valid"),
        ("num_epochs: 0", "num_epochs: 0 is not valid"),
        ("num_epochs: true", "num_epochs: True is not valid"),
        ("learning_rate: .nan", "learning_rate: nan is not valid"),
        ("learning_rate: -1.0", "greater than 0"),
        ("text_columns: title", "text_columns: 'title' is not valid"),
        ("text_columns: []", "at least 1 item"),
        ("lora_r: 0", 'set lora_r or write quantization: "none"'),
        ("lora_r: 0\nquantization: none\nlora_alpha: 64", "lora_alpha: has no effect"),
        ("token_budget: 16", "token_budget: 16 tokens cannot hold one document"),
        ("seeds: [1, 1]", "seeds: [1, 1] is not valid: names a value twice"),
        ("train_sizes: [8, 8]", "train_sizes: [8, 8] is not valid: names a value twice"),
        ("train_sizes: [64, 2000]", "2000 documents are more than num_train 1000"),
        ("study: ../up", "study: '../up' is not valid"),
        ("seed: 1\nseed: 2", "seed: given twice"),
        ("teacher: embedding", "teacher: 'embedding' cannot teach itself"),
        ("teacher: big\nloss: focal", "loss: 'focal' does not suit a teacher's probabilities"),
        ("teacher: big\nclass_weights: balanced", "class_weights: 'balanced' does not suit"),
        ("- a", "not valid YAML"),
        ("pooling: [last", "not valid YAML"),
        ("seed: !!bool abc", "a value cannot be read (KeyError: 'abc'); quote it"),
        ("seed: !!timestamp abc", "a value cannot be read (AttributeError"),
        ("seed: !!int ''", "a value cannot be read (IndexError"),
        ("seed: !!float ''", "a value cannot be read (IndexError"),
        ("seed: !!int '_'", "a value cannot be read (IndexError"),
        (f"seed: 1{':59' * 400}.5", "a value cannot be read (OverflowError"),
        (f"seed: 1{':59' * 400}", "a number of more than 64 bits"),
        (f"num_train: 0x{'f' * 20_000}", "a number of more than 64 bits"),
        ("5: 1", "5: read as no text; write the key in quotes"),
        ("~: 1", "None: read as no text"),
        ("true: 1", "True: read as no text"),
        (".nan: 1", "nan: read as no text"),
        ("2001-01-01: 1", "2001-01-01: read as no text"),
        ("text_columns: {5: a}", "5: read as no text"),
        ('text_columns: ["a\\0b"]', r"'\x00' is no character of a text; leave it out"),
        ('text_columns: ["\\ud800"]', r"'\ud800' is no character of a text; leave it out"),
        (f"pooling: {'x' * 9999}", f"pooling: '{'x' * 199}... is not valid"),
    ],
)  # fmt: skip
def test_bad_parameters_stop_in_one_line_that_names_file_and_key(load, line, message):
    with pytest.raises(ParamsError) as caught:
        load(arm=line + "\n")
    assert message in str(caught.value)
    assert "embedding.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "end"),
    [
        ("device: auot", "; did you mean 'auto'?"),
        ("device: quantum", "; known: auto, cpu, cuda"),
        ("label_level: x9", "; known: section, class, subclass, main_group"),
        ('dtype: "4"', "; known: auto, bfloat16, float32"),
        ('learning_rate: "nan"', "valid number"),
        ('learning_rate: "1e999"', "valid number"),
        ('study: "-1"', "A-Za-z0-9._-]*$'"),
    ],
)
def test_remedies_name_what_is_possible(load, line, end):
    with pytest.raises(ParamsError) as caught:
        load(arm=line + "\n")
    assert str(caught.value).endswith(end)


def test_the_file_at_fault_is_named_even_if_it_is_not_the_last(load):
    with pytest.raises(ParamsError, match=r"common.yaml: max_lenght: unknown.*'max_length'"):
        load(common="max_lenght: 3\n")


def test_unknown_notebook_names_the_nearest(load):
    with pytest.raises(ParamsError, match="did you mean '03_finetune_embedding'"):
        load(notebook="03_finetune_embeddings")


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ParamsError, match=r"absent.yaml: cannot be read: No such file"):
        load_params(tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"decoding": "yes_no"}, "'yes_no' does not answer with single labels"),
        (
            {"decoding": "yes_no", "label_mode": "multi", "num_epochs": 0, "num_examples": 2},
            "num_examples: examples answer with labels",
        ),
        ({"decoding": "search", "label_mode": "multi"}, "'search' does not answer with label sets"),
    ],
)
def test_choices_of_the_prompt_that_have_no_effect_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        InstructionParams(**values)


@pytest.mark.parametrize("name", ["indicator_columns", "text_columns"])
def test_columns_that_would_be_read_wrongly_are_refused(load, name):
    with pytest.raises(ParamsError, match=rf"{name}: \['a', 'a', 'b'\] is .* names a value twice"):
        load(**{name: ["a", "a", "b"]})


def test_only_an_untaught_model_is_asked_for_both_forms_of_answer():
    sets = {"label_mode": "multi"}
    assert InstructionParams(**sets).ladder == ("generate", "steps", "score")
    assert InstructionParams(**sets, decoding="yes_no").ladder == ("yes_no",)
    untaught = InstructionParams(**sets, decoding="yes_no", num_epochs=0)
    assert untaught.ladder == SET_DECODINGS


def test_zero_epochs_mean_zero_shot_for_instruction_alone():
    assert InstructionParams(num_epochs=0).num_epochs == 0
    with pytest.raises(ValueError, match="num_epochs"):
        EmbeddingParams(num_epochs=0)


def test_adapters_need_a_layer_to_adapt():
    with pytest.raises(ValueError, match="at least 1 item"):
        EmbeddingParams(target_modules=[])


def test_few_documents_get_more_epochs_for_the_steps_they_need():
    params = EmbeddingParams(num_epochs=3, min_steps=64, batch_size=8)
    assert [params.with_min_steps(n).num_epochs for n in (8, 60, 64, 170, 512)] == [64, 8, 8, 3, 3]
    assert EmbeddingParams(num_epochs=3).with_min_steps(8).num_epochs == 3
    assert InstructionParams(num_epochs=0).with_min_steps(8).num_epochs == 0
    with pytest.raises(ValueError, match="min_steps: has no effect while num_epochs is 0"):
        InstructionParams(num_epochs=0, min_steps=8)


def test_a_run_of_a_size_has_its_own_folder():
    params = EmbeddingParams(arm="embedding", train_size=64, seed=1)
    assert params.run_dir.parts[-2:] == ("embedding@64", "seed-1")
    assert EmbeddingParams(arm="embedding").run_dir.parts[-2:] == ("embedding", "seed-0")


def test_an_untaught_arm_without_examples_learns_nothing():
    assert not InstructionParams(num_epochs=0).uses_training_data
    assert InstructionParams(num_epochs=0, num_examples=2, decoding="score").uses_training_data
    assert InstructionParams().uses_training_data
    assert EmbeddingParams().uses_training_data


def test_a_run_depends_on_what_was_changed_last_in_folders_of_data_and_model(tmp_path):
    files = [tmp_path / name for name in ("wipo/train/1.xml", "wipo/train/2.xml", "model/config")]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    for path in tmp_path.rglob("*"):
        os.utime(path, (1, 1))
    params = StudyParams(
        dataset=f"wipo:{tmp_path / 'wipo'}", label_level="class", model_id=str(tmp_path / "model")
    )
    for file in files[::2]:
        os.utime(file, (2, 2))
    assert params.data_files == files[::2]
    files[1].unlink()
    assert params.data_files == [files[0].parent, files[2]]
    assert StudyParams().data_files == []


@pytest.mark.parametrize(
    ("given", "num_threads", "threads"),
    [("3", 0, 3), ("99", 0, 8), ("", 0, 8), ("4,2", 0, 8), ("0", 0, 8), ("3", 5, 5)],
)
def test_a_run_takes_no_more_threads_than_it_was_given(monkeypatch, given, num_threads, threads):
    monkeypatch.setattr("lib.config.arms.cpu_count", lambda: 8)
    monkeypatch.setattr("lib.config.arms.OMP_NUM_THREADS", given)
    assert StudyParams(num_threads=num_threads).threads == threads
