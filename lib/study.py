"""A study's parameters files: read, checked, and checked against each other."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lib.params import NOTEBOOK_PARAMS, FinetuneParams, StudyParams
from lib.validation import ParamsError, nearest, parse_params, read_yaml


def load_params(path: str | Path, *more: str | Path, **overrides: Any) -> StudyParams:
    """Validated parameters of the YAML files, later ones and then `overrides` winning.

    The key `notebook` chooses the model; without it the keys that all notebooks share are meant.

    Raises
    ------
    ParamsError
        One line that names the file, the key, what is wrong and the nearest valid key or value.
    """
    values: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for file in (path, *more):
        loaded = read_yaml(Path(file))
        values |= loaded
        origin |= dict.fromkeys(loaded, str(file))
    values |= overrides
    origin |= dict.fromkeys(overrides, "overrides")
    notebook = values.get("notebook", "")
    if notebook and notebook not in NOTEBOOK_PARAMS:
        raise ParamsError(
            f"{origin['notebook']}: notebook: {notebook!r} is not a notebook of this study"
            + nearest(str(notebook), NOTEBOOK_PARAMS)
        )
    model = NOTEBOOK_PARAMS[notebook] if notebook else StudyParams
    params = parse_params(model, values, source=str((path, *more)[-1]), origin=origin)
    if notebook and params.arm != Path((path, *more)[-1]).stem:
        raise ParamsError(f"{(path, *more)[-1]}: arm: {params.arm!r} is not the file's name")
    return params


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
            raise ParamsError(f"{where} is not an arm of the study{nearest(teacher, arms)}")
        other = arms[teacher]
        if not isinstance(other, FinetuneParams):
            raise ParamsError(f"{where}: {other.notebook} is no fine-tuned arm")
        if params.train_sizes and not other.learns:
            raise ParamsError(f"{where} learns from nothing, so it has no run of each size")
        if getattr(other, "teacher", ""):
            raise ParamsError(f"{where} learns from {other.teacher!r} itself; name that one")
        data = (params.data_options, params.label_names)
        if data != (other.data_options, other.label_names):
            raise ParamsError(f"{where} reads other documents or labels than {name!r}")
