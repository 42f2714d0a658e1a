"""Tables of labelled documents as people have them: files, packages and hub data sets."""

import difflib
import re
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from datasets import ClassLabel, DownloadManager, Features, load_dataset, load_dataset_builder

from lib.config.data import DataParams
from lib.config.sources import require_data
from lib.data.delimited import DELIMITERS, read_delimited
from lib.data.encodings import MAX_SHOWN, PARQUET, kind_of
from lib.data.json_lines import ENDINGS as JSON_LINES
from lib.data.json_lines import read_json
from lib.errors import DataError, InputError
from lib.storage import ROOT, packaged_file

SPLITS = ("train", "validation", "test")
UNSPLIT = "document"  # the part of a file that is not split yet
TEXT_ENDINGS = (*DELIMITERS, *JSON_LINES)
ENDINGS = (*TEXT_ENDINGS, *(f"{ending}.gz" for ending in TEXT_ENDINGS), ".parquet")
WORKBOOKS = (".xlsx", ".xls", ".xlsm", ".ods", ".numbers")
LISTS = (list, tuple, np.ndarray)  # types of a cell with several values
WITH_NULLS = {"integer_object_nulls": True}  # beside nulls; as floats, large ones would be rounded
NUM_FIRST = 512  # bytes that tell the kind of a file
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(/[\w.-]+)?")


def read_parts(params: DataParams) -> dict[str, tuple[str, pd.DataFrame]]:
    """Source and table of each part of a data set, by the part's name; the source is for messages.

    The parts are those of "train", "validation" and "test" that have a name in `split_names`; a
    single file without split column is one part, `UNSPLIT`. Tables have the columns of their file,
    and rows keep their number in it.

    Raises `DataError` that names the file, the column or the split at fault.
    """
    dataset, revision = params.dataset, params.dataset_revision
    require_data(dataset)
    named = {part: name for part, name in zip(SPLITS, params.split_names, strict=True) if name}
    if "{split}" in dataset:
        paths = {part: _located(dataset.replace("{split}", name)) for part, name in named.items()}
        return {part: (str(path), _read_named(path)) for part, path in paths.items()}
    if (ROOT / dataset).is_dir() or is_hub_id(dataset):
        return {part: (dataset, _read_hub(dataset, name, revision)) for part, name in named.items()}
    path = _located(dataset)
    table = _read_named(path)
    if not (split_column := params.split_column):
        return {UNSPLIT: (str(path), table)}

    # One file whose column marks the splits.
    require_columns(table, [split_column], str(path))
    marks = cell_texts(table[split_column])
    for row, mark in marks.items():
        if mark not in named.values():
            raise DataError(
                f"{path}: document {row + 1}: {split_column!r} is {mark!r}, which is none of "
                f"split_names {list(named.values())}"
            )
    for name in named.values():
        if not (marks == name).any():
            raise DataError(f"{path}: no document is marked {name!r} in {split_column!r}")
    return {part: (str(path), table[marks == name]) for part, name in named.items()}


def _read_named(path: Path) -> pd.DataFrame:
    """A file's table; names stand for class numbers in Parquet that `datasets` has written."""
    table = read_table(path)
    if path.suffix.lower() != ".parquet":
        return table
    schema = pq.read_schema(path)
    if b"huggingface" not in (schema.metadata or {}):
        return table
    try:
        return _name_classes(table.copy(deep=False), Features.from_arrow_schema(schema))
    except (ValueError, TypeError, KeyError, IndexError):  # no schema of this version, or no name
        return table


def is_hub_id(dataset: str) -> bool:
    """True if the name is that of a data set on the hub, not of a file or folder."""
    is_local = (ROOT / dataset).exists() or dataset.lower().endswith(ENDINGS)
    return bool(HUB_ID.fullmatch(dataset)) and not is_local


def _located(source: str) -> Path:
    """The path of a file, which may be in a Python package."""
    if source.startswith("package:"):
        try:
            return packaged_file(source)
        except InputError as error:
            raise DataError(str(error)) from None
    if not (path := ROOT / source).is_file():
        raise DataError(f"{path}: no such data file")
    return path


def read_table(path: Path, name: str = "") -> pd.DataFrame:
    """The documents of a CSV, TSV, Orange `.tab`, JSON Lines or Parquet file, one per row.

    Cells of delimited files are strings. The index counts rows from 0; blank lines are counted but
    left out. The ending of `name`, by default of the path, decides the format, in upper or lower
    case; `.gz` may follow that of a text file. A `.json` file contains JSON Lines or one list of
    objects.

    Raises `DataError` if the file cannot be read, is neither UTF-8 nor has a byte order mark, is
    cut off, names a column twice, or has another ending.
    """
    suffixes = [suffix.lower() for suffix in Path(name or path).suffixes[-2:]]
    packed = suffixes[-1:] == [".gz"]
    ending = "".join(suffixes[-2:-1] if packed else suffixes[-1:])
    try:
        if ending in DELIMITERS:
            return read_delimited(path, ending, packed=packed)
        if ending in JSON_LINES:
            return read_json(path, ending, packed=packed)
        if ending == ".parquet" and not packed:
            _check_parquet(path)
            table = pd.read_parquet(path, to_pandas_kwargs=WITH_NULLS)
            table = table.reset_index(drop=table.index.names == [None])
            table.columns = table.columns.map(str)
            return table
    except DataError:
        raise
    except (ValueError, OSError) as error:
        raise DataError(f"{path}: cannot be read: {' '.join(str(error).split())}") from None
    remedy = "save its sheet as CSV UTF-8" if ending in WORKBOOKS else "convert the file"
    raise DataError(
        f"{path}: ending {''.join(suffixes[-1 - packed :])!r} is none of tab csv tsv jsonl ndjson "
        f"json parquet, nor one of text with .gz after it; {remedy}"
    )


