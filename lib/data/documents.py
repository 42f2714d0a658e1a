"""Documents from the rows of a table: text, labels and id; a fault is reported with its row."""

import logging
import re
from collections import Counter
from collections.abc import Container, Iterable
from datetime import date, datetime
from functools import partial

import numpy as np
import pandas as pd

from lib.config.data import DataParams
from lib.data.encodings import MAX_SHOWN
from lib.data.indicators import read_indicators
from lib.data.tables import LISTS, as_objects, cell_text, require_columns
from lib.data.words import first_words
from lib.data.written_lists import MULTI_HOT, is_multi_hot, read_lists
from lib.errors import DataError
from lib.ipc import cut_code

log = logging.getLogger(__name__)

TIME = r"\d[T ]\d"  # where a time begins after a date
ZONE = re.compile(TIME + r".*(?:Z|[+-]\d\d(?::?\d\d)?)$", re.IGNORECASE)


def words_by_column(
    entries: Iterable[str], source: str, columns: Container[str] = ()
) -> dict[str, int | None]:
    """Number of words by column, of entries such as "description:300"; None for all words.

    An entry that is itself the name of one of the `columns` is that column.

    Raises `DataError` if two entries are one column.
    """
    found = dict[str, int | None]()
    for entry in entries:
        column, colon, words = entry.rpartition(":")
        cut = colon and words.isdecimal() and entry not in columns
        column = column if cut else entry
        if column in found:
            raise DataError(f"{source}: column {column!r} is named twice as text; name it once")
        found[column] = int(words) if cut else None
    return found


def build_documents(
    table: pd.DataFrame, source: str, part: str, params: DataParams, blank_is_no: Container[str]
) -> pd.DataFrame:
    """The documents of a part, such as "train", checked row by row.

    `blank_is_no` is the result of `blank_means_no`; `source` names the file in messages.

    Returns
    -------
    DataFrame
        `id` and `text` str; `labels` list[str]; `blank_label` bool, True where the label's cell is
        blank; `group` str and `date` datetime in UTC, where the parameters name their columns. The
        index is that of `table`: the row's number in its file, from 0.

    Raises
    ------
    DataError
        A column is missing, or a row cannot be used; the message counts rows from 1.
    """
    # All columns must be there.
    texts_of = words_by_column(params.text_columns, source, table.columns)
    extra = {"id": params.id_column, "group": params.group_column, "date": params.date_column}
    extra = {name: column for name, column in extra.items() if column}
    of_labels = params.indicator_columns or [params.label_column]
    require_columns(table, [*texts_of, *of_labels, *extra.values()], source)
    if table.empty:
        raise DataError(f"{source}: contains no document")

    # Read texts, labels and the other columns of every row; the index counts those of the file.
    documents = pd.DataFrame({"id": [f"{part}-{at + 1}" for at in table.index]}, table.index)
    documents["text"] = join_texts(table, texts_of, params.text_template, source)
    documents["labels"], documents["blank_label"] = _labels(table, params, blank_is_no, source)
    for name, column in extra.items():
        documents[name] = _cells(table[column], source)

    # A row without text and label is no document; for others, parameters settle what is missing.
    documents = documents[(documents["text"] != "") | ~documents["blank_label"]]
    if documents.empty:
        raise DataError(f"{source}: contains no document")
    empty = documents["text"] == ""
    documents = _settle(documents, empty, params, "empty_texts", source, "text is empty")
    # An empty set is an answer where a document may have several labels; a missing one is none.
    without = documents["labels"].isna()
    if params.unlabelled == "predict":  # then a blank cell is no answer either
        without |= documents["blank_label"]
    if not params.multi_label:
        without |= documents["labels"].str.len() == 0
    documents = _settle(documents, without, params, "unlabelled", source, "no label")
    for name in extra:
        if name != "date":
            _refuse(documents[name] == "", source, f"no {name}")

    # Give dates and labels the form that the study asks for.
    if params.date_column:
        documents["date"] = _dates(documents["date"], params.date_column, source)
    documents["labels"] = _in_mode(documents["labels"], params, source)
    return documents


def _settle(
    documents: pd.DataFrame, fault: pd.Series, params: DataParams, name: str, source: str, what: str
) -> pd.DataFrame:
    """The documents without those at fault, left out or refused as the parameter `name` says."""
    if getattr(params, name) == "error":
        other = DataParams.model_fields[name].annotation.__args__[1]  # of its Literal
        _refuse(fault, source, what, f', or write {name}: "{other}" to leave it out')
    if fault.all():
        raise DataError(f"{source}: {what} in every row")
    if fault.any():
        log.warning("%s: %d rows left out: %s (%s)", source, fault.sum(), what, name)
    return documents[~fault]


def _refuse(fault: pd.Series, source: str, what: str, remedy: str = "") -> None:
    """Raise `DataError` that names the first row at fault, if there is one."""
    if fault.any():
        more = f" ({fault.sum()} such rows)" if fault.sum() > 1 else ""
        raise DataError(
            f"{source}: document {fault.idxmax() + 1}: {what}; fill it in or remove the row"
            f"{remedy}{more}"
        )


def _dates(written: pd.Series, column: str, source: str) -> pd.Series:
    """The dates as points in time, in UTC; if none has a time zone, all are taken as UTC."""
    dates = pd.to_datetime(written, errors="coerce", utc=True, format="ISO8601")
    _refuse(dates.isna(), source, f"{column!r} is no ISO date such as 2020-12-31")
    zoned, timed = written.str.contains(ZONE), written.str.contains(TIME, case=False)
    if zoned.any():
        what = f"{column!r} has a time without a time zone, other rows have one"
        _refuse(timed & ~zoned, source, what)
    return dates


