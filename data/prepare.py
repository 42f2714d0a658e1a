"""Bring the public data sets of `sources.yaml`: download, check, convert, check again.

    python data/prepare.py [SET ...]       all sets if none is named

A set becomes the tables that the studies read, such as `data/<set>/train.jsonl`. The downloaded
files stay in `data/raw/<set>/`; a file that is put there by hand is not downloaded. DATA_MIRROR, an
address or a folder, stands in for the public hosts: `https://host/a/b` is `$DATA_MIRROR/a/b`.
"""

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import pooch
import requests
from conversions import CONVERSIONS, Raw
from filelock import FileLock, Timeout
from tqdm import tqdm

from lib.config.sources import DATA, SOURCES, RawFile, Source, read_sources, source_of
from lib.config.strict_yaml import suggestion
from lib.config.study import load_params, study_files
from lib.errors import DataError, DiskFullError, InputError
from lib.storage import ROOT, UNFINISHED, atomic_path, checksum

RAW = DATA / "raw"
MAX_SILENCE = 20  # seconds without an answer after which an address is given up
MIN_SPEED = 20_000  # bytes per second; a download may take as long, and two silences more
CHUNK = 1 << 16  # bytes that are read at a time

pooch.get_logger().setLevel("ERROR")  # the messages here name the set as well


class DownloadError(Exception):
    """An address does not give a file; the message says why, in the words after the address."""


