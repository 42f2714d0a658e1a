"""The parameters files of a study, checked one by one and against each other, and its runs."""

import os
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from lib.config.arms import NOTEBOOK_PARAMS, FinetuneParams, StudyParams, shared_values
from lib.config.choices import SET_THRESHOLDS
from lib.config.strict_yaml import parse_params, read_yaml, suggestion
from lib.errors import ParamsError

# From the fastest to the slowest, as a rule.
ARM_NOTEBOOKS = ("02_baselines", "03_finetune_embedding", "04_finetune_instruction")
FOLDERS = {"params_dir", "runs_dir", "figures_dir"}
EVERY_PARAMETER = {name for group in NOTEBOOK_PARAMS.values() for name in group.model_fields}


class StudyFiles(NamedTuple):
    """Parameters files of a study; in each list later ones win."""

    common: list[Path]
    """of values that arms share: those of `base`, then common.yaml"""
    arms: dict[str, list[Path]]
    """of each arm, by its name: the common ones, then its own"""
    folders: list[Path]
    """folders of arms"""


def study_files(folder: str | Path) -> StudyFiles:
    """The parameters files of a study's folder, with those that its common.yaml builds on.

    `base` in common.yaml lists files of shared values, and folders with a common.yaml and arms,
    relative to the study's common.yaml. The values of an arm in the study's own folder win over
    those of an arm of the same name in a folder of `base`.

    Raises `ParamsError` if common.yaml cannot be read, or `base` names what is not there.
    """
    own = Path(folder) / "common.yaml"
    named = read_yaml(own).get("base", [])
    if not (isinstance(named, list) and all(isinstance(name, str) for name in named)):
        raise ParamsError(f"{own}: base: {named!r} is no list of files and folders")
    common, folders = [], []
    for name in named:
        path = (own.parent / name).resolve()
        path = path if own.is_absolute() else Path(os.path.relpath(path))
        files = sorted(path.glob("*.yaml")) if path.is_dir() else [path]
        if not path.exists() or not files:
            raise ParamsError(f"{own}: base: {path}: no such file, or a folder without any")
        folders += [path] if path.is_dir() else []
        shared = [file for file in files if file == path or file.name == "common.yaml"]
        for file in shared:
            values = read_yaml(file)
            if "base" in values:
                raise ParamsError(f"{file}: base: list it in {own} instead; a base has none")
            if "notebook" in values:
                raise ParamsError(f"{own}: base: {file} is an arm; name the folder of arms")
        common += shared
    common.append(own)
    arms: dict[str, list[Path]] = {}
    folders.append(own.parent)
    for path in folders:
        for file in sorted(path.glob("*.yaml")):
            if file.name != "common.yaml":
                arms[file.stem] = [*arms.get(file.stem, common), file]
    return StudyFiles(common, dict(sorted(arms.items())), folders)


def load_params(*files: str | Path, **given: Any) -> StudyParams:
    """Validated parameters of YAML files; later files win, and then the values `given`.

    The key `notebook` chooses the class; without it, that is `StudyParams`. Files without it are
    shared by arms, so values in them are left out if this arm's notebook has no such parameter.

    Raises
    ------
    ParamsError
        One line that names the file, the key, what is wrong and the nearest valid key or value.
    """
    values: dict[str, Any] = {}
    origin: dict[str, str] = {}
    shared: set[str] = set()
    is_arm = False
    for file in files:
        loaded = read_yaml(Path(file))
        is_arm |= "notebook" in loaded
        if is_arm:
            shared -= set(loaded)
        else:
            loaded.pop("base", None)  # see `study_files`
            shared |= set(loaded)
        values |= loaded
        origin |= dict.fromkeys(loaded, str(file))
    values |= given
    origin |= dict.fromkeys(given, "given")
    last = str(files[-1]) if files else "given"
    notebook = values.get("notebook", "")
    models = {"": StudyParams} | NOTEBOOK_PARAMS
    if not isinstance(notebook, str) or notebook not in models:
        raise ParamsError(
            f"{origin['notebook']}: notebook: {notebook!r} is not a notebook of this study"
            + suggestion(str(notebook), NOTEBOOK_PARAMS)
        )
    model = models[notebook]
    for name in shared & EVERY_PARAMETER - set(model.model_fields) - set(given):
        del values[name]
    for name in sorted(FOLDERS & set(values)):
        path = Path(str(values[name]))
        if origin[name] != "given" and (path.is_absolute() or ".." in path.parts):
            raise ParamsError(
                f"{origin[name]}: {name}: {values[name]!r} leads out of the project; write a "
                "folder within it, or give that one on the command line"
            )
    params = parse_params(model, values, source=last, origin=origin)
    if origin.get("notebook") in map(str, files) and params.arm != Path(last).stem:
        raise ParamsError(f"{last}: arm: {params.arm!r} is not the file's name")
    return params


def require_trackers(*arms: StudyParams) -> None:
    """Raise `ParamsError` if a tracker in `report_to` of one of these arms is not installed."""
    for arm in arms:
        for name in getattr(arm, "report_to", ()):
            if find_spec(name) is None:
                raise ParamsError(
                    f"{arm.arm}: report_to: {name!r} is not installed; run "
                    f"`.venv/bin/pip install {name}`, or leave it out"
                )


def load_study(folder: str | Path, **overrides: Any) -> dict[str, StudyParams]:
    """The parameters of each arm of a study, by its name; `overrides` win over its files.

    Raises
    ------
    ParamsError
        A file cannot be read or does not fit the others; only the first complaint is reported.
    """
    folder = Path(folder)
    files = study_files(folder)
    common = files.common[-1]
    study = load_params(*files.common, **overrides)
    if study.study != folder.absolute().name:
        raise ParamsError(f"{common}: study: {study.study!r} is not the folder's name")
    arms = {}
    for name, own in files.arms.items():
        file = own[-1]
        arm = arms[name] = load_params(*own, **overrides)
        if arm.notebook not in ARM_NOTEBOOKS:
            raise ParamsError(f"{file}: notebook: must be one of {list(ARM_NOTEBOOKS)}")
        if (arm.study, arm.seeds) != (study.study, study.seeds):
            raise ParamsError(f"{file}: study and seeds belong in common.yaml")
        if arm.train_size or arm.train_sizes != study.train_sizes:
            raise ParamsError(f"{file}: set train_sizes, in common.yaml alone")
        own = [key for key, value in shared_values(study).items() if getattr(arm, key) != value]
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

    A study with `train_sizes` runs each arm as `<arm>@<size>`, once per size. An arm that uses no
    training documents runs as `<arm>`, with its first seed alone.
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
    """Raise `ParamsError` if an arm of the study in `folder` has a teacher that cannot teach it."""
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
        for tried in (other.candidates or [other]) if other.multi_label else ():
            decoding = getattr(tried, "decoding", SET_THRESHOLDS[0])
            if decoding not in SET_THRESHOLDS:
                raise ParamsError(
                    f"{where} answers with decoding {decoding!r}, which gives no probability of "
                    f"each label; set one of {', '.join(SET_THRESHOLDS)} there"
                )
        if getattr(other, "teacher", ""):
            raise ParamsError(f"{where} learns from {other.teacher!r} itself; name that one")
        if shared_values(params) != shared_values(other):
            raise ParamsError(f"{where} reads other documents or labels than {name!r}")
