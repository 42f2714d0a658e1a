"""From the rows of a table to documents: text, labels and id, each checked with its row."""

import logging
import re
from collections import Counter
from collections.abc import Callable, Container, Sequence
from datetime import date, datetime
from functools import partial

import numpy as np
import pandas as pd

from lib.config.data import DataParams
from lib.data.encodings import MAX_SHOWN
from lib.data.indicators import read_indicators
from lib.data.tables import as_objects, cell_text, require_columns
from lib.data.words import first_words
from lib.data.written_lists import MULTI_HOT, is_multi_hot, read_lists
from lib.errors import DataError
from lib.ipc import cut_code

log = logging.getLogger(__name__)

TIME = r"\d[T ]\d"  # where a time begins after a date
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
    params: DataParams,
    *,
    blank_is_no: Container[str],
) -> pd.DataFrame:
    """A part's `id text labels`, and `group` and `date` where asked for, checked row by row.

    Parameters
    ----------
    table, source, part
        Rows as they were read, the name of their file for messages, and that of their split.
    params
        The columns of texts, labels, ids, groups and dates.
    blank_is_no
        Indicator columns in which a blank cell means no: see `blank_means_no`.
    """
    # All columns must be there.
    texts_of = dict(column_and_words(entry, table.columns) for entry in params.text_columns)
    extra = {"id": params.id_column, "group": params.group_column, "date": params.date_column}
    extra = {name: column for name, column in extra.items() if column}
    of_labels = params.indicator_columns or [params.label_column]
    require_columns(table, [*texts_of, *of_labels, *extra.values()], source)
    if table.empty:
        raise DataError(f"{source}: contains no document")

    # Read texts, labels and the other columns of every row.
    rows = pd.Series(table.index + 1)  # of the whole file, also where a column marks splits
    table = table.reset_index(drop=True)
    documents = pd.DataFrame({"row": rows, "id": part + "-" + rows.astype(str)})
    documents["text"] = join_texts(table, rows, texts_of, params.text_template, source)
    documents["labels"], documents["blank_label"] = _labels(
        table, rows, params, blank_is_no, source
    )
    for name, column in extra.items():
        documents[name] = _cells(table, rows, column, source)

    # A wholly blank line is no document; in all others nothing may be missing.
    blank = (documents["text"] == "") & documents["blank_label"]
    documents = documents[~blank].reset_index(drop=True)
    if documents.empty:
        raise DataError(f"{source}: contains no document")
    empty = documents["text"] == ""
    documents = _settle(documents, empty, params, "empty_texts", source, "text is empty")
    # An empty set is an answer where a document may have several labels; a missing one is none.
    without = documents["labels"].isna()
    if params.unlabelled == "predict":  # nor is a blank cell
        without |= documents["blank_label"]
    if not params.multi_label:
        without |= documents["labels"].str.len() == 0
    documents = _settle(documents, without, params, "unlabelled", source, "no label")
    for name in extra:
        if name != "date":
            _refuse(documents, documents[name] == "", source, f"no {name}")

    # Give dates and labels the form that the study asks for.
    if params.date_column:
        documents["date"] = _dates(documents, params.date_column, source)
    documents["labels"] = _in_mode(documents, params.label_mode, params.label_level, source)
    return documents


def _settle(
    documents: pd.DataFrame, fault: pd.Series, params: DataParams, name: str, source: str, what: str
) -> pd.DataFrame:
    """The documents without those at fault, left out or refused as the parameter `name` says."""
    if getattr(params, name) == "error":
        other = DataParams.model_fields[name].annotation.__args__[1]
        _refuse(documents, fault, source, what, f', or write {name}: "{other}" to leave it out')
    if fault.all():
        raise DataError(f"{source}: {what} in every row")
    if fault.any():
        log.warning("%s: %d rows left out: %s (%s)", source, fault.sum(), what, name)
    return documents[~fault].reset_index(drop=True)


