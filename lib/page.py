"""An executed notebook as a page, in the template of `lib/report/template`.

jupyter nbconvert --to lib.page.ReportExporter runs/quick/05_compare.ipynb
"""

import re
from typing import Any

from nbconvert import HTMLExporter
from nbformat import NotebookNode
from traitlets import Bool, List, Unicode

from lib.storage import ROOT

WIDGET = "application/vnd.jupyter.widget-view+json"
STYLED = re.compile(r'<table id="(T_[0-9a-f]{5})"')  # as pandas names a styled table
HIDDEN = "notebook"  # tag of a cell that is for readers of the notebook alone


class ReportExporter(HTMLExporter):
    """HTML exporter of reports: one file without code, without scripts, without any request.

    Cells tagged "notebook", progress bars, what is written to stderr, and sections of which no
    cell shows anything are left out.
    """

    template_name = Unicode("template")
    extra_template_basedirs = List([str(ROOT / "lib" / "report")])
    exclude_input = Bool(True)
    exclude_anchor_links = Bool(True)

    def from_notebook_node(
        self, nb: NotebookNode, resources: dict[str, Any] | None = None, **kw: Any
    ) -> tuple[str, dict[str, Any]]:
        """The page and its resources."""
        nb.cells, contents = arrange(nb.cells)
        resources = {**(resources or {}), "contents": contents}
        page, resources = super().from_notebook_node(nb, resources, **kw)
        return _with_numbered_tables(page), resources


def arrange(cells: list[NotebookNode]) -> tuple[list[NotebookNode], dict[str, str]]:
    """The cells that a report has, and the title of each section by its id.

    The first cell of a section gets the id in its metadata, as `section`; a section begins with a
    Markdown cell of a heading `##`. A caption, which is Markdown behind an image, moves into the
    image's metadata. The cells are changed in place.
    """
    sections: list[list[NotebookNode]] = [[]]
    for cell in (cell for cell in cells if HIDDEN not in cell.metadata.get("tags", [])):
        if cell.cell_type == "markdown" and cell.source.startswith("## "):
            sections.append([])
        if cell.cell_type == "code":
            cell.outputs = _with_captions([x for x in cell.outputs if _is_seen(x)])
        sections[-1].append(cell)
    kept, contents = sections[0], {}
    for number, section in enumerate(filter(_has_content, sections[1:]), 1):
        section[0].metadata["section"] = f"section-{number}"
        contents[f"section-{number}"] = section[0].source.partition("\n")[0].removeprefix("## ")
        kept = kept + section
    return kept, contents


def _with_numbered_tables(page: str) -> str:
    """The page with tables numbered in order, because pandas draws their ids at random."""
    for number, name in enumerate(dict.fromkeys(STYLED.findall(page)), 1):
        page = page.replace(name, f"T_{number}")
    return page


def _has_content(section: list[NotebookNode]) -> bool:
    """False for a section with cells of code if none of them shows anything."""
    code = [cell for cell in section if cell.cell_type == "code"]
    return not code or any(cell.outputs for cell in code)


def _is_seen(output: NotebookNode) -> bool:
    """False for a progress bar and for text that is written to stderr."""
    if output.output_type == "stream":
        return output.name == "stdout"
    return WIDGET not in output.get("data", {})


def _with_captions(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """The outputs, each image with the Markdown behind it as its caption."""
    found: list[NotebookNode] = []
    for output in outputs:
        before = found[-1] if found else {}
        bare = "image/png" in before.get("data", {}) and "caption" not in before.metadata
        if bare and "text/markdown" in output.get("data", {}):
            before.metadata["caption"] = output.data["text/markdown"].strip("*")
        else:
            found.append(output)
    return found
