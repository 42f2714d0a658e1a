"""Delimited text files as people have them, cell by cell; no row is lost in silence."""

import contextlib
import csv
import io
import re
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd

from lib.data.encodings import MAX_SHOWN, read_text
from lib.errors import DataError

DELIMITERS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
OTHERS = ";\t,|"  # also looked for in a header; Excel's depends on the country
EXCEL = re.compile(r'(?i)"?sep=(.)"?(?=\r|\n)')  # a first line that tells Excel the delimiter
ORANGE_TYPES = {"continuous", "discrete", "string", "time", "c", "d", "s", "t"}
MAX_ROWS = 20  # by which a delimiter is judged; our choice
Record = tuple[int, int, list[str]]  # its first line and last line, from 1, and its cells


def read_delimited(path: Path, ending: str, *, packed: bool = False) -> pd.DataFrame:
    """The rows of a `.csv`, `.tsv` or Orange `.tab` file, as strings; None for cells left out.

    The delimiter is that of a first line such as `sep=;`, or else that of the header
    (`_delimiter`). Cells are quoted as in RFC 4180: a quotation mark opens at the start of a cell,
    closes before a delimiter or the end of a line, and is doubled within. A `.tab` has no quoting.
    The index counts rows from 0; blank rows are counted but left out.

    Raises `DataError` if a quotation mark is out of place, a row is longer than the header, or the
    header is missing, has two delimiters or names a column twice; also if lines are drawn below the
    header, or line 2 of a `.tab` does not contain Orange's types.
    """
    csv.field_size_limit(sys.maxsize)  # a text may be longer than Python's 131,072 characters
    # Cut the file into records; a line `sep=;` is one of its own, before the header.
    text = read_text(path, packed=packed)
    lines = list(io.StringIO(text, newline=""))
    told = EXCEL.match(text) if ending != ".tab" else None
    delimiter = told[1] if told else _delimiter(path, lines, ending)
    records = _records(path, lines, delimiter, bool(told), ending != ".tab")[bool(told) :]
    if not records or not any(records[0][2]):
        raise DataError(f"{path}: cannot be read: No columns; name them in line 1")
    header = [name or f"Unnamed: {i}" for i, name in enumerate(records[0][2])]
    _check_header(path, header)
    body = records[1:]
    if delimiter == "|" and body and _is_ruled(body[0][2]):
        raise DataError(
            f"{path}: line {body[0][0]} rules a table that is drawn, as in Markdown; save it as CSV"
        )
    if ending == ".tab":  # Orange: names, then types, then roles
        if not body or not {cell.lower() for cell in body[0][2]} & ORANGE_TYPES:
            raise DataError(f"{path}: line 2 does not contain Orange's column types; name it .tsv")
        body = body[2:]

    # Check the length of each row, and fill up short ones.
    width, rows = len(header), []
    for row, (line, _, cells) in enumerate(body, start=1):
        if len(cells) > width and any(cell.strip() for cell in cells[width:]):
            remedy = f"quote a cell that contains {delimiter!r}"
            if width == 1:
                remedy += ", or remove a title above the columns' names"
            elif {len(cells) for _, _, cells in body if cells} == {width + 1}:
                remedy = "so has every row: name the column of row names too (R: col.names = NA)"
            raise DataError(
                f"{path}: document {row} (line {line}) has {len(cells)} cells, the header {width}; "
                f"{remedy}: {delimiter.join(cells)[:MAX_SHOWN]!r}"
            )
        rows.append(cells[:width] + [None] * (width - len(cells)))
    if ending != ".tab":
        _refuse_escaped(path, lines, records, delimiter)
        _refuse_swallowed(path, header, body, delimiter)
    table = pd.DataFrame(rows, columns=header, dtype=object)
    filled = [any(cell and cell.strip() for cell in row) for row in rows]
    return table.loc[np.array(filled, dtype=bool)]


def _delimiter(path: Path, lines: list[str], ending: str) -> str:
    """The delimiter of the header, by default that of the ending.

    If the header contains several, it is the one by which the first rows are as long as the header.
    """
    own = DELIMITERS[ending]
    header = re.sub(r'"[^"]*"', "", "".join(lines[:1]))
    found = [mark for mark in dict.fromkeys(own + OTHERS) if mark in header]
    if ending == ".tab" or not found:
        return own
    even = [mark for mark in found if _is_even(lines, mark)] if len(found) > 1 else found
    if len(even) > 1:
        first, second = even[:2]
        raise DataError(
            f"{path}: {first!r} and {second!r} both give rows as long as the header; say which is "
            f"the delimiter in a first line: sep={first}"
        )
    return (even or found)[0]


def _is_even(lines: list[str], delimiter: str) -> bool:
    """True if the first rows have as many cells as the header."""
    with contextlib.suppress(csv.Error):
        rows = islice(csv.reader(lines, delimiter=delimiter), MAX_ROWS)
        return len({len(cells) for cells in rows if cells}) == 1
    return False