def _check_parquet(path: Path) -> None:
    """Raise `DataError` for a file of another kind, and for two columns of one name."""
    with path.open("rb") as file:
        kind = kind_of(file.read(NUM_FIRST))
    if kind not in ("", PARQUET):
        raise DataError(f"{path}: is no Parquet but {kind}")
    names = pq.read_schema(path).names
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"{path}: column {doubled[0]!r} appears twice; rename one")


def _read_hub(dataset: str, split: str, revision: str) -> pd.DataFrame:
    """A split of a hub data set (or of a local folder in its form), with names of class labels.

    Delimited files are read as single ones are, because the hub's reader takes labels such as "NA"
    and "null" for missing ones.
    """
    folder = ROOT / dataset
    if folder.is_dir():
        path, config, revision = str(folder), None, None
        for file in folder.rglob("*"):
            if not (file.is_file() or file.is_dir()):  # a pipe could be read for ever
                raise DataError(f"{file}: a pipe, a device or a dangling link; remove it")
    else:  # owner/name or owner/name/config
        owner, name, *rest = dataset.split("/")
        path, config = f"{owner}/{name}", "".join(rest) or None
    try:
        builder = load_dataset_builder(path, config, revision=revision)
        files = [str(file) for file in (builder.config.data_files or {}).get(split, ())]
        if files and all(f.lower().removesuffix(".gz").endswith(tuple(DELIMITERS)) for f in files):
            parts = [read_table(Path(DownloadManager().download(f)), f) for f in files]
            table = pd.concat(parts, ignore_index=len(parts) > 1)
            return _name_classes(table, builder.info.features or Features())
        documents = load_dataset(path, config, split=split, revision=revision)
    except DataError:
        raise
    except Exception as error:  # each kind of source raises kinds of its own
        raise DataError(
            f"{dataset}: split {split!r} cannot be loaded as a hub data set or folder: "
            f"{' '.join(str(error).split())}"
        ) from None
    table = documents.with_format("arrow")[:].to_pandas(**WITH_NULLS)
    return _name_classes(table, documents.features)


def _name_classes(table: pd.DataFrame, features: Features) -> pd.DataFrame:
    """The table with the names of class labels in place of their numbers."""
    for column, feature in features.items():
        inner = getattr(feature, "feature", feature)  # of a list column
        if isinstance(inner, ClassLabel) and column in table:
            names = [_name_class(inner.names, value) for value in table[column]]
            table[column] = pd.Series(names, index=table.index, dtype=object)
    return table


def _name_class(names: Sequence[str], value: object) -> str | list | None:
    """The name of a class, or a list of names for several; None for -1 or null (not labelled)."""
    if isinstance(value, np.ndarray):
        return [_name_class(names, number) for number in value]
    if isinstance(value, str):  # of a delimited file: a number, or the name itself
        value = value.strip()
        if not re.fullmatch(r"-?\d+", value):
            return value or None
    return None if pd.isna(value) or int(value) < 0 else names[int(value)]


def cell_text(value: object) -> str:
    """A cell as text: "" for nothing, 3 for 3.0 (missing cells turn integers into floats).

    A date at midnight is written without its time, 2020-12-31, and a list as Python writes it.
    """
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, LISTS):
        return str(list(value))
    if value is None or pd.isna(value):
        return ""
    if isinstance(value, datetime):
        return str(value).removesuffix(" 00:00:00")
    whole = isinstance(value, (float, np.floating, Decimal)) and float(value).is_integer()
    return str(int(value)) if whole else str(value)


def cell_texts(column: pd.Series) -> pd.Series:
    """A column of texts: see `cell_text`."""
    return as_objects(column).map(cell_text)


def as_objects(column: pd.Series) -> pd.Series:
    """A column as objects; float16 and float32 stay so: 0.1 would get a double's further digits."""
    kind = column.dtype.type
    if not issubclass(kind, np.floating) or kind is np.float64:
        return column.astype(object)
    cells = [value if pd.isna(value) else kind(value) for value in column]
    return pd.Series(cells, index=column.index, name=column.name, dtype=object)


def require_columns(table: pd.DataFrame, columns: Sequence[str], source: str) -> None:
    """Raise `DataError` with the nearest name, unless the table has all the columns."""
    present = list(map(str, table.columns))
    if not (missing := [column for column in columns if column not in present]):
        return
    fault = f"{source}: no column {missing[0]!r}"
    # A name that is also a cell of its column is most likely a value itself.
    if any(str(name) in set(table[name].map(cell_text)) for name in table.columns):
        raise DataError(
            f"{fault}; the first line ({', '.join(present)[:MAX_SHOWN]}) contains values, not "
            "names: write the columns' names above it"
        )
    near = difflib.get_close_matches(missing[0], present, n=1, cutoff=0)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise DataError(f"{fault}{hint} (columns: {', '.join(present)[:300]})")
