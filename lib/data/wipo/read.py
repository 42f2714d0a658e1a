"""WIPO-Alpha, a patent an XML file: parsed once, in parallel and without entities, then Parquet.

C. J. Fall, A. Törcsvári, K. Benzineb, G. Karetka, "Automated categorization in the International
Patent Classification", ACM SIGIR Forum 37(1), 2003.
"""

import csv
import hashlib
import json
import logging
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import BadZipFile, ZipFile, ZipInfo

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict
from joblib import Parallel, cpu_count, delayed

from lib.data.wipo.xml import PATHS, Chunk, FileEntry, open_archive, read_chunk
from lib.errors import DataError
from lib.ipc import LEVELS, cut_code
from lib.storage import ROOT, code_fingerprint, modules_behind

CODE = code_fingerprint(*modules_behind("data.wipo.read"))  # part of the cache's key
CHUNK = 256  # files a task and a Parquet row group, chosen here
log = logging.getLogger(__name__)


def read_wipo_alpha(
    root: str | Path,
    *,
    level: str,
    fields: Sequence[str] = ("title", "abstract", "first_claim", "description"),
    description_words: int = 300,
    max_bad_share: float = 0.01,
    num_workers: int = 0,
    cache_dir: str | Path = ROOT / "runs" / "cache",
) -> DatasetDict:
    """Train and test patents with the columns `id`, `labels` and the fields, ordered by path.

    The first call parses all files and keeps the result as Parquet in `cache_dir`; later ones read
    that until a file's name, size or time changes, or the code that reads it. The level is applied
    to the cached codes.

    Parameters
    ----------
    root
        A directory or a `.zip` archive, which is not extracted; relative to the project's root.
        Its XML files lie, at any depth, below a directory `train` or `test` (in either case; the
        topmost one counts). Links to directories are not followed.
    level
        Of the labels; one of `lib.ipc.LEVELS`. Every level has the same documents.
    fields
        Text columns, of title, abstract, first_claim, claims, description and applicants. Where a
        text is given in several languages the English one is taken. `first_claim` is the first
        `<cl>`, cut before "2." if that holds all claims.
    description_words
        First words of the description to keep.
    max_bad_share
        Share of the files, in [0, 1], that may be bad and are left out: malformed, without `pn`,
        split, text or well-formed main code, with an earlier file's `pn`, or above 16 MiB. They
        are listed with reasons in `<cache>.bad.csv`, as are dropped malformed secondary codes.
    num_workers
        Processes that parse, 0 for one a CPU. The result does not depend on it.

    Returns
    -------
    DatasetDict
        `id` str, the unique `pn`; `labels` list[str], main code first, then the distinct secondary
        ones in order; a str for each field, white space joined, "" where the file has none.

    Raises
    ------
    DataError
        One line: nothing to read, an unsafe archive, an empty split or too many bad files.
    ValueError
        An argument is out of range.
    """
    _check_arguments(level, fields, description_words, max_bad_share)
    root, cache_dir = (ROOT / root).resolve(), ROOT / cache_dir
    if not root.is_dir() and not (root.is_file() and root.suffix.lower() == ".zip"):
        raise DataError(f"{root}: neither a directory nor a .zip archive; check the path")
    entries = sorted(_list_directory(root) if root.is_dir() else _list_archive(root))
    if not entries:
        raise DataError(f"{root}: no .xml file in it; name the folder that holds train and test")
    asked = [CODE, str(root), entries, list(fields), description_words]
    key = hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:32]
    cache = cache_dir / f"{key}.parquet"
    if not cache.is_file():
        read = partial(read_chunk, root, fields=fields, description_words=description_words)
        _write_cache(cache, _parse(read, entries, num_workers or cpu_count()), fields)
    _report(root, cache, len(entries), max_bad_share)
    return DatasetDict(
        {split: _load_split(root, cache, split, level, fields) for split in ("train", "test")}
    )


def _check_arguments(
    level: str, fields: Sequence[str], description_words: int, max_bad_share: float
) -> None:
    if level not in LEVELS:
        raise ValueError(f"level: {level!r} is not one of {', '.join(LEVELS)}")
    if not fields or len(set(fields)) < len(fields) or not set(fields) <= set(PATHS):
        raise DataError(f"fields: {list(fields)} is not a choice from {', '.join(PATHS)}")
    if description_words < 1:
        raise ValueError(f"description_words: {description_words} is below 1")
    if not 0 <= max_bad_share <= 1:
        raise ValueError(f"max_bad_share: {max_bad_share} is not in [0, 1]")


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
            yield path.relative_to(root).as_posix(), info.st_size, info.st_mtime_ns


