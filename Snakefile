# Every arm and seed of a study, then the comparison, then the report; only what is out of date.
#   snakemake --cores 2 --config study=quick
import re
import shlex
import shutil
from pathlib import Path

from lib.params import SHOWING, ParamsError
from lib.study import check_teachers, load_params

STUDY = config.get("study", "quick")
PARAMS = Path(config.get("params_dir", "params"), STUDY)
RUNS = config.get("runs_dir", "runs")
FIGURES = config.get("figures_dir", "figures")
COMMON = str(PARAMS / "common.yaml")
# From the fastest to the slowest, as a rule.
ARM_NOTEBOOKS = "02_baselines 03_finetune_embedding 04_finetune_instruction".split()
# A run depends on the code that computes it, not on the code that draws it.
CODE = sorted(str(p) for p in Path("lib").glob("*.py") if p.stem not in SHOWING)
DRAWING = sorted(str(p) for p in Path("lib").glob("*.py") if p.stem in SHOWING)

# All parameters are checked before anything runs; the first complaint is all that is printed.
try:
    study = load_params(COMMON, runs_dir=RUNS, figures_dir=FIGURES)
    arms = {
        file.stem: load_params(COMMON, file, runs_dir=RUNS, figures_dir=FIGURES)
        for file in sorted(PARAMS.glob("*.yaml"))
        if file.name != "common.yaml"
    }
    if study.study != STUDY:
        raise ParamsError(f"{COMMON}: study: {study.study!r} is not the folder's name")
    for name, arm in arms.items():
        if arm.notebook not in ARM_NOTEBOOKS:
            raise ParamsError(f"{PARAMS / name}.yaml: notebook: must be one of {ARM_NOTEBOOKS}")
        if (arm.study, arm.seeds) != (study.study, study.seeds):
            raise ParamsError(f"{PARAMS / name}.yaml: study and seeds belong in common.yaml")
        if arm.train_size or arm.train_sizes != study.train_sizes:
            raise ParamsError(f"{PARAMS / name}.yaml: set train_sizes, in common.yaml alone")
    check_teachers(arms, PARAMS)
except ParamsError as error:
    raise SystemExit(str(error))


# A learning curve runs every arm as <arm>@<size>, but once, by its name, if it learns from nothing.
RUN_OF = {}  # name: arm, training documents (0: all), seeds
for name, arm in arms.items():
    if study.train_sizes and arm.learns:
        RUN_OF |= {f"{name}@{size}": (name, size, study.seeds) for size in study.train_sizes}
    else:
        RUN_OF[name] = (name, 0, study.seeds[:1] if study.train_sizes else study.seeds)


def papermill(notebook, output, files, **values):
    """The command that executes a notebook with a study's parameters files."""
    command = ["papermill", f"notebooks/{notebook}.ipynb", output]
    for file in files:
        command += ["-f", str(file)]
    for name, value in {"runs_dir": RUNS, "figures_dir": FIGURES, **values}.items():
        command += ["-p", name, str(value)]
    return shlex.join(command)


def arm_command(wildcards):
    arm, size, _ = RUN_OF[wildcards.arm]
    output = f"{RUNS}/{STUDY}/{wildcards.arm}/seed-{wildcards.seed}/notebook.ipynb"
    values = {"seed": wildcards.seed} | ({"train_size": size} if size else {})
    return papermill(arms[arm].notebook, output, [COMMON, PARAMS / f"{arm}.yaml"], **values)


def arm_of(wildcards):
    """The parameters of the run's arm."""
    return arms[RUN_OF[wildcards.arm][0]]


def teacher_run(wildcards):
    """The run of the same size and seed that the run learns from, if any."""
    teacher = getattr(arm_of(wildcards), "teacher", "")
    size = RUN_OF[wildcards.arm][1]
    run = f"{teacher}@{size}" if size else teacher
    return [f"{RUNS}/{STUDY}/{run}/seed-{wildcards.seed}/metrics.json"] if teacher else []


METRICS = [
    f"{RUNS}/{STUDY}/{run}/seed-{seed}/metrics.json"
    for run, (_, _, seeds) in RUN_OF.items()
    for seed in seeds
]
COMPARED = f"{RUNS}/{STUDY}/05_compare.ipynb"
REPORT = f"{FIGURES}/{STUDY}/report.html"


rule report:
    input: REPORT


rule arm:
    input:
        COMMON,
        CODE,
        lambda wildcards: str(PARAMS / f"{RUN_OF[wildcards.arm][0]}.yaml"),
        lambda wildcards: f"notebooks/{arm_of(wildcards).notebook}.ipynb",
        lambda wildcards: [str(file) for file in arm_of(wildcards).data_files],
        teacher_run,
    output: f"{RUNS}/{STUDY}/{{arm}}/seed-{{seed}}/metrics.json"
    wildcard_constraints:
        arm="|".join(map(re.escape, RUN_OF)),
        seed=r"\d+",
    # What is usually slow comes first, so that the last arm seldom runs long and alone.
    priority: lambda wildcards: ARM_NOTEBOOKS.index(arm_of(wildcards).notebook)
    threads: lambda wildcards: arm_of(wildcards).threads
    resources:  # where there is a GPU, one arm has it at a time (see --resources in the Makefile)
        gpu=int(shutil.which("nvidia-smi") is not None),
    params: command=arm_command
    shell:
        "mkdir -p $(dirname {output}) && "
        "OMP_NUM_THREADS={threads} RAYON_NUM_THREADS={threads} {params.command}"


rule compare:
    input: METRICS, COMMON, DRAWING, "notebooks/05_compare.ipynb"
    output: COMPARED
    params: command=papermill("05_compare", COMPARED, [COMMON]) + " -y " + shlex.quote(f"arms: {list(RUN_OF)}")
    shell: "mkdir -p $(dirname {output}) && {params.command}"


rule html:
    input: COMPARED
    output: REPORT
    shell:  # no scripts from elsewhere: the report opens without a network
        "jupyter nbconvert --to html --no-input {input} --output-dir $(dirname {output}) "
        "--output report --HTMLExporter.require_js_url= --HTMLExporter.mathjax_url="
