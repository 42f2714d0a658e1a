"""An executed notebook as a page: what its readers see of it, in a template of ours.

jupyter nbconvert --to lib.report.page.ReportExporter runs/quick/05_compare.ipynb
"""

from pathlib import Path
from typing import Any

from nbconvert import HTMLExporter
from nbformat import NotebookNode
from traitlets import default

HIDDEN = "notebook"  # tag of a cell that is for readers of the notebook alone


class ReportExporter(HTMLExporter):
    """HTML exporter of reports: one file without code, without scripts, without any request.

    Cells tagged "notebook", what is written to stderr, and sections of which no cell shows
    anything are left out.
    """

    @default("template_name")
    def _template_name(self) -> str:
        return "template"

    @default("extra_template_basedirs")
    def _folder(self) -> list[str]:
        return [str(Path(__file__).parent)]

    @default("exclude_input")
    def _exclude_input(self) -> bool:
        return True

    @default("exclude_anchor_links")
    def _exclude_anchor_links(self) -> bool:
        return True

    def from_notebook_node(
        self, nb: NotebookNode, resources: dict[str, Any] | None = None, **kw: Any
    ) -> tuple[str, dict[str, Any]]:
        """The page and its resources."""
        nb.cells, contents = arrange(nb.cells)
        return super().from_notebook_node(nb, {**(resources or {}), "contents": contents}, **kw)


def arrange(cells: list[NotebookNode]) -> tuple[list[NotebookNode], dict[str, str]]:
    """The cells that a report has, and the title of each section by its id.

    The first cell of a section has the id in its metadata, as `section`. A caption, the Markdown
    behind an image, moves into the metadata of that image.
    """
    sections: list[list[NotebookNode]] = [[]]
    for cell in cells:
        if HIDDEN in cell.metadata.get("tags", []):
            continue
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


def _has_content(section: list[NotebookNode]) -> bool:
    """False of a section whose cells are to show something, and of which none does."""
    code = [cell for cell in section if cell.cell_type == "code"]
    return not code or any(cell.outputs for cell in code)


def _is_seen(output: NotebookNode) -> bool:
    if output.output_type == "stream":
        return output.name == "stdout"
    return output.output_type == "error" or any(
        not isinstance(x, str) or x.strip() for x in output.data.values()
    )


def _with_captions(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """The outputs, each image with the Markdown behind it as its caption."""
    found: list[NotebookNode] = []
    for output in outputs:
        image = found and "image/png" in found[-1].get("data", {})
        if image and "text/markdown" in output.get("data", {}):
            found[-1].metadata["caption"] = output.data["text/markdown"].strip().strip("*")
        else:
            found.append(output)
    return found
