# Every arm and seed of a study, then the comparison, then the report; only what is out of date.
# `make study` runs it by lib/supervise.py.
#   snakemake --cores 2 --config study=quick
import csv
import re
import shlex
import shutil
import sys
import time
from glob import glob
from pathlib import Path

from snakemake.io import WILDCARD_REGEX
from snakemake.pathvars import PATHVAR_REGEX

from lib.config.sources import source_of
from lib.config.study import (
    ARM_NOTEBOOKS,
    load_study,
    require_trackers,
    study_files,
    study_runs,
)
from lib.errors import ParamsError
from lib.fingerprints import modules_behind, notebook_mark

STUDY = config.get("study", "quick")
if not isinstance(STUDY, str):  # Snakemake has read it as a number
    raise SystemExit(f"study: {STUDY!r} is a number; rename the folder in params/, and study: in it")
PARAMS = Path(config.get("params_dir", "params"), STUDY)
RUNS = config.get("runs_dir", "runs")
FIGURES = config.get("figures_dir", "figures")

# All parameters are checked before anything runs; the first complaint is all that is printed.
try:
    arms = load_study(PARAMS, params_dir=str(PARAMS.parent), runs_dir=RUNS, figures_dir=FIGURES)
    require_trackers(*arms.values())
    files = study_files(PARAMS)
    source = source_of(next(iter(arms.values())).dataset)
except ParamsError as error:
    raise SystemExit(str(error))
runs = study_runs(arms.values())
read = [*files.common, *files.folders, *(file for own in files.arms.values() for file in own)]
read = dict.fromkeys([*read, *(file for arm in arms.values() for file in arm.data_files)])
for file in map(str, (PARAMS, RUNS, FIGURES, *read)):
    if found := WILDCARD_REGEX.search(file) or PATHVAR_REGEX.search(file):
        said = f"Snakemake fills in what {found[0]} stands for; rename the file or folder"
        raise SystemExit(f"{file}: {said}")
DATA_BROUGHT = [] if source is None or source.is_complete else [f"{RUNS}/{STUDY}/data_brought"]
for mark in DATA_BROUGHT:  # left by a study that failed, when the documents were there
    Path(mark).unlink(missing_ok=True)


def code_of(notebook):
    """A notebook and the modules that it runs through: what a run of it is out of date with.

    A mark stands for the notebook, whose time changes whenever JupyterLab saves it.
    """
    modules = modules_behind(notebook=notebook)
    mark = notebook_mark(notebook, Path(RUNS, "cache", "notebooks"))
    return [str(mark), *(f"lib/{m.replace('.', '/')}.py" for m in modules)]


if workflow.is_main_process:
    code = {file for run in runs.values() for file in code_of(run.notebook)}
    for file in map(Path, (*read, *sorted(code))):
        if file.stat().st_mtime > time.time() + 60:  # clocks of shared folders differ a little
            said = "its time is in the future, so its runs are never up to date; `touch` it"
            print(f"{file}: {said}", file=sys.stderr)


def papermill(notebook, output, **values):
    """The command that executes a notebook with the parameters of the study."""
    command = ["python", "-m", "lib.execute", f"notebooks/{notebook}.ipynb", output]
    folders = {"params_dir": PARAMS.parent, "runs_dir": RUNS, "figures_dir": FIGURES}
    for name, value in {"study": STUDY, **values, **folders}.items():
        # -r: as text, also where a name looks like a number
        command += ["-p" if isinstance(value, int) else "-r", name, str(value)]
    return shlex.join(command)


def arm_files(wildcards):
    return [str(file) for file in files.arms[runs[wildcards.run].arm]]


def arm_command(wildcards):
    run = runs[wildcards.run]
    output = f"{RUNS}/{STUDY}/{wildcards.run}/seed-{wildcards.seed}/notebook.ipynb"
    size = {"train_size": run.train_size} if run.train_size else {}
    return papermill(run.notebook, output, arm=run.arm, seed=int(wildcards.seed), **size)


