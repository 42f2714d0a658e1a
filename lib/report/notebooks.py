"""Executed notebooks beside the report, for readers who run nothing."""

import os
from collections.abc import Mapping
from pathlib import Path

import nbformat

from lib.storage import ROOT, atomic_path


def publish_notebooks(executed: Mapping[str, Path], folder: Path) -> None:
    """Copy notebooks that papermill has executed into a folder, as `<name>.ipynb`.

    Folders of this machine, papermill's timings and the state of widgets are left out; code,
    results, figures and the run's own log stay. A notebook that is missing or older than its run's
    predictions is left out: its run was made by hand. `executed` has the notebooks' paths by name.
    """
    # the folder that contains all of these; it is cut from paths in the text, as are ROOT and home
    together = os.path.commonpath([path.resolve() for path in (*executed.values(), folder)])
    for name, source in executed.items():
        results = source.with_name("predictions.parquet")  # of an arm; the comparison has none
        written = source.stat().st_mtime if source.is_file() else 0.0
        if not written or (results.is_file() and written < results.stat().st_mtime):
            continue
        notebook = nbformat.read(source, as_version=4)
        for key in ("papermill", "widgets"):
            notebook.metadata.pop(key, None)
        for cell in notebook.cells:
            cell.metadata = {k: v for k, v in cell.metadata.items() if k == "tags" and v}
            if cell.cell_type == "code":
                cell.outputs = [output for output in cell.outputs if _is_shown(output)]
        text = nbformat.writes(notebook)
        for place in map(Path, (together, ROOT, Path.home())):
            if place != Path(place.anchor):
                text = text.replace(f"{place}/", "")
        with atomic_path(folder / f"{name}.ipynb") as path:
            path.write_text(text + "\n", encoding="utf-8")


def _is_shown(output: nbformat.NotebookNode) -> bool:
    return "application/vnd.jupyter.widget-view+json" not in output.get("data", {})
