"""Documents that one approach gets right and the other wrong, to be read one by one."""

from collections.abc import Mapping, Sequence
from html import escape

import pandas as pd
from datasets import Dataset

from lib.report.recommendation import QUESTION
from lib.report.wording import beginning, printable, shorten

# Our choices: characters of a text or of a list of labels, and documents of a table
MAX_CHARACTERS, MAX_DOCUMENTS = 400, 30


def choose_pair(arms: Sequence[str]) -> tuple[str, str]:
    """The head and the prompt if both are among `arms`, else the first two.

    `arms` are sorted from the best on.

    Raises
    ------
    ValueError
        There are fewer than two arms.
    """
    if set(QUESTION) <= set(arms):
        return QUESTION
    if len(arms) < 2:
        raise ValueError(f"arms: {list(arms)}; a disagreement needs two")
    return arms[0], arms[1]


def find_disagreements(
    documents: Dataset, a: tuple[str, pd.DataFrame], b: tuple[str, pd.DataFrame]
) -> pd.DataFrame:
    """Documents whose whole label set one arm gets right and the other wrong.

    A row per document: `right`, the arm that is right, and the columns of `answers_side_by_side`,
    which describes the parameters. Rows are sorted by `right`; of equal ones, those first whose
    wrong answer has the highest score.
    """
    table, right = answers_side_by_side(documents, a, b)
    # Those that one alone gets right, by the score of the other
    found = []
    for one, other in ((a[0], b[0]), (b[0], a[0])):
        chosen = table[right[one] & ~right[other]]
        found.append(chosen.sort_values(f"{other} score", ascending=False, kind="stable"))
        found[-1].insert(0, "right", one)
    return pd.concat(found, ignore_index=True)


def answers_side_by_side(
    documents: Dataset, *answered: tuple[str, pd.DataFrame]
) -> tuple[pd.DataFrame, dict[str, pd.Series]]:
    """The answers of arms to the same documents, and True where an arm's whole label set is right.

    The table has a row per document: `id text true`, and for each arm "<arm>", its answer, and
    "<arm> score", its highest score, which is a probability where the arm has any. Long texts and
    label sets are cut. The bool series are by arm. `documents` are the test split; an arm is given
    by its name and the `read_predictions` of one seed.

    Raises
    ------
    ValueError
        An arm predicted other documents, or in another order.
    """
    table = pd.DataFrame({"id": list(map(printable, documents["id"])), "text": documents["text"]})
    table["text"] = [beginning(text, MAX_CHARACTERS) for text in table["text"]]
    table["true"] = list(map(_in_one, answered[0][1]["y_true"]))
    right = {}
    for arm, predictions in answered:
        if list(predictions["id"]) != list(documents["id"]):
            raise ValueError(f"{arm}: its predictions are of other documents than were loaded")
        answers = zip(predictions["y_true"], predictions["y_pred"], strict=True)
        right[arm] = pd.Series([set(true) == set(answer) for true, answer in answers], dtype=bool)
        table[arm] = [_in_one(labels) or "no label" for labels in predictions["y_pred"]]
        table[f"{arm} score"] = [float(max(scores)) for scores in predictions["scores"]]
    return table, right


def disagreements_html(table: pd.DataFrame) -> str:
    """The table of `find_disagreements` as HTML: a table that folds out for each arm.

    Each has `MAX_DOCUMENTS` rows at most. Texts and labels are escaped and not read as formulas;
    the HTML needs no script and no style sheet.
    """
    arms = [name for name in table.columns if f"{name} score" in table.columns]
    found = {}
    for arm, other in (arms, arms[::-1]):
        rows = table[table["right"] == arm].drop(columns="right")
        found[f"Only {arm} is right, {other} is not"] = rows
    return folded_html(found)


def folded_html(tables: Mapping[str, pd.DataFrame]) -> str:
    """Tables of documents that fold out, by their titles, as HTML: see `disagreements_html`."""
    parts = []
    for title, rows in tables.items():
        shown = f", the first {MAX_DOCUMENTS} shown" if len(rows) > MAX_DOCUMENTS else ""
        summary = f"{title}: {len(rows):,} document{'' if len(rows) == 1 else 's'}{shown}"
        options = {"index": False, "border": 0, "float_format": "%.3f", "justify": "left"}
        with pd.option_context("display.max_colwidth", None):
            body = rows[:MAX_DOCUMENTS].to_html(escape=True, **options)
        parts.append(f"<details><summary>{escape(summary)}</summary>{body}</details>")
    style = "text-align: left; overflow: auto; max-height: 40em"
    return f'<div class="tex2jax_ignore mathjax_ignore" style="{style}">{"".join(parts)}</div>'


def _in_one(labels: Sequence[str]) -> str:
    return shorten("; ".join(labels), MAX_CHARACTERS)
