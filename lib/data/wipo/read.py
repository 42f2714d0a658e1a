"""WIPO-Alpha, one XML file per patent: parsed once, in parallel and without entities.

C. J. Fall, A. Törcsvári, K. Benzineb, G. Karetka, "Automated categorization in the International
Patent Classification", ACM SIGIR Forum 37(1), 2003.
"""

import csv
import json
import logging
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from zipfile import BadZipFile, ZipFile, ZipInfo

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict
from joblib import Parallel, cpu_count, delayed

from lib.data.wipo.xml import PATHS, Chunk, FileEntry, open_archive, read_chunk
from lib.errors import DataError, ParamsError
from lib.fingerprints import code_fingerprint, modules_behind
from lib.ipc import LEVELS, cut_code
from lib.storage import ROOT, cached, read_json

CHUNK = 256  # files per task and per Parquet row group (our choice)
MAX_BAD_SHARE = 0.01  # share of the files that may be bad and is left out (our choice)
log = logging.getLogger(__name__)


def read_wipo_alpha(
    root: str | Path,
    *,
    level: str,
    fields: Sequence[str] = ("title", "abstract", "first_claim", "description"),
    description_words: int = 300,
) -> DatasetDict:
    """Train and test patents with the columns `id`, `labels` and the fields, ordered by path.

    The first call parses all files and caches the result as Parquet; later ones read that until a
    file's name, size or time changes, or the code that reads it. Up to 1 % of the files may be bad
    and are left out: malformed, without `pn`, split, text or well-formed main code, with an earlier
    file's `pn`, or above 16 MiB. They are listed with reasons in `bad.csv` beside the Parquet file,
    as are dropped malformed secondary codes.

    Parameters
    ----------
    root
        A directory or a `.zip` archive, relative to the project's root. Its XML files lie, at any
        depth, below a directory `train` or `test` (in either case; the topmost one counts). Links
        to directories are not followed.
    level
        Level of the labels, one of `lib.ipc.LEVELS`. Every level has the same documents.
    fields
        Text columns, of `lib.data.wipo.xml.PATHS`; in English, if a text is in several languages.
        `first_claim` is the first `<cl>`, cut before "2." if that element contains all claims.
    description_words
        Number of words of the description to keep, the first ones.

    Returns
    -------
    DatasetDict
        `id` str, the unique `pn`; `labels` list[str], main code first, then the distinct secondary
        ones in order; a str for each field, white space joined, "" where the file has none.

    Raises
    ------
    DataError
        There is nothing to read, the archive is unsafe, a split is empty, `fields` are unknown or
        too many files are bad; one line.
    ParamsError
        The level is unknown, or no word of the descriptions is kept.
    """
    _check_arguments(level, fields, description_words)
    root = (ROOT / root).resolve()
    if not root.is_dir() and not (root.is_file() and root.suffix.lower() == ".zip"):
        raise DataError(f"{root}: neither a directory nor a .zip archive; check the path")
    entries = sorted(_list_directory(root) if root.is_dir() else _list_archive(root))
    if not entries:
        raise DataError(f"{root}: no .xml file in it; name the folder that contains train and test")
    read = partial(read_chunk, root, fields=fields, description_words=description_words)
    folder = cached(
        "wipo",
        [str(root), entries, list(fields), description_words],
        lambda folder: _write(folder, _parse(read, entries, cpu_count()), fields),
        code=code_fingerprint(*modules_behind("data.wipo.read")),
    )
    _report(root, folder, len(entries))
    return DatasetDict(
        {split: _load_split(root, folder, split, level, fields) for split in ("train", "test")}
    )


def _check_arguments(level: str, fields: Sequence[str], description_words: int) -> None:
    if level not in LEVELS:
        raise ParamsError(
            f"label_level: WIPO-Alpha needs one of {', '.join(LEVELS)}; set the level of its codes"
        )
    if not fields or len(set(fields)) < len(fields) or not set(fields) <= set(PATHS):
        raise DataError(f"fields: {list(fields)} is not a choice from {', '.join(PATHS)}")
    if "description" in fields and description_words < 1:
        raise ParamsError(
            'text_columns: say how many words of a description, as in "description:300"'
        )


def _is_document(name: str) -> bool:
    base = name.rpartition("/")[2]
    return base.lower().endswith(".xml") and not base.startswith(".")  # ._1.xml: macOS metadata


def _list_directory(root: Path) -> Iterator[FileEntry]:
    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename}: cannot be read: {error.strerror}")

    for folder, _, names in os.walk(root, onerror=refuse):
        for path in (Path(folder, name) for name in names if _is_document(name)):
            try:
                info = path.stat()
            except OSError as error:  # a dangling link
                refuse(error)
            if not stat.S_ISREG(info.st_mode):
                raise DataError(f"{path}: no regular file but a pipe or device; remove it")
            if path.is_symlink() and not path.resolve().is_relative_to(root):
                raise DataError(f"{path}: a link that leads out of {root}; copy the file there")
            yield path.relative_to(root).as_posix(), info.st_size, info.st_mtime_ns


