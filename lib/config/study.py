"""The parameters files of a study, checked one by one and against each other, and its runs."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lib.config.arms import NOTEBOOK_PARAMS, FinetuneParams, StudyParams, shared_values
from lib.config.strict_yaml import parse_params, read_yaml, suggestion
from lib.errors import ParamsError

# From the fastest to the slowest, as a rule.
ARM_NOTEBOOKS = ("02_baselines", "03_finetune_embedding", "04_finetune_instruction")


def load_params(*files: str | Path, **given: Any) -> StudyParams:
    """Validated parameters of YAML files; later files win, and then the values `given`.

    The key `notebook` chooses the class; without it, that of the keys that all notebooks share.

    Raises
    ------
    ParamsError
        One line that names the file, the key, what is wrong and the nearest valid key or value.
    """
    values: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for file in files:
        loaded = read_yaml(Path(file))
        values |= loaded
        origin |= dict.fromkeys(loaded, str(file))
    values |= given
    origin |= dict.fromkeys(given, "given")
    last = str(files[-1]) if files else "given"
    notebook = values.get("notebook", "")
    known = isinstance(notebook, str) and notebook in ("", *NOTEBOOK_PARAMS)
    if not known:
        raise ParamsError(
            f"{origin['notebook']}: notebook: {notebook!r} is not a notebook of this study"
            + suggestion(str(notebook), NOTEBOOK_PARAMS)
        )
    model = NOTEBOOK_PARAMS[notebook] if notebook else StudyParams
    params = parse_params(model, values, source=last, origin=origin)
    if origin.get("notebook") in map(str, files) and params.arm != Path(last).stem:
        raise ParamsError(f"{last}: arm: {params.arm!r} is not the file's name")
    return params


def load_study(folder: str | Path, **overrides: Any) -> dict[str, StudyParams]:
    """The parameters of each arm of a study, by its name.

    Parameters
    ----------
    folder
        Holds common.yaml and a file for each arm; it bears the study's name.
    overrides
        Win over what the files say.

    Raises
    ------
    ParamsError
        A file cannot be read, or it does not fit the others; the first complaint.
    """
    folder = Path(folder)
    common = folder / "common.yaml"
    study = load_params(common, **overrides)
    if study.study != folder.absolute().name:
        raise ParamsError(f"{common}: study: {study.study!r} is not the folder's name")
    arms = {}
    for file in sorted(folder.glob("*.yaml")):
        if file == common:
            continue
        arm = arms[file.stem] = load_params(common, file, **overrides)
        if arm.notebook not in ARM_NOTEBOOKS:
            raise ParamsError(f"{file}: notebook: must be one of {list(ARM_NOTEBOOKS)}")
        if (arm.study, arm.seeds) != (study.study, study.seeds):
            raise ParamsError(f"{file}: study and seeds belong in common.yaml")
        if arm.train_size or arm.train_sizes != study.train_sizes:
            raise ParamsError(f"{file}: set train_sizes, in common.yaml alone")
        shared = shared_values(study)
        own = [key for key, value in shared_values(arm).items() if value != shared[key]]
        if own:
            raise ParamsError(
                f"{file}: {', '.join(own)}: arms share their documents and labels, so these belong "
                "in common.yaml"
            )
    if not arms:
        raise ParamsError(f"{folder}: no arms; write a parameters file for each beside common.yaml")
    check_teachers(arms, folder)
    return arms


def study_runs(arms: Iterable[StudyParams]) -> dict[str, StudyParams]:
    """The parameters of every run by its name, each with its `train_size` and `seeds`.

    A study with `train_sizes` runs each arm as `<arm>@<size>`, but by its name alone, and with its
    first seed alone, where the arm uses no training documents.
    """
    runs = []
    for arm in arms:
        if not arm.train_sizes:
            runs.append(arm)
        elif not arm.uses_training_data:
            runs.append(arm.model_copy(update={"seeds": arm.seeds[:1]}))
        else:
            runs += [arm.model_copy(update={"train_size": size}) for size in arm.train_sizes]
    return {run.run_dir.parent.name: run for run in runs}


def check_teachers(arms: Mapping[str, StudyParams], folder: str | Path) -> None:
    """Raise `ParamsError` if an arm of the study has a teacher that cannot teach it.

    Parameters
    ----------
    arms
        Every arm of the study by its name.
    folder
        Where its parameters files lie.
    """
    for name, params in arms.items():
        if not (teacher := getattr(params, "teacher", "")):
            continue
        where = f"{Path(folder) / name}.yaml: teacher: {teacher!r}"
        if teacher not in arms:
            raise ParamsError(f"{where} is not an arm of the study{suggestion(teacher, arms)}")
        other = arms[teacher]
        if not isinstance(other, FinetuneParams):
            raise ParamsError(f"{where}: {other.notebook} is no fine-tuned arm")
        if params.train_sizes and not other.uses_training_data:
            raise ParamsError(
                f"{where} is not trained, so it has no run per train_size; choose a trained arm"
            )
        if getattr(other, "teacher", ""):
            raise ParamsError(f"{where} learns from {other.teacher!r} itself; name that one")
        if shared_values(params) != shared_values(other):
            raise ParamsError(f"{where} reads other documents or labels than {name!r}")
