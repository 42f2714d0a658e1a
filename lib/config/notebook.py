"""Parameters of the running notebook: from its study's files, its own cell and papermill."""

from pathlib import Path
from typing import Any

import pandas as pd
from pandas.io.formats.style import Styler

from lib.config.arms import NOTEBOOK_PARAMS, StudyParams
from lib.config.study import ARM_NOTEBOOKS, load_params, require_trackers, study_files
from lib.errors import InputError, ParamsError
from lib.stopping import Stopped, stop_on_sigterm
from lib.storage import ROOT


def notebook_params(notebook: str) -> StudyParams:
    """Validated parameters of the running `notebook`, such as "03_finetune_embedding".

    Later ones win: the defaults; the files `params/<study>/common.yaml` and `<arm>.yaml`, if there
    is a folder of that name; what the notebook's own parameters cell changes; what papermill has
    injected (`-p` or `-f`); and the cell's dictionary `overrides`. The study's files are not read
    where papermill was given an arm's file itself (`-f`): it names its `notebook`.

    Raises
    ------
    ParamsError
        One line that names the parameter, what is wrong and the nearest valid name or value.
    """
    from IPython import get_ipython

    shell = get_ipython()
    shell.set_custom_exc((InputError, Stopped), _show_in_one_line)
    stop_on_sigterm()
    own, injected = _parameter_cells(shell.user_ns)
    fields = NOTEBOOK_PARAMS[notebook].model_fields
    # An untouched line of the notebook's own cell does not outdo the study's files.
    changed = {k: v for k, v in own.items() if k not in fields or v != fields[k].default}
    values = changed | injected
    overrides = values.pop("overrides", {})
    if not isinstance(overrides, dict) or not all(isinstance(name, str) for name in overrides):
        raise ParamsError(f"overrides: {overrides!r} is no dictionary of parameters")
    values |= overrides
    folder = ROOT / str(values.get("params_dir", "params")) / str(values.get("study", ""))
    arm = str(values.get("arm", fields["arm"].default))
    files = [] if "notebook" in injected else _study_files(folder, notebook, arm)
    if notebook not in ARM_NOTEBOOKS or not files:  # no arm's file, which names its notebook
        values = {"notebook": notebook} | values
    params = load_params(*files, **values)
    if params.notebook != notebook:
        raise ParamsError(
            f"notebook: these parameters are for {params.notebook!r}, not for this one"
        )
    require_trackers(params)
    return params


def parameters_table(params: StudyParams) -> Styler:
    """Every parameter with value, default and meaning; values that are not the default are bold."""
    rows = [
        (
            name,
            repr(getattr(params, name)),
            repr(field.default),
            " ".join(field.description.split()),
        )
        for name, field in type(params).model_fields.items()
    ]
    table = pd.DataFrame(rows, columns=["parameter", "value", "default", "meaning"])

    def style(row: pd.Series) -> list[str]:
        return ["font-weight: bold" if row["value"] != row["default"] else ""] * len(row)

    shown = table.style.apply(style, axis="columns").hide(axis="index")
    return shown.set_properties(**{"text-align": "left"}).format(escape="html")


def _study_files(folder: Path, notebook: str, arm: str) -> list[Path]:
    """The study's own files for a notebook; none where there is no study of that name."""
    if not folder.name or not (folder / "common.yaml").is_file():
        return []
    files = study_files(folder)
    if notebook not in ARM_NOTEBOOKS:
        return files.common
    return files.arms.get(arm, [*files.common, folder / f"{arm}.yaml"])


def _parameter_cells(namespace: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Values that the notebook's own parameters cell and the one that papermill injects assign.

    Both begin with the comment "# Parameters"; only the notebook's own ends it with a full stop.
    Papermill accepts unknown names, so they are read from the cells.
    """
    cells = [cell for cell in namespace["In"] if cell.startswith("# Parameters")]
    own = [cell for cell in cells if cell.startswith("# Parameters.")]
    injected = [cell for cell in cells if not cell.startswith("# Parameters.")]
    return _assigned(own), _assigned(injected)


def _assigned(cells: list[str]) -> dict[str, Any]:
    """Values that the last cell assigns: if a cell was run several times, the others are old."""
    values: dict[str, Any] = {}
    exec("".join(cells[-1:]), values)  # a cell that this notebook has run  # nosec B102
    return {name: value for name, value in values.items() if not name.startswith("__")}


def _show_in_one_line(shell: Any, kind: type, error: BaseException, *_: Any, **__: Any) -> None:
    """IPython's handler for errors of the input and `Stopped`: the message, without the code."""
    shell._showtraceback(kind, error, [f"{kind.__name__}: {error}"])