def _list_archive(root: Path) -> Iterator[FileEntry]:
    try:
        with ZipFile(root) as archive:
            members = {member.filename: member for member in archive.infolist()}  # last of a name
    except (BadZipFile, OSError) as error:
        raise DataError(f"{root}: not a readable .zip archive: {error}") from None
    for member in members.values():
        _refuse_unsafe(root, member)
        if _is_document(member.filename):
            yield member.filename, member.file_size, member.CRC


def _refuse_unsafe(root: Path, member: ZipInfo) -> None:
    """Raise `DataError` for a member of an archive that may lead out of it."""
    parts, fault = re.split(r"[/\\]", member.filename), ""
    if parts[0] == "" or re.match(r"[A-Za-z]:", parts[0]) or ".." in parts:
        fault = "has a path that leads out of the archive"
    elif stat.S_ISLNK(member.external_attr >> 16):
        fault = "is a symbolic link"
    if fault:
        raise DataError(f"{root}: member {member.filename!r} {fault}; use an archive without it")


def _parse(read: Callable, entries: list[FileEntry], num_workers: int) -> Iterator[Chunk]:
    """Chunks in the order of entries; of each worker up to four at a time are in memory."""
    chunks = [entries[i : i + CHUNK] for i in range(0, len(entries), CHUNK)]
    if num_workers == 1 or len(chunks) == 1:
        yield from map(read, chunks)
        open_archive.cache_clear()
        return
    with Parallel(num_workers, return_as="generator", batch_size=1) as parallel:
        for start in range(0, len(chunks), 4 * num_workers):
            yield from parallel(delayed(read)(c) for c in chunks[start : start + 4 * num_workers])


def _refuse_repeats(chunks: Iterator[Chunk]) -> Iterator[Chunk]:
    """The chunks; a document with the `pn` of an earlier file is a bad one."""
    first: dict[str, str] = {}  # file by `pn`
    for documents, bad, dropped in chunks:
        kept = []
        for document in documents:
            pn, file = document["id"], document["file"]
            if first.setdefault(pn, file) == file:
                kept.append(document)
            else:
                bad.append((file, f"pn {pn!r} is that of {first[pn]} too"))
        yield kept, bad, dropped


def _write(folder: Path, chunks: Iterator[Chunk], fields: Sequence[str]) -> None:
    """Write `documents.parquet`, `bad.csv` and `summary.json`, chunk by chunk."""
    text_columns = [(name, pa.string()) for name in ("id", "split", *fields)]
    schema = pa.schema([*text_columns, ("codes", pa.list_(pa.string()))])
    summary = {"num_bad": 0, "first_bad": None, "num_dropped": 0}
    listing = folder / "bad.csv"
    with (
        pq.ParquetWriter(folder / "documents.parquet", schema, compression="zstd") as writer,
        listing.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        rows = csv.writer(file)
        rows.writerow(("file", "reason"))
        for documents, bad, dropped in _refuse_repeats(chunks):
            summary["num_bad"] += len(bad)
            summary["first_bad"] = summary["first_bad"] or min(bad, default=None)
            summary["num_dropped"] += len(dropped)
            rows.writerows(sorted(bad + dropped))
            if documents:
                writer.write_table(pa.Table.from_pylist(documents, schema=schema))
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")


def _report(root: Path, folder: Path, num_files: int) -> None:
    """Log what was left out; raise `DataError` if that is too much."""
    summary, listing = read_json(folder / "summary.json"), folder / "bad.csv"
    if num_dropped := summary["num_dropped"]:
        log.warning("%s: dropped %d malformed secondary codes; see %s", root, num_dropped, listing)
    if not summary["num_bad"]:
        return
    path, reason = summary["first_bad"]
    share = summary["num_bad"] / num_files
    found = (
        f"{root}: {summary['num_bad']} of {num_files} files ({share:.2%}) cannot be used, "
        f"the first is {path}: {reason}; all are listed in {listing}"
    )
    if share > MAX_BAD_SHARE:
        raise DataError(f"{found}; repair or remove them (at most {MAX_BAD_SHARE:.2%} may be bad)")
    log.warning("%s", found)


def _load_split(root: Path, folder: Path, split: str, level: str, fields: Sequence[str]) -> Dataset:
    table = pq.read_table(
        folder / "documents.parquet",
        columns=["id", "codes", *fields],
        filters=[("split", "==", split)],
    )
    if not table.num_rows:
        raise DataError(f"{root}: no document below a directory {split!r}; both splits are needed")
    for field in fields:
        if not pc.any(pc.not_equal(table[field], "")).as_py():
            log.warning("%s: no document of %s has a text in %r", root, split, field)
    labels = [
        list(dict.fromkeys(cut_code(code, level) for code in codes))
        for codes in table["codes"].to_pylist()
    ]
    table = table.set_column(1, "labels", pa.array(labels, pa.list_(pa.string())))
    return Dataset(table, fingerprint=f"{folder.name}-{level}-{split}")
