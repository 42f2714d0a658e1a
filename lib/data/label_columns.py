"""The column of labels in a table of unknown meaning, and the form of the labels in it."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from lib.data.encodings import MAX_SHOWN
from lib.data.indicators import NO, YES, blank_means_no, marks, unlabelled
from lib.data.tables import LISTS, as_objects, cell_text, cell_texts
from lib.data.words import find_words
from lib.data.written_lists import MULTI_HOT, is_multi_hot, read_lists
from lib.errors import DataError

# Our choices.
LABELS = (
    "label", "labels", "category", "categories", "class", "classes", "target", "topic", "topics",
    "intent", "sentiment", "tag", "tags", "genre", "rating", "stars", "y",
    "kategorie", "klasse", "thema", "catégorie", "classe", "étiquette", "categoría", "clase",
    "etiqueta", "categoria",
)  # fmt: skip
MIN_DOCUMENTS = 2  # per label
MIN_SEVERAL = 0.02  # share of cells with several labels
MAX_WORDS = 3.0  # of a label among several in a cell, on average
MAX_STEPS = 20  # different numbers with fractions that are a scale, such as stars and half stars
SHOWN = 8  # columns of yes and no that a line names
SHAREPOINT = ";#"  # between the choices of a cell that SharePoint has exported
DELIMITERS = (SHAREPOINT, ";", "|", "\n", ",", " ")  # a space between tags that begin with #
# 2020-12-31, or three numbers with points or slashes; a time may follow.
DATE = r"(\d{4}-\d\d?-\d\d?|\d\d?([./])\d\d?\2\d{2,4})([T ].*)?"


def normal_name(name: str) -> str:
    """A column's name in lower case, its words joined by underscores."""
    return re.sub(r"\W+", "_", name.lower()).strip("_")


def _last_word(name: str) -> str:
    """The last word of a column's name, "sentiment" of "airline_sentiment"; "" for one letter."""
    last = normal_name(name).rpartition("_")[2]
    return last if len(last) > 1 else ""


def is_numeric(cells: pd.Series) -> bool:
    """True if there are cells, and all of them are numbers that are written as texts."""
    return bool(len(cells)) and bool(_numbers(cells).notna().all())


def _numbers(cells: pd.Series) -> pd.Series:
    """The cells as numbers, NaN for other texts; a comma is a point if all cells have one."""
    if cells.str.fullmatch(r"[+-]?\d+,\d+").all():
        cells = cells.str.replace(",", ".")
    return pd.to_numeric(cells, errors="coerce")


def listed(names: Iterable[str]) -> str:
    """Names joined by commas, cut to the room that a message has."""
    return ", ".join(map(str, names))[: 5 * MAX_SHOWN]


