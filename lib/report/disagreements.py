"""Documents that one approach gets right and the other wrong, to be read one by one."""

from collections.abc import Iterable, Sequence
from html import escape

import pandas as pd
from datasets import Dataset

from lib.report.wording import shorten


def choose_pair(arms: Sequence[str]) -> tuple[str, str]:
    """The head and the prompt, or else the two best arms.

    Parameters
    ----------
    arms
        At least two, the best first.
    """
    if {"embedding", "instruction"} <= set(arms):
        return "embedding", "instruction"
    if len(arms) < 2:
        raise ValueError(f"arms: {list(arms)}; a disagreement needs two")
    return arms[0], arms[1]


def find_disagreements(
    documents: Dataset,
    a: tuple[str, pd.DataFrame],
    b: tuple[str, pd.DataFrame],
    *,
    characters: int = 400,
) -> pd.DataFrame:
    """Documents whose whole label set one arm gets right and the other wrong.

    Parameters
    ----------
    documents
        The test split: `id` and `text`.
    a, b
        Name of an arm and its `lib.runs.record.read_predictions` of this split, of one seed.
    characters
        Of a text or label list, at most.

    Returns
    -------
    DataFrame
        `right` (the arm), `id`, `text`, `true`, and for each arm its answer and its highest score
        ("<arm>", "<arm> score"; a probability where the arm has any). By arm, and within it those
        first of which the other arm was surest.

    Raises
    ------
    ValueError
        An arm predicted other documents, or in another order.
    """
    table = pd.DataFrame({"id": documents["id"], "text": documents["text"]})
    table["text"] = [_beginning(text, characters) for text in table["text"]]
    table["true"] = [_join(labels, characters) for labels in a[1]["y_true"]]
    right = {}
    for arm, predictions in (a, b):
        if list(predictions["id"]) != list(documents["id"]):
            raise ValueError(f"{arm}: its predictions are of other documents than were loaded")
        answers = zip(predictions["y_true"], predictions["y_pred"], strict=True)
        right[arm] = pd.Series([set(true) == set(answer) for true, answer in answers], dtype=bool)
        table[arm] = [_join(labels, characters) or "no label" for labels in predictions["y_pred"]]
        table[f"{arm} score"] = [float(max(scores)) for scores in predictions["scores"]]
    found = []
    for one, other in ((a[0], b[0]), (b[0], a[0])):
        chosen = table[right[one] & ~right[other]]
        found.append(chosen.sort_values(f"{other} score", ascending=False, kind="stable"))
        found[-1].insert(0, "right", one)
    return pd.concat(found, ignore_index=True)


def disagreements_html(table: pd.DataFrame, *, most: int = 30) -> str:
    """Two tables that fold out, at most `most` documents each, as HTML that needs nothing else.

    Everything that a document or a label says is escaped; neither is read as a formula.

    Parameters
    ----------
    table
        What `find_disagreements` returns.
    """
    arms = [name for name in table.columns if f"{name} score" in table.columns]
    parts = []
    for arm, other in (arms, arms[::-1]):
        rows = table[table["right"] == arm].drop(columns="right")
        shown = f", the first {most} shown" if len(rows) > most else ""
        summary = f"Only {arm} is right, {other} is not: {len(rows):,} document"
        summary += f"{'' if len(rows) == 1 else 's'}{shown}"
        with pd.option_context("display.max_colwidth", None):
            body = rows[:most].to_html(index=False, escape=True, border=0, float_format="%.3f",
                                       justify="left")  # fmt: skip
        parts.append(f"<details><summary>{escape(summary)}</summary>{body}</details>")
    style = "text-align: left; overflow: auto; max-height: 40em"
    return f'<div class="tex2jax_ignore mathjax_ignore" style="{style}">{"".join(parts)}</div>'


def _join(labels: Iterable[str], characters: int) -> str:
    return shorten("; ".join(labels), characters)


def _beginning(text: str, characters: int) -> str:
    return shorten(" ".join(text[: 4 * characters].split()), characters)
