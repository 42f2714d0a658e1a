"""Parameters, models and data that a stranger made: one line, soon, and nothing of theirs runs."""

import copy
import json
import os
import pickle
import shutil
import sys

import pytest
from conftest import SMOLLM2, data_params

from lib import storage
from lib.config.study import load_params
from lib.data import load_splits
from lib.data.labels import read_label_names
from lib.data.wipo.read import read_wipo_alpha
from lib.errors import DataError, ModelError, ParamsError
from lib.model.load import load_backbone
from lib.model.weights import load_config, load_tokenizer
from lib.prompt import frame
from lib.prompt.template import PromptTemplate
from lib.storage import packaged_file

pytestmark = pytest.mark.reliability


@pytest.fixture(autouse=True)
def _nobody_answers(monkeypatch):
    """A question on the terminal fails."""

    def ask(*_):
        raise AssertionError("a question was asked")

    monkeypatch.setattr("builtins.input", ask)


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    """`stranger()`: an object whose pickle leaves a file; the test fails if it is there."""
    mark = tmp_path / "ran"

    class Code:
        def __reduce__(self):
            return (open, (str(mark), "w"))

    yield Code
    assert not mark.exists()


LAUGHS = (
    "a: &a ["
    + "x, " * 9
    + "x]\n"
    + "".join(
        f"{b}: &{b} [" + f"*{a}, " * 9 + f"*{a}]\n"
        for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
)
# content of a study's common.yaml, what is said about it
PARAMS = {
    "aliases that multiply": (LAUGHS, "its aliases repeat too much; write the values out"),
    "merges that multiply": (
        "a: &a {x: 1}\n" + "".join(
            f"{b}: &{b} {{p: *{a}, q: *{a}, r: *{a}, s: *{a}}}\n"
            for a, b in zip("abcdefgh", "bcdefghi", strict=True)
        ), "its aliases repeat too much"),
    "an alias of itself": ("a: &a [*a]\n", "an alias contains itself"),
    "a deep nesting": ("a: " + "[" * 5000, "nested too deeply"),
    "a large file": ("# " + "x" * (4 * 2**20), "more than 4,194,304 bytes"),
    "an object of Python": ("a: !!python/object/apply:os.system ['touch ran']\n", "not valid YAML"),
    "a number of many digits": ("seed: " + "9" * 5000, "not valid YAML"),
    "a key twice": ("seed: 1\nseed: 2\n", "given twice"),
    "no text": ("\x00\x01", "not valid YAML"),
    "the cache as a study": ('study: "cache"\n', "'cache' is the folder of cached results"),
    "the cache in capitals": ('study: "Cache"\n', "'Cache' is the folder of cached results"),
    "a study above": ('study: ".."\n', "study: '..' is not valid"),
    "a study with a path": ('study: "../../etc"\n', "is not valid"),
    "an arm with a path": ('arm: "a/b"\n', "is not valid"),
    "runs above": ('runs_dir: "../../etc"\n', "runs_dir: '../../etc' leads out of the project"),
    "runs above, in the middle": ('runs_dir: "runs/../../x"\n', "leads out of the project"),
    "runs anywhere": ('runs_dir: "/etc"\n', "runs_dir: '/etc' leads out of the project"),
    "figures anywhere": ('figures_dir: "/etc"\n', "figures_dir: '/etc' leads out of the project"),
    "parameters above": ('params_dir: ".."\n', "params_dir: '..' leads out of the project"),
}  # fmt: skip


@pytest.mark.parametrize("kind", PARAMS)
def test_a_strangers_parameters_are_refused_in_one_line(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    content, said = PARAMS[kind]
    file = tmp_path / "common.yaml"
    file.write_text(content)
    with pytest.raises(ParamsError) as caught:
        load_params(file)
    assert said in str(caught.value)
    assert str(caught.value).startswith(str(file))
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == ["common.yaml"]


def test_folders_of_the_command_line_are_the_callers_own(tmp_path):
    file = tmp_path / "common.yaml"
    file.write_text('runs_dir: "elsewhere"\n')
    assert load_params(file, runs_dir=str(tmp_path)).runs_dir == str(tmp_path)
    assert load_params(file).runs_dir == "elsewhere"


def test_values_may_be_written_once_and_repeated(tmp_path):
    file = tmp_path / "common.yaml"
    file.write_text('text_columns: &columns ["a", "b"]\nindicator_columns: *columns\n')
    params = load_params(file)
    assert params.text_columns == params.indicator_columns == ["a", "b"]


def test_a_pipe_is_no_file_of_parameters(tmp_path):
    os.mkfifo(tmp_path / "common.yaml")
    with pytest.raises(ParamsError, match="a pipe or device; write a file"):
        load_params(tmp_path / "common.yaml")


@pytest.fixture
def model(tmp_path, cut_model):
    """A copy of SmolLM2's first layer, to be spoilt."""
    return shutil.copytree(cut_model(1), tmp_path / "model")


def edit(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def with_code(folder):
    (folder / "evil.py").write_text("import pathlib; pathlib.Path('ran').touch()\n")
    kinds = ("AutoConfig", "AutoModel", "AutoModelForCausalLM")
    edit(folder / "config.json", model_type="evil", architectures=["Evil"],
         auto_map=dict.fromkeys(kinds, "evil.Evil"))  # fmt: skip


def with_tokenizer_code(folder):
    (folder / "evil.py").write_text("import pathlib; pathlib.Path('ran').touch()\n")
    edit(folder / "tokenizer_config.json", tokenizer_class="Evil",
         auto_map={"AutoTokenizer": ["evil.Evil", None]})  # fmt: skip
    edit(folder / "config.json", model_type="evil")


def with_a_pipe(folder):
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")


def with_a_dangling_link(folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("nowhere")


def without_config(folder):
    (folder / "config.json").write_text("")


def with_other_config(folder):
    (folder / "config.json").write_text("[" * 5000)


def with_cut_weights(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])


def with_a_long_header(folder):
    (folder / "model.safetensors").write_bytes(b"\xff" * 8 + b"{}")


MODELS = {
    with_code: "code of its own, which is never run",
    with_tokenizer_code: "model: ",
    with_a_pipe: "config.json: a pipe, a device or a dangling link",
    with_a_dangling_link: "model.safetensors: a pipe, a device or a dangling link",
    without_config: "model: ",
    with_other_config: "model: ",
    with_cut_weights: "model: cannot be loaded",
    with_a_long_header: "model: cannot be loaded",
}


@pytest.mark.parametrize("spoil", MODELS)
def test_a_strangers_model_is_refused_in_one_line(tmp_path, monkeypatch, model, spoil):
    monkeypatch.chdir(tmp_path)
    spoil(model)

    def load():
        load_config(str(model))
        load_tokenizer(str(model))
        load_backbone(str(model), quantization="none")

    with pytest.raises(ModelError) as caught:
        load()
    assert MODELS[spoil] in str(caught.value)
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == ["model"]


def test_pickled_weights_run_no_code(model, stranger):
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(pickle.dumps(stranger()))
    with pytest.raises(ModelError, match="model: cannot be loaded"):
        load_backbone(str(model), quantization="none")


GGUF = {
    "cut": lambda whole: whole[:100_000],
    "its first word alone": lambda whole: whole[:4],
    "empty": lambda whole: b"",
    "more tensors than there are": lambda whole: whole[:8] + b"\xff" * 8 + whole[16:100_000],
    "more values than there are": lambda whole: whole[:16] + b"\xff" * 8 + whole[24:100_000],
    "a name longer than the file": lambda whole: whole[:24] + b"\xff" * 8 + whole[32:100_000],
    "cut in its weights": lambda whole: whole[:20_000_000],
}


@pytest.mark.parametrize("kind", GGUF)
def test_a_damaged_gguf_file_is_refused_in_one_line(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(storage, "CACHE", tmp_path / "cache")
    file = tmp_path / "model.gguf"
    file.write_bytes(GGUF[kind](packaged_file(SMOLLM2).read_bytes()))
    with pytest.raises(ModelError, match=r"model\.gguf: not a readable GGUF file: ") as caught:
        load_config(str(file))
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "cache" / "gguf").iterdir())


MESSAGES = "{% for m in messages %}{{ m.content }}{% endfor %}"
TEMPLATES = {
    "loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "a macro that calls itself": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "a macro that calls itself twice": (
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(40) }}"
    ),
    "a range too large": "{% for i in range(10 ** 9) %}{% endfor %}",
    "the interpreter": "{{ ''.__class__.__mro__[1].__subclasses__()[0].x() }}",
    "a file": "{% include '/etc/passwd' %}",
}


