import os
import time

import pytest
import yaml
from conftest import snakemake

from lib.config.arms import BaselineParams, EmbeddingParams, InstructionParams
from lib.config.study import check_teachers, load_study, study_files, study_runs
from lib.errors import ParamsError


@pytest.fixture
def write(tmp_path):
    """Write the files of the study `mine`: its folder."""

    def files(**contents):
        folder = tmp_path / "mine"
        folder.mkdir()
        for name, values in contents.items():
            (folder / f"{name}.yaml").write_text(yaml.safe_dump(values))
        return folder

    return files


HEAD = {"notebook": "03_finetune_embedding", "arm": "head"}


def test_an_arm_has_its_own_parameters_and_those_of_its_study(write):
    folder = write(common={"study": "mine", "seeds": [1, 2]}, head=HEAD)
    arms = load_study(folder, runs_dir="elsewhere")
    assert list(arms) == ["head"]
    head = arms["head"]
    assert (head.study, head.seeds, head.runs_dir) == ("mine", [1, 2], "elsewhere")


@pytest.mark.parametrize(
    ("common", "head", "message"),
    [
        ({"study": "yours"}, HEAD, "common.yaml: study: 'yours' is not the folder's name"),
        ({}, HEAD | {"seeds": [1]}, "head.yaml: study and seeds belong in common.yaml"),
        ({}, HEAD | {"train_size": 8}, "head.yaml: set train_sizes, in common.yaml alone"),
        (
            {"text_columns": ["title"]},
            HEAD | {"text_columns": ["title", "body"], "num_test": 9, "num_train": 8},
            "head.yaml: text_columns, num_test: arms share their documents and labels, so these",
        ),
        ({}, {"arm": "head"}, "head.yaml: notebook: must be one of ['02_baselines', "),
    ],
)
def test_files_that_do_not_fit_each_other_are_refused(write, common, head, message):
    folder = write(common={"study": "mine", "num_train": 8} | common, head=head)
    with pytest.raises(ParamsError) as caught:
        load_study(folder)
    assert message in str(caught.value)


def test_a_study_without_arms_is_refused(write):
    with pytest.raises(ParamsError, match="no arms; write a parameters file for each"):
        load_study(write(common={"study": "mine"}))


def test_what_learns_runs_at_every_size_and_what_does_not_once():
    sizes = {"train_sizes": [8, 32], "seeds": [0, 1], "num_train": 32}
    head = EmbeddingParams(arm="head", **sizes)
    untaught = InstructionParams(arm="untaught", num_epochs=0, **sizes)
    runs = study_runs([head, untaught])
    assert [(name, run.train_size, run.seeds) for name, run in runs.items()] == [
        ("head@8", 8, [0, 1]),
        ("head@32", 32, [0, 1]),
        ("untaught", 0, [0]),
    ]
    assert list(study_runs([EmbeddingParams(arm="head")])) == ["head"]


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        ("embeding", "'embeding' is not an arm of the study; did you mean 'embedding'?"),
        ("tfidf", "'tfidf': 02_baselines is no fine-tuned arm"),
        ("pupil", "'pupil' learns from 'embedding' itself; name that one"),
        ("longer", "'longer' reads other documents or labels than 'student'"),
        (
            "searching",
            "'searching' answers with decoding 'steps', which gives no probability of each "
            "label; set one of score, yes_no there",
        ),
        (
            "free",
            "'free' answers with decoding 'generate', which gives no probability of each "
            "label; set one of score, yes_no there",
        ),
    ],
)
def test_a_study_is_refused_whose_teacher_cannot_teach(teacher, message):
    arms = {
        "tfidf": BaselineParams(notebook="02_baselines"),
        "embedding": EmbeddingParams(),
        "prompt": InstructionParams(),
        "pupil": EmbeddingParams(arm="pupil", teacher="embedding"),
        "longer": EmbeddingParams(num_train=7),
        "free": InstructionParams(decoding="generate", label_mode="multi"),
        "searching": InstructionParams(label_mode="multi", search={"decoding": ["score", "steps"]}),
        "student": EmbeddingParams(teacher="prompt"),
    }
    check_teachers(arms, "params/mine")
    student = EmbeddingParams(arm="student", teacher=teacher)
    with pytest.raises(ParamsError) as caught:
        check_teachers(arms | {"student": student}, "params/mine")
    assert str(caught.value) == f"params/mine/student.yaml: teacher: {message}"


