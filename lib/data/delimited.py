"""Text files as people have them, decoded, and their delimited cells; no row is lost in silence."""

import contextlib
import csv
import gzip
import io
import re
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import charset_normalizer
import numpy as np
import pandas as pd

from lib.errors import DataError

DELIMITERS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
OTHERS = ";\t,|"  # of a header without that of its ending; Excel's depends on the country
EXCEL = re.compile(r'"?sep=(.)"?(?=\r|\n)')  # a first line that tells Excel the delimiter
ORANGE_TYPES = {"continuous", "discrete", "string", "time", "c", "d", "s", "t"}
# Byte order marks, the longer first: that of UTF-32 begins as that of UTF-16 does.
MARKS = {
    b"\xff\xfe\x00\x00": "utf-32",
    b"\x00\x00\xfe\xff": "utf-32",
    b"\xef\xbb\xbf": "utf-8-sig",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
# First bytes of files that are no text, and what to do with them.
NO_TEXT = {
    b"PK\x03\x04": "a workbook or a zip archive; save its sheet as CSV UTF-8, or unpack it",
    b"\xd0\xcf\x11\xe0": "a workbook; save its sheet as CSV UTF-8",
    b"\x1f\x8b": "packed by gzip; let its name end in .gz",
    b"PAR1": "Parquet; let its name end in .parquet",
}
# The legacy encodings of the WHATWG Encoding Standard, as Python calls them; the Mac's left out.
LEGACY = [f"cp{n}" for n in (866, 874, *range(1250, 1259), 932, 949)]
LEGACY += [f"iso8859_{n}" for n in (2, 3, 4, 5, 6, 7, 8, 10, 13, 14, 15, 16)]
LEGACY += ["koi8_r", "koi8_u", "gb18030", "big5", "euc_jp"]
# Escape sequences of encodings of 7 bits (ISO 2022), whose bytes are valid UTF-8 too.
ISO_2022 = {b"B": "ISO-2022-JP", b"@": "ISO-2022-JP", b")C": "ISO-2022-KR", b")A": "ISO-2022-CN"}
ESCAPED = re.compile(rb"\x1b\$(B|@|\)C|\)A)")
COMMONEST = "cp1252"  # the first among equals, as in browsers for Western locales
# A Latin letter beside one of another alphabet, as in no word.
MIXED = re.compile(r"[A-Za-z][\u0370-\u0fff]|[\u0370-\u0fff][A-Za-z]")
# Our choices.
MAX_SAMPLE = 200_000  # bytes that the detector of encodings reads
EQUAL_MESS = 0.05  # difference in the detector's measure of mess that decides nothing
MAX_CANDIDATES = 4  # encodings that an error names
MAX_ROWS = 20  # by which a delimiter is judged
MAX_LINES = 1000  # among which an error looks for the one to show
MAX_SHOWN = 60  # characters of a line that an error shows
Record = tuple[int, int, list[str]]  # its first line and last line, from 1, and its cells


def read_text(path: Path, *, packed: bool = False) -> str:
    """The text of a file, unpacked with gzip if it is `packed`, without its byte order mark.

    A byte order mark decides the encoding; without one it is UTF-8.

    Raises
    ------
    DataError
        The bytes are of another encoding, and the message names those that are likely; or of a
        workbook, an archive or the like.
    """
    raw = gzip.decompress(path.read_bytes()) if packed else path.read_bytes()
    if kind := next((kind for mark, kind in NO_TEXT.items() if raw.startswith(mark)), ""):
        raise DataError(f"{path}: is no text but {kind}")
    encoding = next((name for mark, name in MARKS.items() if raw.startswith(mark)), "utf-8")
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        place = f"{path}: line {line}: not {encoding.removesuffix('-sig').upper()}"
        found = f"{place} (byte {error.object[error.start]:#04x})"
        raise DataError(f"{found}; {_advice(raw, encoding)}") from None
    if raw.isascii() and (found := ESCAPED.search(raw)):
        line, name = raw.count(b"\n", 0, found.start()) + 1, ISO_2022[found[1]]
        raise DataError(
            f"{path}: line {line} contains an escape sequence of {name}; convert the file, for "
            f"example with `iconv -f {name} -t UTF-8`"
        )
    if "\x00" in text:
        line = text.count("\n", 0, text.index("\x00")) + 1
        raise DataError(f"{path}: line {line} contains a zero byte; {_advice(raw, encoding)}")
    return text


def _advice(raw: bytes, encoding: str) -> str:
    """The remedy for bytes that are not of the expected encoding."""
    if encoding not in ("utf-8", "utf-8-sig"):
        return "it is damaged or cut off after its byte order mark; get the file anew"
    if b"\x00" in raw:
        order = "LE" if raw.index(b"\x00") % 2 else "BE"
        return (
            "if the file is UTF-16 without a byte order mark, convert it, for example with "
            f"`iconv -f UTF-16{order} -t UTF-8`"
        )
    replaced = raw.decode("utf-8", errors="replace")
    bad, good = (
        replaced.count("\ufffd"),
        sum(map(len, re.findall(r"[^\x00-\x7f\ufffd]+", replaced))),
    )
    if good > bad:
        return "most of the file is UTF-8; mend that line, which is damaged or of another encoding"
    # Only lines beyond ASCII distinguish encodings; one that they read differently is shown.
    lines = [line for line in raw.split(b"\n") if not line.isascii()]
    likely = _likely(raw, b"\n".join(lines)[:MAX_SAMPLE])
    if not likely:
        return "convert the file to UTF-8 from the encoding that it was written in"
    line = max(lines[:MAX_LINES], key=lambda line: len({line.decode(name) for name in likely}))
    names = [name.replace("_", "-").upper() for name in likely]
    where = "the line" if line == lines[0] else "a line"
    read = [
        f"{name}, as which {where} reads {_around(line.decode(encoding).strip())!r}"
        for name, encoding in zip(names, likely, strict=True)
    ]
    return (
        f"likely {', or '.join(read)}; if {'one' if len(read) > 1 else 'that'} is right, convert "
        f"the file, for example with `iconv -f {names[0]} -t UTF-8`"
    )


def _around(line: str) -> str:
    """As much of a line as an error shows, with its first character beyond ASCII."""
    at = next((i for i, character in enumerate(line) if not character.isascii()), 0)
    return line[max(0, at - MAX_SHOWN // 2) :][:MAX_SHOWN] if at >= MAX_SHOWN else line[:MAX_SHOWN]


def _likely(raw: bytes, sample: bytes) -> list[str]:
    """The legacy encodings that read a sample about equally well, the likeliest first.

    Of code pages that read it the same one is listed, Windows-1252, the commonest, if among them.
    """
    found: list[tuple[float, float, str]] = []
    for match in charset_normalizer.from_bytes(sample, cp_isolation=LEGACY):
        name = COMMONEST if COMMONEST in match.could_be_from_charset else match.encoding
        try:
            mixed = MIXED.search(sample.decode(name, errors="ignore")) is not None
            raw.decode(name)
        except UnicodeDecodeError:
            continue
        found.append((mixed + match.chaos, -match.coherence, name))
    found.sort(key=lambda entry: entry[0] >= 1)  # those that mix alphabets last
    even = [entry for entry in found if entry[0] <= found[0][0] + EQUAL_MESS]
    first = [name for *how, name in even if name == COMMONEST and how == list(even[0][:2])]
    return list(dict.fromkeys([*first, *(name for *_, name in even)]))[:MAX_CANDIDATES]


def read_delimited(path: Path, ending: str, *, packed: bool = False) -> pd.DataFrame:
    """The rows of a `.csv`, `.tsv` or Orange `.tab` file, as strings; None for cells left out.

    The delimiter is that of a first line `sep=;`, or of the header (`_delimiter`). Cells are quoted
    as in RFC 4180: a quotation mark opens at the start of a cell, closes before a delimiter or the
    end of a line, and is doubled within. A `.tab` has no quoting.

    Raises
    ------
    DataError
        A quotation mark is out of place, a row is longer than the header, or the header is missing,
        has two delimiters, names a column twice.
    """
    csv.field_size_limit(sys.maxsize)
    text = read_text(path, packed=packed)
    told = EXCEL.match(text) if ending != ".tab" else None
    delimiter = told[1] if told else _delimiter(path, text, ending)
    records = list(_records(path, text, delimiter, bool(told), ending != ".tab"))[bool(told) :]
    if not records or not any(records[0][2]):
        raise DataError(f"{path}: cannot be read: No columns; name them in line 1")
    header = [name or f"Unnamed: {i}" for i, name in enumerate(records[0][2])]
    _check_header(path, header)
    body = records[1:]
    if ending == ".tab":  # Orange: names, then types, then roles
        if not body or not {cell.lower() for cell in body[0][2]} & ORANGE_TYPES:
            raise DataError(f"{path}: line 2 does not contain Orange's column types; name it .tsv")
        body = body[2:]
    width, rows = len(header), []
    for row, (line, _, cells) in enumerate(body, start=1):
        if len(cells) > width and any(cell.strip() for cell in cells[width:]):
            remedy = f"quote a cell that contains {delimiter!r}"
            if width == 1:
                remedy += ", or remove a title above the columns' names"
            raise DataError(
                f"{path}: document {row} (line {line}) has {len(cells)} cells, the header {width}; "
                f"{remedy}: {delimiter.join(cells)[:MAX_SHOWN]!r}"
            )
        rows.append(cells[:width] + [None] * (width - len(cells)))
    if ending != ".tab":
        _refuse_escaped(path, text, records, delimiter)
        _refuse_swallowed(path, header, body, delimiter)
    table = pd.DataFrame(rows, columns=header, dtype=object)
    filled = [any(cell and cell.strip() for cell in row) for row in rows]
    return table.loc[np.array(filled, dtype=bool)]


def _delimiter(path: Path, text: str, ending: str) -> str:
    """The delimiter of the header, by default that of the ending.

    Of several it is the one by which the first rows have as many cells as the header.
    """
    own = DELIMITERS[ending]
    header = re.sub(r'"[^"]*"', "", re.split(r"[\r\n]", text, maxsplit=1)[0])
    found = [mark for mark in dict.fromkeys(own + OTHERS) if mark in header]
    if ending == ".tab" or not found:
        return own
    even = [mark for mark in found if _is_even(text, mark)] if len(found) > 1 else found
    if len(even) > 1:
        first, second = even[:2]
        raise DataError(
            f"{path}: {first!r} and {second!r} both give rows as long as the header; say which is "
            f"the delimiter in a first line: sep={first}"
        )
    return (even or found)[0]


def _is_even(text: str, delimiter: str) -> bool:
    """True if the first rows have as many cells as the header."""
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    with contextlib.suppress(csv.Error):
        return len({len(cells) for cells in islice(rows, MAX_ROWS) if cells}) == 1
    return False


def _records(path: Path, text: str, delimiter: str, header: int, quoted: bool) -> Iterator[Record]:
    quoting = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    lines = io.StringIO(text, newline="")
    reader = csv.reader(lines, delimiter=delimiter, quoting=quoting, strict=True)
    start, row = 1, 0
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error:
            raise _quotation_error(path, text, row - header, start, reader.line_num) from None
        yield start, reader.line_num, cells
        start, row = reader.line_num + 1, row + 1


def _quotation_error(path: Path, text: str, row: int, start: int, end: int) -> DataError:
    lines = list(io.StringIO(text, newline=""))
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


def _refuse_escaped(path: Path, text: str, records: list[Record], delimiter: str) -> None:
    """Raise `DataError` for a file that makes more rows if its quotation marks are escaped.

    Marks behind a backslash mostly stand where RFC 4180 has none; by chance two enclose a row.
    """
    lines = list(io.StringIO(text, newline=""))
    joined = (r for r in records if r[1] > r[0] and '\\"' in "".join(lines[r[0] - 1 : r[1]]))
    if (first := next(joined, None)) is None:
        return
    options = {"delimiter": delimiter, "doublequote": False, "escapechar": "\\", "strict": True}
    try:
        escaped = [cells for cells in csv.reader(io.StringIO(text, newline=""), **options) if cells]
    except csv.Error:
        return
    more = len(escaped) > sum(bool(cells) for _, _, cells in records)
    if more and {len(cells) for cells in escaped} == {len(first[2])}:
        raise _quotation_error(path, text, records.index(first), first[0], first[1])


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

    Proper cells of several lines stay. In a cell of swallowed rows, the first and the last line
    have as many cells as the header, and some of them are values of other rows in that column:
    both before and after the quoted cell, or, because an id is like no other, on one side if each
    line between has the cells of a row.
    """
    lines = cell.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    if len(lines) < 2:
        return False
    if delimiter == "\t" and delimiter in cell:  # no text contains tabs
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
    most = max(map(len, columns))  # of ids, say, where a value that is seen again proves nothing
    in_labels = any(
        v and v in values and 2 * len(values) <= most for v, values in (*after, *before)
    )
    return bool(sides) and (all(sides) or (in_labels and between))
