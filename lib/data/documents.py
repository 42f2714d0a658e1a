"""From the rows of a table to documents: text, labels and id, each checked with its row."""

import re
from collections import Counter
from collections.abc import Callable, Container, Sequence
from datetime import date, datetime

import numpy as np
import pandas as pd

from lib.data.delimited import SHOWN
from lib.data.labels import read_lists
from lib.data.tables import as_objects, plain, require_columns
from lib.errors import DataError
from lib.ipc import cut_code

# Cells of indicator columns, in lower case; numbers such as 1.0 are whole before.
YES, NO = {"1", "true", "t", "yes", "y", "x"}, {"0", "false", "f", "no", "n"}
TIME = r"\d[T ]\d"  # where a time begins behind a date
ZONE = re.compile(TIME + r".*(?:Z|[+-]\d\d(?::?\d\d)?)$", re.IGNORECASE)


def column_and_words(entry: str, columns: Container[str] = ()) -> tuple[str, int | None]:
    """Column and number of words of an entry such as "description:300"; None for all words.

    An entry that is itself the name of one of the `columns` is that column.
    """
    column, colon, words = entry.rpartition(":")
    cut = colon and words.isdecimal() and entry not in columns
    return (column, int(words)) if cut else (entry, None)


def build_documents(
    table: pd.DataFrame,
    source: str,
    part: str,
    *,
    text_columns: Sequence[str],
    text_template: str,
    label_column: str,
    indicator_columns: Sequence[str],
    crosses: Container[str],
    label_delimiter: str,
    label_mode: str,
    label_level: str,
    id_column: str,
    group_column: str,
    date_column: str,
) -> pd.DataFrame:
    """A part's `id text labels`, and `group` and `date` where asked for, checked row by row.

    In the indicator columns that are `crosses`, a blank cell is a no.
    """
    texts_of = dict(column_and_words(entry, table.columns) for entry in text_columns)
    extra = {"group": group_column, "date": date_column}
    extra = {name: column for name, column in extra.items() if column}
    of_labels = list(indicator_columns) or [label_column]
    needed = [*texts_of, *of_labels, *extra.values(), *([id_column] if id_column else [])]
    require_columns(table, needed, source)
    if table.empty:
        raise DataError(f"{source}: holds no document")
    rows = pd.Series(table.index + 1)  # of the whole file, also where a column marks splits
    table = table.reset_index(drop=True)
    texts = _texts(table, rows, texts_of, text_template, source)
    if indicator_columns:
        labels = _from_indicators(table, rows, indicator_columns, crosses, source)
    else:
        values = read_lists(as_objects(table[label_column]), rows, label_mode, source)
        labels = _from_column(values, rows, label_delimiter, source)
    unlabelled = np.zeros(len(rows), dtype=bool)
    if not indicator_columns:
        unlabelled = (values.map(_kind) == "").to_numpy()
    documents = pd.DataFrame({"text": texts, "labels": labels, "row": rows})
    if id_column:
        documents["id"] = _cells(table, rows, id_column, source)
    else:
        documents["id"] = part + "-" + rows.astype(str)
    for name, column in extra.items():
        documents[name] = _cells(table, rows, column, source)
    blank = (documents["text"] == "") & unlabelled
    documents = documents[~blank].reset_index(drop=True)  # a wholly blank line is no document
    if documents.empty:
        raise DataError(f"{source}: holds no document")
    _refuse(documents, documents["text"] == "", source, "text is empty")
    # An empty set is an answer where a document may have several labels; a missing one is none.
    without = documents["labels"].isna()
    if label_mode != "multi":
        without |= documents["labels"].str.len() == 0
    _refuse(documents, without, source, "no label")
    _refuse(documents, documents["id"] == "", source, "no id")
    if group_column:
        _refuse(documents, documents["group"] == "", source, "no group")
    if date_column:
        documents["date"] = _dates(documents, date_column, source)
    documents["labels"] = _in_mode(documents, label_mode, label_level, source)
    return documents


