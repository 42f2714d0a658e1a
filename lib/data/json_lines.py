"""Tables of JSON: one object per line, or a list of objects."""

import io
import json
from pathlib import Path

import pandas as pd

from lib.data.encodings import read_text
from lib.errors import DataError

ENDINGS = (".jsonl", ".ndjson", ".json")


def read_json(path: Path, ending: str, *, packed: bool = False) -> pd.DataFrame:
    """The rows of a file of JSON Lines; a `.json` file may be one list of objects instead.

    The index counts rows from 0; blank lines are counted but left out.

    Raises `DataError` if a line or an item is no object, names a column twice, or is not JSON.
    """
    text = read_text(path, packed=packed)
    whole = ending == ".json" and text.lstrip().startswith("[")
    return _from_list(path, text) if whole else _from_lines(path, text)


def _from_lines(path: Path, text: str) -> pd.DataFrame:
    rows = []
    for number, line in enumerate(io.StringIO(text, newline=None), start=1):
        row = parse_json(line, f"{path}: line {number}") if line.strip() else {}
        if not isinstance(row, dict):
            raise DataError(f"{path}: line {number} is not a JSON object with named columns")
        rows.append(row)
    filled = [row for row in rows if row]
    if len(filled) == 1 and all(isinstance(value, (dict, list)) for value in filled[0].values()):
        raise DataError(f"{path}: is one JSON object of columns; write an object for each row")
    # As objects: beside a missing cell, integers would turn into floats, and long ids into others.
    return pd.DataFrame(rows, dtype=object)[list(map(bool, rows))]


def parse_json(text: str, place: str) -> object:
    """The value of a JSON text; raises `DataError`, which opens with `place`, if it has none."""
    try:
        value = json.loads(text, object_pairs_hook=_distinct)
        json.dumps(value, ensure_ascii=False).encode()  # fails for a lone surrogate
    except UnicodeEncodeError as error:
        half = f"\\u{ord(error.object[error.start]):04x}"
        fault = (
            f"contains a lone surrogate, {half} (half of an emoji, for example); write the full "
            "character"
        )
    except RecursionError:
        fault = "nests lists or objects too deeply; write an object of plain values on each line"
    except ValueError as error:
        fault = f"is not JSON: {error}; write an object on each line"
    else:
        return value
    raise DataError(f"{place} {fault}")


def _from_list(path: Path, text: str) -> pd.DataFrame:
    """The rows of a file that is one JSON list of objects."""
    rows = parse_json(text, f"{path}:")
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise DataError(f"{path}: item {number} is not a JSON object with named columns")
    return pd.DataFrame(rows, dtype=object)


def _distinct(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """The object of these pairs; `ValueError` for a name that comes twice."""
    names = [name for name, _ in pairs]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{doubled[0]!r} appears twice")
    return dict(pairs)
