"""Tables written a few rows at a time: CSV, TSV, JSON Lines and Parquet, by the file's ending."""

import contextlib
import csv
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from lib.errors import DataError

DELIMITERS = {".csv": ",", ".tsv": "\t"}
ENDINGS = (*DELIMITERS, ".jsonl", ".parquet")
UNFIT = (pa.ArrowException, TypeError, OverflowError)  # of values that Parquet does not take
Rows = Callable[[Mapping[str, Sequence[Any] | pd.Series]], None]  # writes columns of some rows


@contextlib.contextmanager
def open_table(path: Path, table: pd.DataFrame, added: Mapping[str, pa.DataType]) -> Iterator[Rows]:
    """A function that writes some rows, columns by name; the file is whole when the block ends.

    The file has the columns of `table`, whose rows tell their types, and behind them those `added`.
    Its ending is one of `ENDINGS`. Cells of CSV and TSV are texts: "" for a missing one, JSON for a
    list or an object. In JSON Lines dates and durations are texts; a number that is not finite is
    null.

    Raises `DataError` if a column has values of several kinds, which Parquet does not take.
    """
    names, ending = [*table.columns, *added], path.suffix.lower()
    if ending == ".parquet":
        fields = [_field(path, name, table[name]) for name in table.columns]
        schema = pa.schema([*fields, *(pa.field(name, kind) for name, kind in added.items())])
        with _one_kind(path):  # a column of objects without fields: its error contains the name
            writer = pq.ParquetWriter(path, schema)

        def write(columns: Mapping[str, Sequence[Any] | pd.Series]) -> None:
            with _one_kind(path):
                arrays = [pa.array(columns[f.name], f.type, from_pandas=True) for f in schema]
                writer.write_table(pa.Table.from_arrays(arrays, schema=schema))

        with writer:
            yield write
        return
    with path.open("w", encoding="utf-8", newline="") as file:
        if ending == ".jsonl":

            def line(row: Sequence[Any]) -> None:
                values = dict(zip(names, map(_plain, row), strict=True))
                file.write(json.dumps(values, ensure_ascii=False) + "\n")
        else:
            options = {"delimiter": DELIMITERS[ending], "lineterminator": "\n"}
            plain = csv.writer(file, **options)
            quoted = csv.writer(file, quoting=csv.QUOTE_ALL, **options)
            plain.writerow(names)

            def line(row: Sequence[Any]) -> None:
                cells = list(map(_cell, row))
                # Python quotes a lone carriage return only where it ends lines.
                (quoted if any("\r" in cell for cell in cells) else plain).writerow(cells)

        def write(columns: Mapping[str, Sequence[Any] | pd.Series]) -> None:
            for row in zip(*(columns[name] for name in names), strict=True):
                line(row)

        yield write


def _field(path: Path, name: str, column: pd.Series) -> pa.Field:
    """The column's name and type in Parquet."""
    with _one_kind(path, f"column {name!r}"):
        try:
            (field,) = pa.Schema.from_pandas(column.to_frame(name), preserve_index=False)
        except OverflowError:  # integers of 2^63 or more; Arrow's own choice is int64
            pa.array(column, pa.uint64(), from_pandas=True)
            field = pa.field(name, pa.uint64())
        return field


@contextlib.contextmanager
def _one_kind(path: Path, column: str = "a column") -> Iterator[None]:
    """A block that gives values to Arrow; those that it refuses are a `DataError`."""
    try:
        yield
    except UNFIT as error:
        raise DataError(
            f"{path.name}: {column} does not fit into Parquet ({' '.join(str(error).split())}); "
            "name the file .jsonl"
        ) from None


def _plain(value: Any) -> Any:
    """A value of a cell, or within one, as JSON takes it."""
    if isinstance(value, np.ndarray | np.generic):
        times = value.ndim and value.dtype.kind in "mM"  # NumPy makes numbers of nanoseconds
        value = list(pd.Series(value)) if times else value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, str | bool | int):
        return value
    if value is None or pd.isna(value):
        return None
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, date | time):
        return value.isoformat()
    return str(value) if isinstance(value, Decimal | timedelta) else repr(value)


def _cell(value: Any) -> str:
    """A cell of a delimited file."""
    if isinstance(value, str):
        return value
    value = _plain(value)
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False)
    return "" if value is None else str(value)