def find_labels(
    table: pd.DataFrame, candidates: Sequence[str], source: str, label: str = ""
) -> tuple[dict[str, Any], str, int]:
    """Parameters of the data for its labels, the reason for them, and the number of labels.

    The parameters (`lib.config.data`) name the column or columns of labels, and the form in which
    these are written. The label is one of the `candidates`, or the column `label` that the user has
    named.

    Raises `DataError` if no column or several could be the label, or if the user's cannot be.
    """
    candidates = [label] if label else candidates
    cells = {name: cell_texts(table[name]) for name in candidates}
    known = [name for name in candidates if name == label or normal_name(name) in LABELS]
    forms = {name: _form(table[name], source, scale=name in known) for name in candidates}
    usable = [name for name in candidates if not forms[name].fault]
    # A column with a label's name is at fault, and no other one with such a name can be used.
    if faulty := [name for name in known if name not in usable and not {*known} & {*usable}]:
        raise DataError(f"{source}: {forms[faulty[0]].fault}")

    # Columns of yes and no or blank, where nothing else can be the label.
    written = {name: set(marks(cells[name])) for name in candidates}
    indicators = [
        name
        for name, found in written.items()
        if found <= YES | NO | {""} and found & YES and found - YES
    ]
    if len(indicators) > 1 and set(usable) <= set(indicators) and not known:
        values = {"indicator_columns": indicators}
        table = pd.DataFrame({name: marks(cells[name]) for name in indicators})
        without = unlabelled(table, blank_means_no([table], indicators))
        if table[~without].isin(YES).sum(axis=1).eq(1).all():
            reason = f"{len(indicators)} columns, each row with one yes: one label per document"
            return values, reason, len(indicators)
        more = f" and {len(indicators) - SHOWN} more" if len(indicators) > SHOWN else ""
        reason = f"{len(indicators)} columns of yes and no, label sets: "
        reason += listed(map(repr, indicators[:SHOWN])) + more
        return values | {"label_mode": "multi"}, reason, len(indicators)

    # Of columns that divide the rows alike, such as numbers and names of classes, take the names.
    together: dict[bytes, list[str]] = {}
    for name in usable:
        together.setdefault(pd.factorize(cells[name])[0].tobytes(), []).append(name)
    equal = together.values()
    known = known or [name for name in usable if _last_word(name) in LABELS]
    named = [names for names in equal if set(names) & set(known)]
    names = [
        min(names, key=lambda n: (is_numeric(cells[n]), n not in known)) for names in named or equal
    ]
    if not names:
        one_of = f": one of {listed(candidates)}" if candidates else ""
        raise DataError(
            f"{source}: no column looks like labels, {MIN_DOCUMENTS} rows each or more; name it, "
            f"LABEL=<column>{one_of}"
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
    reason = f"{names[0]!r}: {form.num_labels:,} labels, {how}{joined}"
    return values, reason, form.num_labels


@dataclass(frozen=True)
class _Form:
    """The form of the labels in a column; `fault` says why it has none, "" if it has one."""

    fault: str
    several: bool = False
    delimiter: str = ""
    num_labels: int = 0


def _form(column: pd.Series, source: str, *, scale: bool) -> _Form:
    """The form of a column of labels; a `scale` may have numbers with fractions, or dates."""
    values = as_objects(column)
    try:
        read = read_lists(values, "multi", source)
    except DataError as error:  # some cells are lists and others are not
        return _Form(str(error).removeprefix(f"{source}: "))
    delimiter = ""
    if any(isinstance(value, LISTS) for value in read):  # a label beside them is a list of one
        lists = [
            list(value) if isinstance(value, LISTS) else [value]
            for value in read
            if isinstance(value, LISTS) or cell_text(value)
        ]
        several = set(map(len, lists)) != {1}
    else:
        cells = values.map(cell_text)
        cells = cells[cells != ""]
        if is_numeric(cells):
            fractions = (_numbers(cells) % 1 != 0).any()
            if fractions and not (scale and cells.nunique() <= MAX_STEPS):
                return _Form(f"{column.name!r} has numbers with fractions, not labels")
        elif not scale and len(cells) and cells.str.fullmatch(DATE).all():
            return _Form(f"{column.name!r} has dates, not labels")
        else:
            delimiter = _delimiter(cells)
        lists = [cell.split(delimiter) if delimiter else [cell] for cell in cells]
        several = bool(delimiter)
    if is_multi_hot(lists):
        return _Form(f"{column.name!r} {MULTI_HOT}")
    labels = pd.Series([cell_text(label) for row in lists for label in row], dtype=object)
    labels = labels[labels != ""] if delimiter else labels
    return _Form(_too_few(column, labels, len(lists)), several, delimiter, labels.nunique())


def _too_few(column: pd.Series, labels: pd.Series, num_rows: int) -> str:
    """The fault of a column with these labels, of `num_rows` rows in all; "" if it has none."""
    if 1 < labels.nunique() <= len(labels) / MIN_DOCUMENTS:
        return ""
    blank = len(column) - num_rows
    gaps = f"; {blank:,} other rows have none: fill them in if cells were merged"
    return (
        f"{column.name!r} has {labels.nunique():,} labels in {num_rows:,} rows; a study needs two "
        f"labels or more, and {MIN_DOCUMENTS} rows per label{gaps if blank > num_rows else ''}"
    )


def _delimiter(cells: pd.Series) -> str:
    """The delimiter of labels in a cell, whose pieces recur in other cells; "" without one."""
    distinct = cells.unique()
    for mark in DELIMITERS:
        split = [[piece.strip() for piece in cell.split(mark)] for cell in distinct]
        pieces = {piece for row in split for piece in row}
        often = cells.str.contains(mark, regex=False).mean() >= MIN_SEVERAL
        short = np.mean([len(find_words(piece)) for piece in pieces] or [0]) <= MAX_WORDS
        # The parts of one name, as in "Bern, Switzerland", do not change places.
        places = list(map(set, zip(*split, strict=False))) if len({*map(len, split)}) == 1 else []
        one_name = bool(places) and sum(map(len, places)) == len(pieces)
        signs = [piece.startswith("#") for piece in pieces]
        if mark == SHAREPOINT and often and not any(signs):  # which no name contains
            return mark
        tags = mark != " " or all(signs)
        if often and short and tags and not one_name and len(pieces) < len(distinct):
            return mark
    return ""