def test_in_a_study_of_sizes_a_teacher_has_to_learn():
    arms = {
        "untaught": InstructionParams(num_epochs=0, train_sizes=[8]),
        "student": EmbeddingParams(teacher="untaught", train_sizes=[8]),
    }
    with pytest.raises(ParamsError, match="'untaught' is not trained, so it has no run per"):
        check_teachers(arms, "params/mine")
    check_teachers(
        {name: arm.model_copy(update={"train_sizes": []}) for name, arm in arms.items()}, ""
    )


@pytest.fixture
def shared(write, tmp_path):
    """Two studies on shared arms: `mine`, with an arm that wins over the shared one, and others."""
    values = {
        "arms/common": {"num_train": 8, "max_length": 32},
        "arms/head": HEAD | {"learning_rate": 0.004},
        "arms/prompt": {"notebook": "04_finetune_instruction", "arm": "prompt"},
        "arms/tfidf": {"notebook": "02_baselines", "arm": "tfidf"},
        "tasks/topics": {"text_columns": ["title"], "instruction": "Name the topic.", "lora_r": 4},
    }
    for name, content in values.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content))
    common = {"study": "mine", "max_length": 64, "base": ["../tasks/topics.yaml", "../arms"]}
    return write(common=common, head={"lora_layers": 2} | HEAD)


def test_what_arms_share_stands_once(shared):
    arms = load_study(shared)
    assert list(arms) == ["head", "prompt", "tfidf"]
    assert {arm.text_columns[0] for arm in arms.values()} == {"title"}
    assert {(arm.num_train, arm.max_length) for arm in arms.values()} == {(8, 64)}
    # Values for some arms alone; an arm of the study builds on the shared one of its name.
    assert arms["prompt"].instruction == "Name the topic."
    assert (arms["head"].lora_r, arms["prompt"].lora_r) == (4, 4)
    assert (arms["head"].lora_layers, arms["head"].learning_rate) == (2, 0.004)
    files = study_files(shared)
    assert [file.name for file in files.common] == ["topics.yaml", "common.yaml", "common.yaml"]
    assert [file.parent.name for file in files.arms["head"][3:]] == ["arms", "mine"]


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        ("mine/common", {"base": "../arms"}, "common.yaml: base: '../arms' is no list of files"),
        ("mine/common", {"base": ["../arm"]}, "/arm: no such file, or a folder without any"),
        (
            "tasks/topics",
            {"instructio": "x"},
            "topics.yaml: instructio: unknown parameter",
        ),
        ("tasks/topics", {"lora_r": "x"}, "topics.yaml: lora_r: 'x' is not valid"),
        ("mine/head", HEAD | {"instruction": "x"}, "head.yaml: instruction: unknown parameter"),
        ("arms/prompt", HEAD, "prompt.yaml: arm: 'head' is not the file's name"),
    ],
)
def test_a_mistake_in_what_arms_share_is_named(shared, file, values, message):
    path = shared.parent / f"{file}.yaml"
    path.write_text(yaml.safe_dump({"study": "mine"} | values if "common" in file else values))
    with pytest.raises(ParamsError) as caught:
        load_study(shared)
    assert message in str(caught.value)


@pytest.fixture
def plan(write, tmp_path):
    """What a dry run of a study of a data file prints."""

    def plan(data):
        (tmp_path / data).write_text("text,label\na,b\n")
        common = {"study": "mine", "dataset": str(tmp_path / data), "text_columns": ["text"],
                  "label_column": "label"}  # fmt: skip
        write(common=common, tfidf={"notebook": "02_baselines", "arm": "tfidf"})
        (tmp_path / "params").mkdir()
        (tmp_path / "mine").rename(tmp_path / "params" / "mine")
        return snakemake("--dry-run", folder=tmp_path, study="mine")

    return plan


@pytest.mark.parametrize(("data", "found"), [("a{b}.csv", "{b}"), ("a<results>.csv", "<results>")])
def test_a_path_that_snakemake_would_fill_in_is_refused_in_one_line(plan, tmp_path, data, found):
    done = plan(data)
    assert done.returncode == 1
    said = f"{tmp_path / data}: Snakemake fills in what {found} stands for; rename the file or"
    assert said in done.stderr.splitlines()[-1]


def test_a_file_of_the_future_is_named(plan, tmp_path):
    done = plan("a}b [c] >.csv")
    assert done.returncode == 0, done.stderr
    assert "in the future" not in done.stderr
    file, later = tmp_path / "params" / "mine" / "tfidf.yaml", time.time() + 3600
    os.utime(file, (later, later))
    done = snakemake("--dry-run", folder=tmp_path, study="mine")
    assert f"{file}: its time is in the future, so its runs are never up to date" in done.stderr