def _refuse(documents: pd.DataFrame, fault: pd.Series, source: str, what: str) -> None:
    if fault.any():
        row = documents["row"][fault].iloc[0]
        raise DataError(
            f"{source}: document {row}: {what}; fill it in or remove the row"
            + (f" ({fault.sum()} such rows)" if fault.sum() > 1 else "")
        )


def _dates(documents: pd.DataFrame, column: str, source: str) -> pd.Series:
    """The dates as points in time; without a time zone, they are taken to be of one."""
    written = documents["date"]
    dates = pd.to_datetime(written, errors="coerce", utc=True, format="ISO8601")
    _refuse(documents, dates.isna(), source, f"{column!r} is no ISO date such as 2020-12-31")
    zoned, timed = written.str.contains(ZONE), written.str.contains(TIME, case=False)
    if zoned.any():
        what = f"{column!r} has a time without a time zone, other rows have one"
        _refuse(documents, timed & ~zoned, source, what)
    return dates


def _kind(value: object) -> str:
    if isinstance(value, (list, tuple, np.ndarray)):
        return "list"
    if isinstance(value, (bool, np.bool_)):
        return "boolean"
    if isinstance(value, (date, datetime)) and not pd.isna(value):
        return "date"
    if isinstance(value, (dict, bytes)):
        return type(value).__name__
    if value is None or pd.isna(value) or (isinstance(value, str) and not value.strip()):
        return ""
    return "text" if isinstance(value, str) else "number"


def _cells(table: pd.DataFrame, rows: pd.Series, column: str, source: str) -> pd.Series:
    """A column as texts; refuses lists, bytes and other things, and texts among numbers."""
    values = as_objects(table[column])
    _refuse_kinds(values, rows, column, source)
    return values.map(plain)


def _refuse_kinds(values: pd.Series, rows: pd.Series, column: str, source: str) -> None:
    kinds = values.map(_kind)
    for kind in sorted(set(kinds) - {"", "text", "number", "boolean", "date"}):
        row, value = rows[kinds == kind].iloc[0], values[kinds == kind].iloc[0]
        raise DataError(
            f"{source}: document {row}: {column!r} holds a {kind}, not a text: "
            f"{_shown(value)}; write a text there"
        )
    counts = Counter(kind for kind in kinds if kind)
    if len(counts) > 1:
        rarest = min(counts, key=counts.__getitem__)
        raise DataError(
            f"{source}: column {column!r} mixes {' and '.join(sorted(counts))} values; document "
            f"{rows[kinds == rarest].iloc[0]} holds a {rarest}, "
            f"{_shown(values[kinds == rarest].iloc[0])}; write all of them alike"
        )


def _shown(value: object) -> str:
    return " ".join(repr(value).split())[:SHOWN]


def _texts(
    table: pd.DataFrame,
    rows: pd.Series,
    columns: dict[str, int | None],
    template: str,
    source: str,
) -> list[str]:
    parts = {}
    for column, words in columns.items():
        parts[column] = _cells(table, rows, column, source)
        if words is not None:
            parts[column] = parts[column].map(lambda text, n=words: " ".join(text.split()[:n]))
    cells = zip(*parts.values(), strict=True)
    if not template:
        return [". ".join(filter(None, row)) for row in cells]
    fill = _template(template, list(columns))
    return [fill(row).strip() if any(row) else "" for row in cells]


def _template(template: str, columns: list[str]) -> Callable[[Sequence[str]], str]:
    """The function that sets the cells of a row into a template, whatever columns are called.

    A field is a column's name in braces, as it is, or with a conversion or format behind it as in
    `str.format`; doubled braces stand for one.
    """
    names = "|".join(map(re.escape, sorted(columns, key=len, reverse=True)))
    known = rf"\{{({names})((?:![rsa])?(?::[^{{}}]*)?)\}}"
    field = re.compile(known + r"|\{\{|\}\}|\{([^{}]*)\}|[{}]")
    found = list(field.finditer(template))
    if lone := [match for match in found if match[0] in "{}"]:
        raise DataError(
            f"text_template: {template!r} is not valid: a single {lone[0][0]!r}; double it where "
            "it belongs to the text"
        )
    fields = {match[1] if match[1] is not None else match[3] for match in found} - {None}
    if fields != set(columns):
        raise DataError(
            f"text_template: fields {sorted(fields)} are not text_columns {sorted(columns)}"
        )

    def fill(row: Sequence[str]) -> str:
        cells = dict(zip(columns, row, strict=True))

        def value(match: re.Match) -> str:
            name, written = match[1], match[2]
            return match[0][0] if name is None else f"{{0{written}}}".format(cells[name])

        return field.sub(value, template)

    try:
        fill([""] * len(columns))
    except ValueError as error:
        raise DataError(f"text_template: {template!r} is not valid: {error}") from None
    return fill