def _kind(value: object) -> str:
    """The kind of a cell's value, as messages call it; "" for a missing one."""
    if isinstance(value, LISTS):
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


def _cells(column: pd.Series, source: str) -> pd.Series:
    """A column as texts; `DataError` for lists, objects or bytes, and for a mix of other kinds."""
    values = as_objects(column)
    _refuse_kinds(values, source)
    return values.map(cell_text)


def _refuse_kinds(values: pd.Series, source: str) -> None:
    """Raise `DataError` for values that are no plain ones, or of several kinds."""
    kinds, column = values.map(_kind), values.name

    def first(kind: str) -> tuple[int, str]:
        """The number of the first document with a value of a kind, and that value."""
        found = values[kinds == kind]
        return found.index[0] + 1, " ".join(repr(found.iloc[0]).split())[:MAX_SHOWN]

    for kind in sorted(set(kinds) - {"", "text", "number", "boolean", "date"}):
        row, shown = first(kind)
        raise DataError(
            f"{source}: document {row}: {column!r} contains a {kind}, not a text: {shown}; write a "
            "text there"
        )
    counts = Counter(kind for kind in kinds if kind)
    if len(counts) > 1:
        rarest = min(counts, key=counts.get)
        row, shown = first(rarest)
        raise DataError(
            f"{source}: column {column!r} mixes {' and '.join(sorted(counts))} values; document "
            f"{row} contains a {rarest}, {shown}; write all of them alike"
        )


def join_texts(
    table: pd.DataFrame, columns: dict[str, int | None], template: str, source: str
) -> list[str]:
    """The text of each row, joined from columns by the template; "" if all of them are empty.

    `columns` has the number of words to keep of each, None for all. Without a template, ". " joins
    the cells that are not empty.

    Raises `DataError` if a column contains other values than texts, or the template is not valid.
    """
    parts = {}
    for column, words in columns.items():
        parts[column] = _cells(table[column], source)
        if words is not None:
            parts[column] = parts[column].map(partial(first_words, number=words))
    cells = zip(*parts.values(), strict=True)
    if not template:
        return [". ".join(filter(None, row)) for row in cells]
    numbered = _numbered(template, list(columns))
    return [numbered.format(*row).strip() if any(row) else "" for row in cells]


def _labels(
    table: pd.DataFrame, params: DataParams, blank_is_no: Container[str], source: str
) -> tuple[list[list[str] | None], np.ndarray]:
    """The labels of each row (see `_from_column`), and True for rows without any, (N,) bool."""
    if params.indicator_columns:
        cells = table[params.indicator_columns].apply(_cells, source=source)
        labels = read_indicators(cells, blank_is_no, source)
        return labels, np.array([row is None for row in labels])
    values = read_lists(as_objects(table[params.label_column]), params.label_mode, source)
    labels = _from_column(values, params.label_delimiter, source)
    return labels, (values.map(_kind) == "").to_numpy()


def _numbered(template: str, columns: list[str]) -> str:
    """The template with columns by number, because `str.format` does not take every name."""
    # Found are a column's field, a doubled brace, any other field, or a lone brace.
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
    numbered = field.sub(
        lambda match: match[0] if match[1] is None else f"{{{columns.index(match[1])}{match[2]}}}",
        template,
    )

    try:
        numbered.format(*[""] * len(columns))
    except ValueError as error:
        raise DataError(f"text_template: {template!r} is not valid: {error}") from None
    return numbered


def _from_column(column: pd.Series, delimiter: str, source: str) -> list[list[str] | None]:
    """The labels of each cell: an empty list for an empty set, None for an empty cell."""
    labels, lists = [], []
    for at, value in column.items():
        values = list(value) if _kind(value) == "list" else [value]
        if isinstance(value, str) and delimiter:
            values = value.split(delimiter)
        elif len(values) > 1 and "" in map(_kind, values):
            raise DataError(
                f"{source}: document {at + 1}: {column.name!r} has an empty label in its list; "
                "name it or take it out"
            )
        lists.append(values)
        found = list(dict.fromkeys(filter(None, map(cell_text, values))))
        # The labels of an empty set, joined by a delimiter, are an empty text.
        empty = not values or (isinstance(value, str) and bool(delimiter))
        labels.append(found if found or empty else None)
    if is_multi_hot([values for value, values in zip(column, lists, strict=True) if _kind(value)]):
        raise DataError(f"{source}: {column.name!r} {MULTI_HOT}")
    _refuse_kinds(pd.Series(lists, column.index, object, column.name).explode(), source)
    return labels


def _in_mode(column: pd.Series, params: DataParams, source: str) -> list[list[str]]:
    """Labels cut to their IPC level, and one, the first or all of them, as the mode says."""
    result = []
    for at, labels in column.items():
        if params.label_level:
            try:
                codes = [cut_code(label, params.label_level) for label in labels]
                labels = list(dict.fromkeys(codes))
            except ValueError as error:
                raise DataError(f"{source}: document {at + 1}: {error}") from None
        if params.label_mode == "single" and len(labels) > 1:
            raise DataError(
                f"{source}: document {at + 1} has {len(labels)} labels ({', '.join(labels[:3])}); "
                'set label_mode to "multi", or to "first" to take the first'
            )
        result.append(labels[:1] if params.label_mode == "first" else sorted(labels))
    return result