def teacher_run(wildcards):
    """The run of the same size and seed that the run learns from, if any."""
    run = runs[wildcards.run]
    if not getattr(run, "teacher", ""):
        return []
    return f"{RUNS}/{STUDY}/{run.teacher_dir.parent.name}/seed-{wildcards.seed}/metrics.json"


def planned(name):
    """A resource that a run's batch job reserves; see `lib.runs.plan.job_resources`."""

    def resource(wildcards):
        with open(config["jobs"], encoding="utf-8") as rows:
            return {row["arm"]: int(row[name]) for row in csv.DictReader(rows)}[wildcards.run]

    return resource


# Where there is a GPU, one arm of a machine has it at a time (see --resources in the Makefile).
RESOURCES = {"gpu": int(shutil.which("nvidia-smi") is not None)}
if "jobs" in config:
    RESOURCES = {name: planned(name) for name in ("mem_mb", "runtime", "gpu")}


METRICS = [
    f"{RUNS}/{STUDY}/{name}/seed-{seed}/metrics.json"
    for name, run in runs.items()
    for seed in run.seeds
]
COMPARED = f"{RUNS}/{STUDY}/05_compare.ipynb"
REPORT = f"{FIGURES}/{STUDY}/report.html"


# The executed notebooks of each arm's first seed are beside the report.
EXECUTED = {
    f"{run.notebook[:2]}_{name}": f"{RUNS}/{STUDY}/{name}/seed-{run.seeds[0]}/notebook.ipynb"
    for name, run in runs.items()
} | {"05_compare": COMPARED}
NOTEBOOKS = f"{FIGURES}/{STUDY}/notebooks"


localrules: report, data, html, notebooks


rule report:
    input: REPORT, NOTEBOOKS, METRICS  # runs too: one that was deleted is no reason to do nothing


# Where documents of data/sources.yaml are missing. A mark of the study stands for them, because
# two studies that run at once may not share an output; the set's own lock lets one wait.
rule data:
    output: temp(DATA_BROUGHT)
    shell: f"python data/prepare.py {source and source.name} && touch {{output}}"


rule arm:
    input:
        arm_files,
        ancient(DATA_BROUGHT),
        lambda wildcards: code_of(runs[wildcards.run].notebook),
        lambda wildcards: [str(file) for file in runs[wildcards.run].data_files],
        teacher_run,
    output: f"{RUNS}/{STUDY}/{{run}}/seed-{{seed}}/metrics.json"
    wildcard_constraints:
        run="|".join(map(re.escape, runs)),
        seed=r"\d+",
    # What is usually slow comes first, so that the last arm seldom runs long and alone.
    priority: lambda wildcards: ARM_NOTEBOOKS.index(runs[wildcards.run].notebook)
    threads: lambda wildcards: runs[wildcards.run].threads
    resources: **RESOURCES
    params: command=arm_command
    shell: "OMP_NUM_THREADS={threads} RAYON_NUM_THREADS={threads} exec {params.command}"


rule compare:
    # A folder's time changes when an arm's file is removed.
    input: METRICS, files.common, files.folders, code_of("05_compare")
    output: COMPARED
    params: command=papermill("05_compare", COMPARED) + " -y " + shlex.quote(f"arms: {list(runs)}")
    shell: "exec {params.command}"


rule html:
    input: COMPARED, "lib/page.py", glob("lib/report/template/*")
    output: REPORT
    shell:
        "jupyter nbconvert --to lib.page.ReportExporter {input[0]} --output-dir $(dirname {output}) "
        "--output report"


rule notebooks:
    input: METRICS, COMPARED, "lib/report/notebooks.py"
    output: directory(NOTEBOOKS)
    run:
        from lib.report.notebooks import publish_notebooks

        publish_notebooks({name: Path(file) for name, file in EXECUTED.items()}, Path(output[0]))