@pytest.mark.parametrize("kind", TEMPLATES)
def test_a_strangers_chat_template_ends_and_stays_in_its_box(tokenizer, kind, monkeypatch):
    monkeypatch.setattr(frame, "MAX_STEPS", 50_000)
    theirs = copy.deepcopy(tokenizer)
    theirs.chat_template = TEMPLATES[kind] + MESSAGES
    before = sys.gettrace()
    with pytest.raises(ModelError, match=r'chat template .*; set template: "plain"$') as caught:
        PromptTemplate.build(theirs, instruction="Topic?", max_length=9)
    assert "\n" not in str(caught.value)
    assert sys.gettrace() is before
    PromptTemplate.build(theirs, instruction="Topic?", max_length=9, plain=True)


def test_real_chat_templates_are_far_from_the_limit(tokenizer, monkeypatch):
    monkeypatch.setattr(frame, "MAX_STEPS", frame.MAX_STEPS // 100)
    PromptTemplate.build(tokenizer, instruction="Topic?", max_length=9)


def pipe(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path)


@pytest.mark.parametrize("place", ["rows.csv", "/dev/zero"])
def test_a_pipe_or_device_is_no_data_file(tmp_path, place):
    path = place if place.startswith("/") else tmp_path / place
    if path != place:
        pipe(path)
    with pytest.raises(DataError, match="no such data file"):
        load_splits(data_params(path))


def test_a_pipe_in_a_folder_of_data_is_refused(tmp_path):
    pipe(tmp_path / "data" / "train.csv")
    with pytest.raises(DataError, match=r"train\.csv: a pipe, a device or a dangling link"):
        load_splits(data_params(tmp_path / "data"))


def test_a_pipe_among_patents_is_refused(tmp_path):
    pipe(tmp_path / "wipo" / "train" / "a.xml")
    with pytest.raises(DataError, match=r"a\.xml: no regular file but a pipe or device"):
        read_wipo_alpha(tmp_path / "wipo", level="class")


def test_a_link_out_of_the_patents_is_refused(tmp_path):
    (tmp_path / "secret.xml").write_text("<record/>")
    (tmp_path / "wipo" / "train").mkdir(parents=True)
    link = tmp_path / "wipo" / "train" / "a.xml"
    link.symlink_to(tmp_path / "secret.xml")
    with pytest.raises(DataError, match=r"a\.xml: a link that leads out of .*wipo; copy the file"):
        read_wipo_alpha(tmp_path / "wipo", level="class")


@pytest.mark.parametrize("content", [LAUGHS, "a: &a {b: *a}\n", "[" * 5000])
def test_a_strangers_names_of_labels_are_refused(tmp_path, content):
    (tmp_path / "names.yaml").write_text(content)
    with pytest.raises(DataError, match=r"names\.yaml: cannot be read: ") as caught:
        read_label_names(tmp_path / "names.yaml")
    assert "\n" not in str(caught.value)
