"""From the rows of a table to documents: text, labels and id, each checked with its row."""

import string
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd

from lib.ipc import cut_code
from lib.reading import DataError, plain, require_columns


def column_and_words(entry: str) -> tuple[str, int | None]:
    """Column and number of words of an entry such as "description:300"; None for all words."""
    column, colon, words = entry.rpartition(":")
    return (column, int(words)) if colon and words.isdigit() else (entry, None)


def build_documents(
    table: pd.DataFrame,
    source: str,
    part: str,
    *,
    text_columns: Sequence[str],
    text_template: str,
    label_column: str,
    indicator_columns: Sequence[str],
    label_delimiter: str,
    label_mode: str,
    label_level: str,
    id_column: str,
    group_column: str,
    date_column: str,
) -> pd.DataFrame:
    """A part's `id text labels`, and `group` and `date` where asked for, checked row by row."""
    texts_of = dict(column_and_words(entry) for entry in text_columns)
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
        labels = _from_indicators(table, rows, indicator_columns, source)
    else:
        labels = _from_column(table, rows, label_column, label_delimiter, source)
    documents = pd.DataFrame({"text": texts, "labels": labels, "row": rows})
    if id_column:
        documents["id"] = _cells(table, rows, id_column, source)
    else:
        documents["id"] = part + "-" + rows.astype(str)
    for name, column in extra.items():
        documents[name] = _cells(table, rows, column, source)
    blank = (documents["text"] == "") & (documents["labels"].str.len() == 0)
    documents = documents[~blank].reset_index(drop=True)  # a wholly blank line is no document
    if documents.empty:
        raise DataError(f"{source}: holds no document")
    _refuse(documents, documents["text"] == "", source, "text is empty")
    _refuse(documents, documents["labels"].str.len() == 0, source, "no label")
    _refuse(documents, documents["id"] == "", source, "no id")
    if group_column:
        _refuse(documents, documents["group"] == "", source, "no group")
    if date_column:
        dates = pd.to_datetime(documents["date"], errors="coerce", utc=True, format="ISO8601")
        what = f"{date_column!r} is no ISO date such as 2020-12-31"
        _refuse(documents, dates.isna(), source, what)
        documents["date"] = dates
    documents["labels"] = _in_mode(documents, label_mode, label_level, source)
    return documents


def _refuse(documents: pd.DataFrame, fault: pd.Series, source: str, what: str) -> None:
    if fault.any():
        row = documents["row"][fault].iloc[0]
        raise DataError(
            f"{source}: document {row}: {what}; fill it in or remove the row"
            + (f" ({fault.sum()} such rows)" if fault.sum() > 1 else "")
        )


def _kind(value: object) -> str:
    if isinstance(value, (list, tuple, np.ndarray)):
        return "list"
    if isinstance(value, (dict, bytes)):
        return type(value).__name__
    if value is None or pd.isna(value) or (isinstance(value, str) and not value.strip()):
        return ""
    return "text" if isinstance(value, str) else "number"


def _cells(table: pd.DataFrame, rows: pd.Series, column: str, source: str) -> pd.Series:
    """A column as texts; refuses lists, bytes and other things, and texts among numbers."""
    values = table[column].astype(object)
    kinds = values.map(_kind)
    _refuse_kinds(kinds, rows, column, source)
    return values.map(plain)


def _refuse_kinds(kinds: pd.Series, rows: pd.Series, column: str, source: str) -> None:
    for kind in sorted(set(kinds) - {"", "text", "number"}):
        row = rows[kinds == kind].iloc[0]
        raise DataError(f"{source}: document {row}: {column!r} holds a {kind}, not a text")
    counts = Counter(kind for kind in kinds if kind)
    if len(counts) > 1:
        rarest = min(counts, key=counts.__getitem__)
        raise DataError(
            f"{source}: column {column!r} mixes {' and '.join(sorted(counts))} values; document "
            f"{rows[kinds == rarest].iloc[0]} holds a {rarest}"
        )


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
    try:
        fields = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
        if fields != set(columns):
            raise DataError(
                f"text_template: fields {sorted(fields)} are not text_columns {sorted(columns)}"
            )
        return [
            template.format(**dict(zip(parts, row, strict=True))).strip() if any(row) else ""
            for row in cells
        ]
    except DataError:
        raise
    except ValueError as error:
        raise DataError(f"text_template: {template!r} is not valid: {error}") from None


def _from_column(
    table: pd.DataFrame, rows: pd.Series, column: str, delimiter: str, source: str
) -> list[list[str]]:
    labels, kinds, kind_rows = [], [], []
    for row, value in zip(rows, table[column].astype(object), strict=True):
        values = list(value) if _kind(value) == "list" else [value]
        if isinstance(value, str):
            if value.lstrip().startswith("[") and value.rstrip().endswith("]"):
                raise DataError(
                    f"{source}: document {row}: {column!r} is {value!r}, a list written as text; "
                    "join the labels by a character and name it as label_delimiter"
                )
            values = value.split(delimiter) if delimiter else values
        elif len(values) > 1 and "" in map(_kind, values):
            raise DataError(f"{source}: document {row}: {column!r} has an empty label in its list")
        kinds += map(_kind, values)
        kind_rows += [row] * len(values)
        labels.append(values)
    _refuse_kinds(pd.Series(kinds, dtype=object), pd.Series(kind_rows), column, source)
    return [list(dict.fromkeys(filter(None, map(plain, values)))) for values in labels]


def _from_indicators(
    table: pd.DataFrame, rows: pd.Series, columns: Sequence[str], source: str
) -> list[list[str]]:
    cells = {column: _cells(table, rows, column, source) for column in columns}
    multi_hot = pd.DataFrame(cells).replace({"True": "1", "False": "0"})
    for column in columns:
        other = ~multi_hot[column].isin(["0", "1"])
        if other.any():
            row, value = rows[other].iloc[0], table[column][other].iloc[0]
            raise DataError(f"{source}: document {row}: {column!r} is {value!r}, neither 0 nor 1")
    values = (multi_hot == "1").to_numpy()
    return [[columns[c] for c in np.flatnonzero(row)] for row in values]


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
