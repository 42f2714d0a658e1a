"""Texts without labels, to be classified, from the files that labelled documents come in."""

import io
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from lib.data.documents import join_texts, words_by_column
from lib.data.encodings import read_text
from lib.data.tables import read_table, require_columns
from lib.errors import DataError

LINES = ".txt"  # ending of a file with one text per line
LINE = "text"  # the column that these texts get


def read_unlabelled(
    path: Path, *, text_columns: Sequence[str], text_template: str
) -> tuple[pd.DataFrame, list[str]]:
    """The rows of a file with their columns as they are, and the text of each row.

    Columns become texts as in the study's documents (`lib.config.data`); a text is "" where they
    are empty. A `.txt` (or `.txt.gz`) has one text per line, blank lines too, and they become the
    column `LINE`; for other files see `lib.data.tables.read_table`.

    Raises `DataError` if the file is missing, cannot be read, has no text or no such column, or
    if one is named twice.
    """
    if not path.is_file():
        raise DataError(f"{path}: {'is no file' if path.exists() else 'no such data file'}")
    if has_lines(path):
        table, text_columns, text_template = _read_lines(path), [LINE], ""
    else:
        table = read_table(path)
    if table.empty:
        raise DataError(f"{path}: contains no document")
    columns = words_by_column(text_columns, str(path), table.columns)
    try:
        require_columns(table, list(columns), str(path))
    except DataError as error:
        raise DataError(f"{error}; --text names other columns") from None
    texts = join_texts(table, columns, text_template, str(path))
    if not any(texts):
        raise DataError(f"{path}: {', '.join(columns)}: every text is empty")
    return table.reset_index(drop=True), texts


def has_lines(path: Path) -> bool:
    """True if the file has one text per line, and no columns."""
    return Path(path.name.lower().removesuffix(".gz")).suffix == LINES


def _read_lines(path: Path) -> pd.DataFrame:
    try:
        text = read_text(path, packed=path.suffix.lower() == ".gz", table=False)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {' '.join(str(error).split())}") from None
    lines = [line.rstrip("\r\n") for line in io.StringIO(text, newline=None)]
    return pd.DataFrame({LINE: lines}, dtype=object)
