"""Public data sets that `data/sources.yaml` describes: their files, checksums, licence and source.

`data/prepare.py` brings them; the reader of documents asks here for what a study needs.
"""

import os
import re
from functools import cache
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from lib.config.group import Count, Group, Name, Positive
from lib.config.strict_yaml import parse_params, read_yaml
from lib.errors import DataError, ParamsError
from lib.storage import ROOT, checksum

DATA = ROOT / "data"
SOURCES = DATA / "sources.yaml"


def _require_inside(path: str) -> str:
    """The path; `ValueError` if it leads out of its folder."""
    if Path(path).is_absolute() or ".." in Path(path).parts:
        raise ValueError(f"{path!r} leaves its folder; write a relative path without ..")
    return path


Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
RawPath = Annotated[str, AfterValidator(_require_inside)]
Address = Annotated[str, Field(pattern=r"^https?://[^/]+/")]


class RawFile(Group):
    """A public file as it is downloaded."""

    bytes: Positive  # its size
    sha256: Sha256  # checksum of its content, in hexadecimal digits


class Table(Group):
    """A file of documents that the data set becomes."""

    documents: Positive  # rows
    labels: Count  # different labels
    sha256: Sha256  # checksum of the file


class Source(Group):
    """A data set: where it comes from, what it becomes, and what one may do with it."""

    name: Name  # key in sources.yaml, and the folder in data/
    title: str  # what the documents and labels are
    homepage: str  # address of the data set's description
    cite: str  # publication that introduced it
    licence: str  # terms, in the words of the source where it has any
    use: str  # what these terms let a user do, in short
    version: str  # commit, release or date of the files
    addresses: list[Address] = []  # of files, in order; may have {version}, {path} and {sha256}
    files: dict[RawPath, RawFile] = {}  # downloaded files by their path
    tables: Annotated[dict[Name, Table], Field(min_length=1)]  # files in data/<name>/ by their name

    @property
    def folder(self) -> Path:
        """Folder of the tables."""
        return DATA / self.name

    @property
    def label(self) -> str:
        """Name and version, the latter cut to seven digits if it is a commit."""
        is_commit = re.fullmatch(r"[0-9a-f]{40}", self.version)
        return f"{self.name} {self.version[:7] if is_commit else self.version}"

    @property
    def is_complete(self) -> bool:
        """True if every table is there, with the content that is described."""
        return not any(self.fault(name) for name in self.tables)

    def fault(self, table: str) -> str:
        """Fault of a table of the folder, with its remedy; "" if it is as described."""
        path = self.folder / table
        place, command = path.relative_to(ROOT), f"`make data SETS={self.name}`"
        if path.exists() and not path.is_file():
            return f"{place}: is no file: remove it, then {command} brings the table"
        if not path.exists():
            return f"{place}: not on this machine yet; {command} brings it"
        found, described = checksum(path), self.tables[table].sha256
        if found == described:
            return ""
        restore = f"remove it, then {command} brings the right one"
        if not self.addresses:
            restore = f"`git checkout {place}` restores it"
        return (
            f"{place}: another file than data/sources.yaml describes (SHA-256 {found[:8]}…, not "
            f"{described[:8]}…): {restore}"
        )


@cache
def read_sources() -> dict[str, Source]:
    """The data sets of `data/sources.yaml` by name; `ParamsError` if an entry is no `Source`."""
    sources = {}
    for name, entry in read_yaml(SOURCES).items():
        where = f"data/sources.yaml: {name}"
        if not isinstance(entry, dict):
            raise ParamsError(f"{where}: expected keys and values, found {entry!r}")
        if name == "raw":
            raise ParamsError(f"{where}: is the folder of downloads; choose another name")
        sources[name] = parse_params(Source, {"name": name, **entry}, source=where)
    return sources


def source_of(dataset: str) -> Source | None:
    """The data set of `read_sources` that a parameter `dataset` names; None for all other data."""
    if not SOURCES.is_file():
        return None
    # A folder of data/ may be a link, and so may be a path that leads there.
    for path in (Path(os.path.normpath(ROOT / dataset)), (ROOT / dataset).resolve()):
        for folder in (path, path.parent):
            if folder.parent in (DATA, DATA.resolve()) and folder.name in read_sources():
                return read_sources()[folder.name]
    return None


def require_data(dataset: str) -> None:
    """Raise `DataError`, one line, if tables of a described data set are missing or have changed.

    All other data sets pass, and so do a user's own files in the folder of a described one.
    """
    if not (source := source_of(dataset)):
        return
    name = Path(dataset).name
    if name == source.name:
        ending = Path(next(iter(source.tables))).suffix
        raise DataError(
            f"{dataset}: a folder of tables; write data/{source.name}/{{split}}{ending}"
        )
    for table in source.tables if "{split}" in name else {name} & set(source.tables):
        if fault := source.fault(table):
            raise DataError(fault)