class Progress:
    """The interface that pooch asks of a progress bar; all files of a set share one bar."""

    def __init__(self, bar: tqdm, output: Path, expected: int) -> None:
        self.bar, self.start, self.output, self.expected = bar, bar.n, output, expected

    def update(self, _: int) -> None:
        """Show what has arrived; pooch counts a whole chunk however short it is."""
        received = self.output.stat().st_size
        if received > self.expected:
            raise DownloadError(f"sends more than {self.expected:,} bytes")
        self.bar.update(self.start + received - self.bar.n)

    def reset(self) -> None:
        """Nothing: the size of the file is what counts."""

    def close(self) -> None:
        """Leave the bar to the next file."""


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise `DownloadError` if the block takes longer, even while single bytes trickle in."""

    def stop(*_: object) -> None:
        raise DownloadError(f"is too slow: not finished after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def prepare(source: Source, mirror: str) -> None:
    """Bring a set: its tables are there, and right, when this returns.

    Raises
    ------
    DataError
        One line that names set, file, address and remedy; nothing half-written is in place.
    """
    if source.is_complete:
        return
    with _alone(source.name):
        # Tables that are there must be right; leave when all are.
        wanted = []
        for name in source.tables:
            if not (source.folder / name).exists():
                wanted.append(name)
            elif fault := source.fault(name):
                raise DataError(f"{source.name}: {fault}")
        if not wanted:
            return
        if not (source.files and source.addresses):
            raise DataError(
                f"{source.name}: {source.folder / wanted[0]} is missing and has no address: "
                f"`git checkout data/{source.name}` restores it"
            )
        # Remove what a killed process has left.
        for folder in (RAW / source.name, source.folder):
            for unfinished in folder.rglob(f"{UNFINISHED}*"):
                shutil.rmtree(unfinished, ignore_errors=True)
        # Download, convert, check, and put in place.
        raw = raw_files(source, mirror)
        content = _tables(source, raw)
        _require_described(source, {name: content.get(name) for name in wanted})
        for name in wanted:
            with atomic_path(source.folder / name) as path:
                path.write_bytes(content[name])
                # As old as its description: a set that is brought again does not make finished
                # runs out of date, unless sources.yaml has changed since.
                os.utime(path, (SOURCES.stat().st_mtime,) * 2)


def raw_files(source: Source, mirror: str) -> Raw:
    """Checked files of a set by their path in sources.yaml, those that are missing downloaded.

    Raises
    ------
    DataError
        No address gives a file, or a file that was put there by hand is another one.
    """
    mirror = mirror.removeprefix("file://")
    is_folder = bool(mirror) and "://" not in mirror
    places, missing = {}, {}
    for path, file in source.files.items():
        place = RAW / source.name / path
        if not place.exists() and is_folder:
            url = _address(source, path, source.addresses[0])
            place = Path(mirror) / _without_host(url)
            if not place.exists():
                raise DataError(
                    f"{source.name}: {place}: no such file, and DATA_MIRROR is a folder: put "
                    f"{url} there, or unset DATA_MIRROR"
                )
        places[path] = place
        if not place.exists():
            missing[path] = place
        elif (place.stat().st_size, checksum(place)) != (file.bytes, file.sha256):
            raise DataError(
                f"{source.name}: {place}: another file than data/sources.yaml describes "
                f"({place.stat().st_size:,} bytes, not {file.bytes:,}, or other content): remove "
                f"it or put {_address(source, path, source.addresses[0])} there"
            )
    if missing:
        _download(source, missing, mirror)
    return places


def _address(source: Source, path: str, template: str) -> str:
    file = source.files[path]
    parts = {"{version}": source.version, "{path}": quote(path), "{sha256}": file.sha256}
    for name, value in parts.items():
        template = template.replace(name, value)
    return template


def _without_host(url: str) -> str:
    return unquote(urlsplit(url).path).lstrip("/")


def _download(source: Source, missing: Raw, mirror: str) -> None:
    """Download files to their places, each from the first address that gives it."""
    total = sum(source.files[path].bytes for path in missing)
    print(f"{source.name}: {total / 1e6:.1f} MB to download; licence: {source.licence}", flush=True)
    free = shutil.disk_usage(DATA).free
    if free < 3 * total:  # the tables are about as large as the files
        raise DataError(
            f"{source.name}: the disk of {DATA} has {free / 1e6:.0f} MB left and needs "
            f"{3 * total / 1e6:.0f}; make room"
        )
    with tqdm(total=total, unit="B", unit_scale=True, desc=source.name, disable=None) as bar:
        for path, place in missing.items():
            urls = [_address(source, path, template) for template in source.addresses]
            if mirror:  # stands in for all of them
                urls = [f"{mirror.rstrip('/')}/{quote(_without_host(urls[0]))}"]
            failures = []
            while not place.exists():
                if not urls:
                    raise DataError(
                        f"{source.name}: {Path(path).name}: {'; '.join(failures)}. Try again, set "
                        f"DATA_MIRROR to a copy, or put the file at {place}"
                    )
                try:
                    _retrieve(urls.pop(0), place, source.files[path], bar)
                except DownloadError as error:
                    failures.append(str(error))


def _retrieve(url: str, place: Path, file: RawFile, bar: tqdm) -> None:
    """Download a file; it is in its place only if its content is right.

    Raises
    ------
    DownloadError
        The address and why it does not give the file.
    """
    start, sizes = bar.n, []

    def download(url: str, output: str, pooch_: pooch.Pooch) -> None:
        progress = Progress(bar, Path(output), file.bytes)
        pooch.HTTPDownloader(progress, CHUNK, timeout=MAX_SILENCE)(url, output, pooch_)
        sizes.append(Path(output).stat().st_size)

    try:
        limit = 2 * MAX_SILENCE + file.bytes / MIN_SPEED
        with time_limit(limit), atomic_path(place) as unfinished:
            pooch.retrieve(
                url, file.sha256, unfinished.name, unfinished.parent, downloader=download
            )
            os.umask(umask := os.umask(0))
            unfinished.chmod(0o666 & ~umask)  # pooch's are their owner's alone
        return
    except DiskFullError:
        raise
    except DownloadError as error:
        reason = str(error)
    except requests.HTTPError as error:
        reason = f"answers {error.response.status_code} {error.response.reason}"
    except requests.Timeout:
        reason = f"does not answer for {MAX_SILENCE} s"
    except requests.exceptions.ChunkedEncodingError:
        reason = "breaks off"
    except requests.ConnectionError:
        reason = "cannot be reached"
    except requests.RequestException as error:
        reason = f"cannot be read ({type(error).__name__})"
    except ValueError as error:  # pooch: the checksum differs
        reason = f"cannot be read ({' '.join(str(error).split())[:80]})"
        if sizes:
            size = f"{sizes[0]:,} bytes, not {file.bytes:,}"
            differs = "other content" if sizes[0] == file.bytes else size
            reason = f"gives another file ({differs})"
    bar.update(start - bar.n)
    raise DownloadError(f"{url} {reason}")


def _tables(source: Source, raw: Raw) -> dict[str, bytes]:
    if source.name not in CONVERSIONS:  # the files are tables already
        content = {Path(path).name: file.read_bytes() for path, file in raw.items()}
        if len(content) < len(raw):
            raise DataError(f"{source.name}: two files have one name; write a conversion for it")
        return content
    try:
        tables = CONVERSIONS[source.name](raw)
    except Exception as error:  # a user's function may raise anything
        kind = type(error).__name__
        raise DataError(f"{source.name}: its conversion fails: {kind}: {error}") from error
    return {
        name: "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
        for name, rows in tables.items()
    }


def _require_described(source: Source, content: dict[str, bytes | None]) -> None:
    """Raise `DataError`, one line on all tables that are not as described."""
    faults = []
    for name, table in content.items():
        if table is None:
            faults.append(f"no file becomes {name}")
            continue
        described, found = source.tables[name], hashlib.sha256(table).hexdigest()
        if found != described.sha256:
            faults.append(f"{name} would have SHA-256 {found}, not {described.sha256}")
        elif name.endswith(".jsonl") and (rows := table.count(b"\n")) != described.documents:
            faults.append(f"{name} has {rows:,} documents, not {described.documents:,}")
    if faults:
        raise DataError(
            f"{source.name}: {'; '.join(faults)}; correct data/sources.yaml if the set has changed"
        )


@contextlib.contextmanager
def _alone(name: str) -> Iterator[None]:
    """Wait while another process prepares the same set."""
    lock = FileLock(DATA / f".{name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"{name}: waiting for another process that brings it", file=sys.stderr, flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def main(names: list[str]) -> None:
    """Prepare the named sets, or all; a set that fails does not keep the others back."""
    sources, faults = read_sources(), []
    for name in names:
        if name not in sources:
            raise DataError(f"{name}: no set of data/sources.yaml{suggestion(name, sources)}")
    for name in names or sources:
        source = sources[name]
        try:
            prepare(source, os.environ.get("DATA_MIRROR", ""))
        except DiskFullError as error:
            faults.append(f"{name}: {error}")
        except InputError as error:
            faults.append(str(error))
        except OSError as error:
            faults.append(f"{name}: {error.filename or DATA}: {error.strerror or error}")
        else:
            counts = " + ".join(f"{table.documents:,}" for table in source.tables.values())
            print(f"{name}: {counts} documents in {source.folder.relative_to(ROOT)}", flush=True)
    if faults:
        raise DataError("\n".join(faults))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("sets", nargs="*", metavar="SET", help="a name in data/sources.yaml")
    parser.add_argument("--of", metavar="STUDY", help="the set of a folder of params/, if any")
    try:
        options = parser.parse_args()
        if not options.of:
            main(options.sets)
        elif source := source_of(load_params(*study_files(options.of).common).dataset):
            main([source.name])
    except InputError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("interrupted; the next try goes on from here")