def _refuse(
    documents: pd.DataFrame, fault: pd.Series, source: str, what: str, remedy: str = ""
) -> None:
    if fault.any():
        row = documents["row"][fault].iloc[0]
        raise DataError(
            f"{source}: document {row}: {what}; fill it in or remove the row{remedy}"
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
    return values.map(cell_text)


def _refuse_kinds(values: pd.Series, rows: pd.Series, column: str, source: str) -> None:
    kinds = values.map(_kind)
    for kind in sorted(set(kinds) - {"", "text", "number", "boolean", "date"}):
        row, value = rows[kinds == kind].iloc[0], values[kinds == kind].iloc[0]
        raise DataError(
            f"{source}: document {row}: {column!r} contains a {kind}, not a text: "
            f"{_shown(value)}; write a text there"
        )
    counts = Counter(kind for kind in kinds if kind)
    if len(counts) > 1:
        rarest = min(counts, key=counts.__getitem__)
        raise DataError(
            f"{source}: column {column!r} mixes {' and '.join(sorted(counts))} values; document "
            f"{rows[kinds == rarest].iloc[0]} contains a {rarest}, "
            f"{_shown(values[kinds == rarest].iloc[0])}; write all of them alike"
        )


def _shown(value: object) -> str:
    return " ".join(repr(value).split())[:MAX_SHOWN]


def join_texts(
    table: pd.DataFrame,
    rows: pd.Series,
    columns: dict[str, int | None],
    template: str,
    source: str,
) -> list[str]:
    """The text of each row, of these columns and as many of their words; "" if all are empty."""
    parts = {}
    for column, words in columns.items():
        parts[column] = _cells(table, rows, column, source)
        if words is not None:
            parts[column] = parts[column].map(partial(first_words, number=words))
    cells = zip(*parts.values(), strict=True)
    if not template:
        return [". ".join(filter(None, row)) for row in cells]
    fill = _template(template, list(columns))
    return [fill(row).strip() if any(row) else "" for row in cells]


def _labels(
    table: pd.DataFrame,
    rows: pd.Series,
    params: DataParams,
    blank_is_no: Container[str],
    source: str,
) -> tuple[list[list[str] | None], np.ndarray]:
    """The labels of each row (see `_from_column`), and True for rows without any, (N,) bool."""
    if params.indicator_columns:
        cells = {c: _cells(table, rows, c, source) for c in params.indicator_columns}
        labels = read_indicators(cells, rows, blank_is_no, source)
        return labels, np.zeros(len(rows), dtype=bool)
    values = read_lists(as_objects(table[params.label_column]), rows, params.label_mode, source)
    labels = _from_column(values, rows, params.label_delimiter, source)
    return labels, (values.map(_kind) == "").to_numpy()


def _template(template: str, columns: list[str]) -> Callable[[Sequence[str]], str]:
    """A function that sets the cells of a row into a template, whatever the columns' names.

    A field is a column's name in braces, followed by a conversion or format as in `str.format`, if
    any; a doubled brace is a brace.
    """
    names = "|".join(map(re.escape, sorted(columns, key=len, reverse=True)))
    known_field = rf"\{{({names})((?:![rsa])?(?::[^{{}}]*)?)\}}"
    field = re.compile(known_field + r"|\{\{|\}\}|\{([^{}]*)\}|[{}]")
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
    """The labels of each cell: an empty list for an empty set, None for an empty cell."""
    labels, given, flat, flat_rows = [], [], [], []
    for row, value in zip(rows, column, strict=True):
        values = list(value) if _kind(value) == "list" else [value]
        if isinstance(value, str) and delimiter:
            values = value.split(delimiter)
        elif len(values) > 1 and "" in map(_kind, values):
            raise DataError(
                f"{source}: document {row}: {column.name!r} has an empty label in its list; name "
                "it or take it out"
            )
        given += [values] if _kind(value) else []
        flat += values
        flat_rows += [row] * len(values)
        found = list(dict.fromkeys(filter(None, map(cell_text, values))))
        # The labels of an empty set, joined by a delimiter, are an empty text.
        empty = not values or (isinstance(value, str) and bool(delimiter))
        labels.append(found if found or empty else None)
    if is_multi_hot(given):
        raise DataError(f"{source}: {column.name!r} {MULTI_HOT}")
    cells = pd.Series(np.fromiter(flat, dtype=object, count=len(flat)))
    _refuse_kinds(cells, pd.Series(flat_rows), str(column.name), source)
    return labels


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