def _from_column(
    column: pd.Series, rows: pd.Series, delimiter: str, source: str
) -> list[list[str] | None]:
    """The labels of each cell; an empty list where a set is empty, None where nothing stands."""
    labels, flat, flat_rows = [], [], []
    for row, value in zip(rows, column, strict=True):
        values = list(value) if _kind(value) == "list" else [value]
        if isinstance(value, str) and delimiter:
            values = value.split(delimiter)
        elif len(values) > 1 and "" in map(_kind, values):
            raise DataError(
                f"{source}: document {row}: {column.name!r} has an empty label in its list; name "
                "it or take it out"
            )
        flat += values
        flat_rows += [row] * len(values)
        found = list(dict.fromkeys(filter(None, map(plain, values))))
        # The labels of an empty set, joined by a delimiter, are an empty text.
        empty = not values or (isinstance(value, str) and bool(delimiter))
        labels.append(found if found or empty else None)
    cells = pd.Series(np.fromiter(flat, dtype=object, count=len(flat)))
    _refuse_kinds(cells, pd.Series(flat_rows), str(column.name), source)
    return labels


def columns_of_crosses(tables: Sequence[pd.DataFrame], columns: Sequence[str]) -> set[str]:
    """The indicator columns in which a blank cell is a no, because no table has another one there.

    A wholly blank column is one of them if all others are.
    """
    found = {
        name: {mark for t in tables if name in t for mark in _marks(as_objects(t[name]).map(plain))}
        for name in columns
    }
    bare = {name for name, marks in found.items() if not marks & NO}
    return bare if len(bare) == len(found) else {name for name in bare if found[name] & YES}


def _marks(cells: pd.Series) -> pd.Series:
    return cells.str.lower().str.replace(r"^([01])\.0+$", r"\1", regex=True)


def _from_indicators(
    table: pd.DataFrame, rows: pd.Series, columns: Sequence[str], crosses: Container, source: str
) -> list[list[str]]:
    """The columns that say yes, by row."""
    multi_hot = np.zeros((len(table), len(columns)), dtype=bool)
    for at, column in enumerate(columns):
        cells = _marks(_cells(table, rows, column, source))
        multi_hot[:, at] = yes = cells.isin(YES)
        other = ~yes & ~cells.isin(NO) & ~((cells == "") & (column in crosses))
        if other.any():
            row, value = rows[other].iloc[0], table[column][other].iloc[0]
            raise DataError(
                f"{source}: document {row}: {column!r} is {plain(value)!r}, neither 0 nor 1; write "
                "one of them"
            )
    return [[columns[c] for c in np.flatnonzero(row)] for row in multi_hot]


def _in_mode(documents: pd.DataFrame, mode: str, level: str, source: str) -> list[list[str]]:
    """Labels cut to their IPC level, and one, the first or all of them, as the mode says."""
    result = []
    for row, labels in zip(documents["row"], documents["labels"], strict=True):
        if level:
            try:
                labels = list(dict.fromkeys(cut_code(label, level) for label in labels))
            except ValueError as error:
                raise DataError(f"{source}: document {row}: {error}") from None
        if mode == "single" and len(labels) > 1:
            raise DataError(
                f"{source}: document {row} has {len(labels)} labels ({', '.join(labels[:3])}); "
                'set label_mode to "multi", or to "first" to take the first'
            )
        result.append(labels[:1] if mode == "first" else sorted(labels))
    return result
