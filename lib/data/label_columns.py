"""The column of labels in a table of unknown meaning, and the form of the labels in it."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from lib.data.delimited import MAX_SHOWN
from lib.data.indicators import NO, YES, marks
from lib.data.tables import as_objects, cell_text
from lib.data.words import find_words
from lib.data.written_lists import read_lists
from lib.errors import DataError

# Our choices.
LABELS = (
    "label", "labels", "category", "categories", "class", "classes", "target", "topic", "topics",
    "intent", "sentiment", "tag", "tags", "genre", "rating", "stars", "y",
)  # fmt: skip
MIN_DOCUMENTS = 2  # per label
MIN_SEVERAL = 0.02  # share of cells with several labels
MAX_WORDS = 3.0  # of a label among several in a cell, on average
DELIMITERS = (";", "|", ",")


def normal_name(name: str) -> str:
    """A column's name in lower case, its words joined by underscores."""
    return re.sub(r"\W+", "_", name.strip().lower())


def is_numeric(cells: pd.Series) -> bool:
    """True if all cells are numbers, written as texts."""
    return bool(len(cells)) and bool(pd.to_numeric(cells, errors="coerce").notna().all())


def listed(names: Iterable[str]) -> str:
    """Names for a message, as far as it has room."""
    return ", ".join(map(str, names))[: 5 * MAX_SHOWN]


def find_labels(
    table: pd.DataFrame, candidates: Sequence[str], source: str, label: str = ""
) -> tuple[dict[str, Any], str]:
    """Parameters of the data that say where labels are and in which form, and the reason.

    Parameters
    ----------
    table
        Rows as `lib.data.tables.read_table` gives them.
    candidates
        Columns that may be the label.
    source
        Name of the file, for messages.
    label
        The column that the user has named.

    Raises
    ------
    DataError
        No column, or several, could be the label, or that of the user has too many values.
    """
    candidates = [label] if label else candidates
    cells = {name: as_objects(table[name]).map(cell_text) for name in candidates}
    forms = {name: form for name in candidates if (form := _form(table[name], source))}
    usable = [name for name, form in forms.items() if form.usable]
    known = [name for name in forms if normal_name(name) in LABELS]
    for name in [label] if label else known:
        if name not in usable and (label or not set(known) & set(usable)):
            raise DataError(f"{source}: {name!r} has {_fault(forms.get(name))}")

    # Columns of yes and no, where nothing else can be the label.
    indicators = [name for name in usable if set(marks(cells[name][cells[name] != ""])) <= YES | NO]
    if len(indicators) > 1 and indicators == usable and not known:
        values = {"indicator_columns": indicators, "label_mode": "multi"}
        return values, f"{len(indicators)} columns of yes and no: label sets"

    # Of columns that divide the rows alike, such as numbers and names, the one that can be read.
    equal = _equal_columns(usable, cells)
    named = [names for names in equal if set(names) & set(known)]
    names = [min(names, key=lambda n: is_numeric(cells[n])) for names in named or equal]
    if not names:
        raise DataError(
            f"{source}: no column looks like labels, {MIN_DOCUMENTS} rows each or more; name it, "
            f"LABEL=<column>: one of {listed(candidates)}"
        )
    if len(names) > 1:
        shown = ", ".join(f"{name!r} ({forms[name].num_labels:,} values)" for name in names)
        raise DataError(
            f"{source}: several columns could be the label: {shown}; name it, LABEL=<column>"
        )
    form = forms[names[0]]
    values = {"label_column": names[0]}
    values |= {"label_delimiter": form.delimiter} if form.delimiter else {}
    values |= {"label_mode": "multi"} if form.several else {}
    how = "label sets" if form.several else "one per document"
    joined = f", joined by {form.delimiter!r}" if form.delimiter else ""
    return values, f"{names[0]!r}: {form.num_labels:,} labels, {how}{joined}"


def _equal_columns(names: Sequence[str], cells: dict[str, pd.Series]) -> list[list[str]]:
    """The columns, those together that divide the rows alike, such as numbers and names."""
    together: dict[bytes, list[str]] = {}
    for name in names:
        codes, _ = pd.factorize(cells[name])
        together.setdefault(codes.tobytes(), []).append(name)
    return list(together.values())


@dataclass(frozen=True)
class _Form:
    """The form of labels in a column; `fractional` if they are numbers that are not whole."""

    several: bool
    delimiter: str
    num_labels: int
    num_rows: int
    fractional: bool = False

    @property
    def usable(self) -> bool:
        enough = self.num_rows >= MIN_DOCUMENTS * self.num_labels
        return self.num_labels > 1 and enough and not self.fractional


def _fault(form: _Form | None) -> str:
    if form is None:
        return "lists in some rows and other values in others; write all of them alike"
    if form.fractional:
        return "numbers with fractions, not labels"
    return (
        f"{form.num_labels:,} labels in {form.num_rows:,} rows; a study needs two labels or more, "
        f"and {MIN_DOCUMENTS} rows per label"
    )


def _form(column: pd.Series, source: str) -> _Form | None:
    """The form of a column of labels; None if some cells are lists and others are not."""
    values = as_objects(column)
    rows = pd.Series(column.index + 1, index=column.index)
    try:
        read = read_lists(values, rows, "multi", source)
    except DataError:
        return None
    lists = [list(v) for v in read if isinstance(v, (list, tuple, np.ndarray))]
    if lists:
        labels = {cell_text(x) for row in lists for x in row}
        return _Form(set(map(len, lists)) != {1}, "", len(labels), len(lists))
    cells = values.map(cell_text)
    cells = cells[cells != ""]
    if is_numeric(cells):
        fractional = bool((pd.to_numeric(cells) % 1 != 0).any())
        return _Form(False, "", cells.nunique(), len(cells), fractional)
    delimiter = _delimiter(cells)
    pieces = cells.str.split(delimiter, regex=False).explode().str.strip() if delimiter else cells
    return _Form(bool(delimiter), delimiter, pieces[pieces != ""].nunique(), len(cells))


def _delimiter(cells: pd.Series) -> str:
    """The character that joins labels, "" if none: its pieces recur in other cells."""
    distinct = cells.unique()
    for mark in DELIMITERS:
        pieces = {piece.strip() for cell in distinct for piece in cell.split(mark)}
        often = cells.str.contains(mark, regex=False).mean() >= MIN_SEVERAL
        short = np.mean([len(find_words(piece)) for piece in pieces] or [0]) <= MAX_WORDS
        if often and short and len(pieces) < len(distinct):
            return mark
    return ""