def _list_archive(root: Path) -> Iterator[FileEntry]:
    try:
        with ZipFile(root) as archive:
            members = {member.filename: member for member in archive.infolist()}  # the last counts
    except (BadZipFile, OSError) as error:
        raise DataError(f"{root}: not a readable .zip archive: {error}") from None
    for member in members.values():
        _refuse_unsafe(root, member)
        if _is_document(member.filename):
            yield member.filename, member.file_size, member.CRC


def _refuse_unsafe(root: Path, member: ZipInfo) -> None:
    parts = re.split(r"[/\\]", member.filename)
    if parts[0] == "" or re.match(r"[A-Za-z]:", parts[0]) or ".." in parts:
        fault = "has a path that leads out of the archive"
    elif stat.S_ISLNK(member.external_attr >> 16):
        fault = "is a symbolic link"
    else:
        return
    raise DataError(f"{root}: member {member.filename!r} {fault}; use an archive without it")


def _parse(read: Callable, entries: list[FileEntry], num_workers: int) -> Iterator[Chunk]:
    """Chunks in the order of entries; at most four a worker are under way or wait."""
    chunks = [entries[i : i + CHUNK] for i in range(0, len(entries), CHUNK)]
    if num_workers == 1 or len(chunks) == 1:
        yield from map(read, chunks)
        open_archive.cache_clear()
        return
    with Parallel(num_workers, return_as="generator", batch_size=1) as parallel:
        for start in range(0, len(chunks), 4 * num_workers):
            yield from parallel(delayed(read)(c) for c in chunks[start : start + 4 * num_workers])


def _refuse_repeats(chunks: Iterator[Chunk]) -> Iterator[Chunk]:
    seen = {}
    for documents, bad, dropped in chunks:
        kept = [d for d in documents if seen.setdefault(d["id"], d["file"]) == d["file"]]
        bad += [
            (d["file"], f"pn {d['id']!r} is that of {seen[d['id']]} too")
            for d in documents
            if seen[d["id"]] != d["file"]
        ]
        yield kept, bad, dropped


def _write_cache(cache: Path, chunks: Iterator[Chunk], fields: Sequence[str]) -> None:
    text_columns = [(name, pa.string()) for name in ("id", "split", *fields)]
    schema = pa.schema([*text_columns, ("codes", pa.list_(pa.string()))])
    summary = {"num_bad": 0, "first_bad": None, "num_dropped": 0}
    cache.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=cache.parent, prefix=".unfinished-") as folder:
        parquet, listing = Path(folder, "parquet"), Path(folder, "csv")
        with (
            pq.ParquetWriter(parquet, schema, compression="zstd") as writer,
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
            writer.add_key_value_metadata({"wipo": json.dumps(summary)})
        os.replace(listing, cache.with_suffix(".bad.csv"))
        os.replace(parquet, cache)  # last: where it exists, everything does


def _report(root: Path, cache: Path, num_files: int, max_bad_share: float) -> None:
    summary = json.loads(pq.read_metadata(cache).metadata[b"wipo"])
    listing = cache.with_suffix(".bad.csv")
    if summary["num_dropped"]:
        log.warning(
            "%s: dropped %d malformed secondary codes; see %s",
            root, summary["num_dropped"], listing,
        )  # fmt: skip
    if not summary["num_bad"]:
        return
    path, reason = summary["first_bad"]
    share = summary["num_bad"] / num_files
    found = (
        f"{root}: {summary['num_bad']} of {num_files} files ({share:.2%}) cannot be used, "
        f"the first is {path}: {reason}; all are listed in {listing}"
    )
    if share > max_bad_share:
        raise DataError(f"{found}; repair or remove them (at most {max_bad_share:.2%} may be bad)")
    log.warning("%s", found)


def _load_split(root: Path, cache: Path, split: str, level: str, fields: Sequence[str]) -> Dataset:
    columns = ["id", "codes", *fields]
    table = pq.read_table(cache, columns=columns, filters=[("split", "==", split)])
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
    return Dataset(table, fingerprint=f"{cache.stem}-{level}-{split}")