def _records(
    path: Path, lines: list[str], delimiter: str, header: int, quoted: bool
) -> list[Record]:
    """All records; `header` is the header's place among them, 1 behind a line `sep=;`, else 0."""
    quoting = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    reader = csv.reader(lines, delimiter=delimiter, quoting=quoting, strict=True)
    records, start = [], 1
    try:
        for cells in reader:
            records.append((start, reader.line_num, cells))
            start = reader.line_num + 1
    except csv.Error:
        row = len(records) - header
        raise _quotation_error(path, lines, row, start, reader.line_num) from None
    return records


def _quotation_error(path: Path, lines: list[str], row: int, start: int, end: int) -> DataError:
    record = "".join(lines[start - 1 : end])
    where = f"{path}: document {row} (line {start})" if row else f"{path}: the header"
    shown = repr(lines[start - 1].rstrip("\r\n")[:MAX_SHOWN])
    if '\\"' in record:
        fault = "a quotation mark is escaped by a backslash"
    elif end == start and record.count('"') % 2 == 0:
        fault = "a quotation mark closes before the end of its cell"
    else:
        fault = "a quotation mark opens a cell and swallows the rows after it"
    return DataError(f'{where}: {fault}: {shown}; quote the whole cell and double ("") those in it')


def _check_header(path: Path, header: list[str]) -> None:
    if len(header) == 1 and (found := re.findall(r"[;,\t|]", header[0])):
        raise DataError(
            f"{path}: the header {header[0]!r} is one column; is {found[0]!r} the delimiter? "
            "A .tab has tabs"
        )
    if doubled := sorted({name for name in header if header.count(name) > 1}):
        raise DataError(f"{path}: column {doubled[0]!r} appears twice in the header; rename one")


def _is_ruled(cells: list[str]) -> bool:
    """True for the line below a header as Markdown draws it, `--- | :-:`, or psql, `--+--`."""
    drawn = [cell.strip() for cell in cells if cell.strip()]
    return bool(drawn) and all(re.fullmatch(r":?--[-+]*:?|:-:?|-:", cell) for cell in drawn)


def _refuse_escaped(path: Path, lines: list[str], records: list[Record], delimiter: str) -> None:
    r"""Raise `DataError` for a file that has more rows if `\"` is read as an escaped mark.

    RFC 4180 has no such escape, and mostly no mark at that place: the reader has then failed
    before. By chance, however, two such marks enclose the end of a row and the start of another.
    """
    joined = (r for r in records if r[1] > r[0] and '\\"' in "".join(lines[r[0] - 1 : r[1]]))
    if (first := next(joined, None)) is None:
        return
    options = {"delimiter": delimiter, "doublequote": False, "escapechar": "\\", "strict": True}
    try:
        escaped = [cells for cells in csv.reader(lines, **options) if cells]
    except csv.Error:
        return
    more = len(escaped) > sum(bool(cells) for _, _, cells in records)
    if more and {len(cells) for cells in escaped} == {len(first[2])}:
        raise _quotation_error(path, lines, records.index(first), first[0], first[1])


def _refuse_swallowed(path: Path, header: list[str], body: list[Record], delimiter: str) -> None:
    """Raise `DataError` for a cell of several lines that are rows themselves."""
    columns: list[set[str]] = [set() for _ in header]  # the values of one line in each column
    for _, _, cells in body:
        for values, cell in zip(columns, cells, strict=False):
            values.update([cell] if "\n" not in cell else ())
    for row, (start, end, cells) in enumerate(body, start=1):
        for at, cell in enumerate(cells if end > start else ()):
            if _swallows(cell, at, len(cells), columns, delimiter):
                raise DataError(
                    f"{path}: document {row} (line {start}): a quotation mark opens {header[at]!r} "
                    f"and swallows the rows after it: {cell.splitlines()[0][:MAX_SHOWN]!r}; "
                    "double it, or quote the whole cell"
                )


def _swallows(cell: str, at: int, width: int, columns: list[set[str]], delimiter: str) -> bool:
    """True if a cell contains rows: its opening quotation mark was closed by that of a later row.

    Such a cell begins with the end of one row and ends with the beginning of another:

        1,"a text,spam
        2,another,ham
        3,third",spam       the cell: a text,spam | 2,another,ham | 3,third

    The cells around the text, here "spam" on one side and "3" on the other, then belong to rows. It
    is proof if both sides have a value that other rows have in that column. An id is like no other:
    one side is enough if its column repeats values, as labels do, and each line in between is as
    long as a row.
    """
    lines = cell.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    if len(lines) < 2:
        return False
    if delimiter == "\t" and delimiter in cell:  # cells of such a file contain no tabs
        return True

    # Cells of the first line after the quoted one, and of the last line before it.
    first, last = lines[0].split(delimiter), lines[-1].split(delimiter)
    if at + len(first) != width or len(last) != at + 1:
        return False
    after = list(zip(first[1:], columns[at + 1 :], strict=False))
    before = list(zip(last[:-1], columns[:at], strict=False))

    # Sides on which some cell is a value of its column.
    sides = [any(v and v in values for v, values in cells) for cells in (after, before) if cells]
    between = all(line.count(delimiter) == width - 1 for line in lines[1:-1] if line)
    most = max(map(len, columns))  # values of the most varied column, such as ids
    in_labels = any(
        v and v in values and 2 * len(values) <= most for v, values in (*after, *before)
    )
    return bool(sides) and (all(sides) or (in_labels and between))
