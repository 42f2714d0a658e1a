# Every arm and seed of a study, then the comparison, then the report; only what is out of date.
#   snakemake --cores 2 --config study=quick
import shlex
import shutil
from pathlib import Path

from lib.params import SHOWING, ParamsError, load_params

STUDY = config.get("study", "quick")
PARAMS = Path(config.get("params_dir", "params"), STUDY)
RUNS = config.get("runs_dir", "runs")
FIGURES = config.get("figures_dir", "figures")
COMMON = str(PARAMS / "common.yaml")
ARM_NOTEBOOKS = "02_baselines 03_finetune_embedding 04_finetune_instruction".split()
# A run depends on the code that computes it, not on the code that draws it.
CODE = sorted(str(p) for p in Path("lib").glob("*.py") if p.stem not in SHOWING)

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
except ParamsError as error:
    raise SystemExit(str(error))


def papermill(notebook, output, files, **values):
    """The command that executes a notebook with a study's parameters files."""
    command = ["papermill", f"notebooks/{notebook}.ipynb", output]
    for file in files:
        command += ["-f", str(file)]
    for name, value in {"runs_dir": RUNS, "figures_dir": FIGURES, **values}.items():
        command += ["-p", name, str(value)]
    return shlex.join(command)


def arm_command(wildcards):
    arm, seed = wildcards.arm, wildcards.seed
    output = f"{RUNS}/{STUDY}/{arm}/seed-{seed}/notebook.ipynb"
    return papermill(arms[arm].notebook, output, [COMMON, PARAMS / f"{arm}.yaml"], seed=seed)


METRICS = [f"{RUNS}/{STUDY}/{arm}/seed-{seed}/metrics.json" for arm in arms for seed in study.seeds]
COMPARED = f"{RUNS}/{STUDY}/05_compare.ipynb"
REPORT = f"{FIGURES}/{STUDY}/report.html"


rule report:
    input: REPORT


rule arm:
    input:
        COMMON,
        PARAMS / "{arm}.yaml",
        CODE,
        lambda wildcards: f"notebooks/{arms[wildcards.arm].notebook}.ipynb",
        lambda wildcards: [str(file) for file in arms[wildcards.arm].data_files],
    output: f"{RUNS}/{STUDY}/{{arm}}/seed-{{seed}}/metrics.json"
    wildcard_constraints:
        arm="|".join(arms),
        seed=r"\d+",
    threads: lambda wildcards: arms[wildcards.arm].threads
    resources:  # where there is a GPU, one arm has it at a time (see --resources in the Makefile)
        gpu=int(shutil.which("nvidia-smi") is not None),
    params: command=arm_command
    shell:
        "mkdir -p $(dirname {output}) && "
        "OMP_NUM_THREADS={threads} RAYON_NUM_THREADS={threads} {params.command}"


rule compare:
    input: METRICS, COMMON, "lib/figures.py", "lib/significance.py", "notebooks/05_compare.ipynb"
    output: COMPARED
    params: command=papermill("05_compare", COMPARED, [COMMON]) + " -y " + shlex.quote(f"arms: {list(arms)}")
    shell: "mkdir -p $(dirname {output}) && {params.command}"


rule html:
    input: COMPARED
    output: REPORT
    shell:  # no scripts from elsewhere: the report opens without a network
        "jupyter nbconvert --to html --no-input {input} --output-dir $(dirname {output}) "
        "--output report --HTMLExporter.require_js_url= --HTMLExporter.mathjax_url="
