"""Parameters of a running notebook: its study's files, its own cell, papermill's, in this order."""

from typing import ClassVar

import pytest

from lib.config import notebook_params, parameters_table
from lib.errors import ParamsError

OWN = '# Parameters. All of them are below.\nstudy: str = "scratch"\nseed: int = 0\n'
NOTEBOOK = "03_finetune_embedding"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Parameters of a notebook with these cells, whose studies lie in a folder of the test."""

    class Shell:
        user_ns: ClassVar = {}

        def set_custom_exc(self, kinds, handler):
            self.handler = handler

    monkeypatch.setattr("IPython.get_ipython", Shell)
    study = tmp_path / "params" / "mine"
    study.mkdir(parents=True)
    (study / "common.yaml").write_text('study: "mine"\nmax_length: 64\nseeds: [0, 7]\n')
    (study / "head.yaml").write_text(
        f'notebook: "{NOTEBOOK}"\narm: "head"\nlearning_rate: 1.0e-3\n'
    )
    (study / "prompt.yaml").write_text('notebook: "04_finetune_instruction"\narm: "prompt"\n')
    folder = f'params_dir = "{tmp_path / "params"}"\n'

    def run(injected="", own="", notebook=NOTEBOOK):
        Shell.user_ns = {
            "In": ["", OWN + folder + own, *(["# Parameters\n" + injected] * bool(injected))]
        }
        return notebook_params(notebook)

    return run


def test_the_files_of_the_study_are_read(run):
    params = run('study = "mine"\narm = "head"\nseed = 7\nlearning_rate = 0.004\n')
    assert (params.study, params.arm, params.seed) == ("mine", "head", 7)
    assert (params.max_length, params.learning_rate) == (64, 0.004)


def test_in_jupyterlab_one_changed_line_is_enough(run):
    assert run(own='study = "mine"\narm = "head"\n').learning_rate == 1.0e-3
    params = run(own='study = "mine"\narm = "head"\noverrides = {"batch_size": 4}\n')
    assert (params.max_length, params.batch_size) == (64, 4)
    assert run(own='study = "mine"\n', notebook="05_compare").seeds == [0, 7]


def test_files_given_to_papermill_replace_those_of_the_study(run):
    params = run(f'study = "mine"\nnotebook = "{NOTEBOOK}"\narm = "head"\nlora_r = 4\n')
    assert (params.max_length, params.lora_r) == (96, 4)


def test_without_a_study_the_defaults_hold(run):
    assert run().study == "scratch"
    assert run(own="train_size: int = 8\n").train_size == 8


@pytest.mark.parametrize(
    ("injected", "message"),
    [
        ("learning_rat = 0.1\n", "learning_rat: unknown parameter; did you mean 'learning_rate'"),
        ('study = "mine"\narm = "haed"\n', "haed.yaml: cannot be read: No such file"),
        ('study = "mine"\narm = "prompt"\n', "these parameters are for '04_finetune_instruction'"),
        ('overrides = {"num_epochs": "two"}\n', "num_epochs: 'two' is not valid"),
        ("overrides = [1]\n", "overrides: [1] is no dictionary"),
        ('overrides = {5: "x"}\n', "overrides: {5: 'x'} is no dictionary of parameters"),
        ('study = "mine"\noverrides = {"arm": ["a"]}\n', "['a'].yaml: cannot be read: No such"),
        ("params_dir = 5\n", "params_dir: 5 is not valid"),
        ("params_dir = None\n", "params_dir: None is not valid"),
    ],
)
def test_mistakes_are_named(run, injected, message):
    with pytest.raises(ParamsError) as caught:
        run(injected)
    assert message in str(caught.value)


def test_the_table_shows_what_differs_from_the_default(run):
    table = parameters_table(run("learning_rate = 0.004\n"))
    rows = table.data.set_index("parameter")
    assert rows.loc["learning_rate", "value"] == "0.004"
    assert rows.loc["lora_r", "meaning"].startswith("rank; 0: full fine-tuning")
    html = table.to_html()
    assert html.count("font-weight: bold") == 1
    assert "params.yaml" not in html
