"""A report's page: what it leaves out, and what it forbids."""

import re

import nbformat
import pandas as pd
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from lib.page import ReportExporter, arrange

PIXEL = "iVBORw0KGgo="  # how every PNG begins


def shown(kind="display_data", **data):
    types = {"html": "text/html", "markdown": "text/markdown", "png": "image/png"}
    return new_output(kind, data={types[name]: text for name, text in data.items()})


def page(*cells):
    return ReportExporter().from_notebook_node(new_notebook(cells=list(cells)))[0]


def test_a_section_that_shows_nothing_is_absent_with_its_text():
    cells, contents = arrange(
        [
            new_markdown_cell("# Title"),
            new_code_cell("hidden", metadata={"tags": ["notebook"]}, outputs=[shown(html="all")]),
            new_markdown_cell("## Curves\n\nOf sizes."),
            new_code_cell("if sizes: ..."),
            new_markdown_cell("More of them."),
            new_markdown_cell("## Costs"),
            new_code_cell("costs", outputs=[shown(html="a table")]),
            new_markdown_cell("## Noise"),
            new_code_cell("warn", outputs=[new_output("stream", name="stderr", text="a warning")]),
            new_markdown_cell("## In the end\n\nText alone."),
        ]
    )
    assert contents == {"section-1": "Costs", "section-2": "In the end"}
    texts = " ".join(cell.source for cell in cells)
    for gone in ("Curves", "More of them", "Noise", "hidden"):
        assert gone not in texts


def test_a_page_has_contents_captions_below_figures_and_results_of_every_kind():
    html = page(
        new_markdown_cell("## Scores & more"),
        new_code_cell("fig", outputs=[shown(png=PIXEL), shown(markdown="*The caption.*"),
                                      shown(markdown="And text.")]),
        new_code_cell("table", outputs=[shown("execute_result", html="<table></table>")]),
    )  # fmt: skip
    assert '<a href="#section-1">Scores &amp; more</a>' in html
    assert re.search(r"<figure>.*<img.*<figcaption><p>The caption.</p>\s*</figcaption>", html, re.S)
    assert html.index("</figure>") < html.index("And text.")
    assert "<table></table>" in html
    assert "display: block; max-width" in html  # the style is in the page


def test_a_page_is_the_same_whenever_it_is_made():
    tables = [pd.DataFrame({"a": [1]}), pd.DataFrame({"b": [2]})]

    def made():
        outputs = [shown(html=table.style.to_html()) for table in tables]
        return page(new_markdown_cell("## Tables"), new_code_cell("", outputs=outputs))

    assert made() == made()
    assert made().count('<table id="T_') == 2


def test_a_page_asks_for_nothing_and_runs_no_script():
    html = page(new_markdown_cell("# Title"))
    assert "default-src 'none'" in html
    assert "<script" not in html
    assert not re.search(r"https?://", html)
    assert len(html) < 20_000  # nbconvert's own template begins at 300,000


def test_a_notebook_without_sections_has_a_page(tmp_path):
    file = tmp_path / "made.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell("1")]), file)
    assert "<main>" in ReportExporter().from_filename(str(file))[0]
