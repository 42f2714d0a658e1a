"""Files written whole or not at all, packaged files verified, results cached.

A cached result is a folder of files that does not change once it is there:

    runs/cache/<kind>/<hash of the inputs and of the code that computes>/
        ids.npy lengths.npy ...     arrays (npy), JSON, Parquet, safetensors: no pickle
        checksums.json              name: [bytes, SHA-256], of each of them
"""

import base64
import contextlib
import errno
import hashlib
import json
import logging
import os
import shutil
import stat
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any

from lib.errors import DiskFullError, InputError

log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / "runs" / "cache"
CHECKSUMS = "checksums.json"
MAX_JSON = 2**27  # bytes of a JSON file; tokenizers of large models have 2**25 (our choice)
MAX_SHARE = 0.5  # of the free disk, for one cached result (our choice)
NO_ROOM = 2**16  # free bytes of a disk that is as good as full (our choice)
UNFINISHED = ".unfinished-"
ABANDONED_AFTER = 24 * 3600  # seconds since the last change of an unfinished folder (our choice)

_checksums: dict[tuple[int, ...], str] = {}  # SHA-256 by the identity of a file (`checksum`)


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends without an error.

    After an error, what was at `path` before stays. Raises `DiskFullError` if there is no room, and
    `OSError` if a folder is at `path` that would have to be replaced but is not empty.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=UNFINISHED) as folder:
        unfinished = Path(folder) / path.name
        with room_for(path):
            yield unfinished
            _to_disk(unfinished, *unfinished.rglob("*"))
            unfinished.replace(path)
            _to_disk(path.parent)


@contextlib.contextmanager
def room_for(path: Path) -> Iterator[None]:
    """A block that writes a file or folder; a full disk is a `DiskFullError`.

    Any error counts as that of a full disk if less than `NO_ROOM` is left on it, because torch and
    safetensors report a full disk as errors of their own.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        told = getattr(error, "errno", None) == errno.ENOSPC
        place = next(place for place in (path, *path.parents) if place.exists())
        if told or shutil.disk_usage(place).free < NO_ROOM:
            raise DiskFullError(f"{path}: no space left on disk; make room") from error
        raise


def _to_disk(*paths: Path) -> None:
    """Flush files and folders to the disk, so that they survive a power cut."""
    for path in (path for path in paths if path.is_file() or path.is_dir()):
        place = os.open(path, os.O_RDONLY)
        try:
            os.fsync(place)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that cannot
                raise
        finally:
            os.close(place)


def checksum(path: Path) -> str:
    """SHA-256 of a file in 64 hexadecimal digits, read once as long as its size and time stay."""
    about = path.stat()
    identity = (about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns)
    if identity not in _checksums:
        with path.open("rb") as file:
            _checksums[identity] = hashlib.file_digest(file, "sha256").hexdigest()
    return _checksums[identity]


@cache
def packaged_file(location: str) -> Path:
    """Path of `package:<python package>/<file or folder>`, verified, once per process.

    The package is never imported. Raises `InputError` if no installed distribution contains that
    file, or if the file differs from the checksum that its wheel recorded.
    """
    wanted, owner, files = _distributed(location)
    for file in files:
        _require_unchanged(file, owner)
    return Path(metadata.distribution(owner).locate_file(wanted))


def owner_of(location: str) -> str:
    """Name of the installed distribution that contains `package:<python package>/<file>`.

    Raises `InputError` if there is none.
    """
    return _distributed(location)[1]


@cache
def _distributed(location: str) -> tuple[PurePosixPath, str, list[metadata.PackagePath]]:
    """The path within its distribution, that distribution's name, and the files there."""
    package, _, inner = location.removeprefix("package:").partition("/")
    wanted = PurePosixPath(package.replace(".", "/"), inner)
    for owner in _owners(package.split(".")[0]):
        files = [f for f in metadata.files(owner) or [] if f == wanted or wanted in f.parents]
        if files:
            return wanted, owner, files
    raise InputError(f"{location}: no installed package contains {wanted}; run `make install`")


def _owners(package: str) -> Iterator[str]:
    """Distributions that may contain a package: first that of its name, found without a search."""
    with contextlib.suppress(metadata.PackageNotFoundError):
        yield metadata.distribution(package).name
    yield from metadata.packages_distributions().get(package, [])


def _require_unchanged(file: metadata.PackagePath, owner: str) -> None:
    """Raise `InputError` if a file of the distribution `owner` is not as its wheel recorded it."""
    path = Path(file.locate())
    if file.hash is None or file.hash.mode != "sha256":
        return
    recorded = base64.urlsafe_b64decode(f"{file.hash.value}=")  # without padding there (PEP 376)
    try:
        found = checksum(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}; reinstall {owner}") from None
    if found != recorded.hex():
        raise InputError(f"{path}: checksum differs from that of its package; reinstall {owner}")


def cached(kind: str, key: Any, write: Callable[[Path], None], *, code: str) -> Path:
    """Folder of the files that `write` makes in an empty one, computed once per key and code.

    A folder that is damaged (`find_fault`) is computed anew. Files are verified once per process.
    `kind` is a folder of the cache, such as "tokens". `code` is the fingerprint of the code that
    computes (`lib.fingerprints`), and `key` is all else that decides the content, as JSON takes it.
    """
    identity = hashlib.sha256(json.dumps([key, code], sort_keys=True).encode()).hexdigest()[:32]
    folder = CACHE / kind / identity
    found = _inode(folder)
    fault = find_fault(folder)
    if not fault:
        return folder
    if found and _inode(folder) == found:  # else another process has mended it
        log.warning("%s: %s; computing it anew", folder, fault)
        remove(folder)
    _remove_abandoned(folder.parent)
    # All files of the folder appear at once, those that verify it among them.
    try:
        with atomic_path(folder) as unfinished:
            unfinished.mkdir()
            write(unfinished)
            write_checksums(unfinished, {f.name: f for f in sorted(unfinished.iterdir())})
    except OSError as error:
        # Another process may have been faster, and have written the same.
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY) or find_fault(folder):
            raise
    return folder


def content_hash(rows: Iterable[Any]) -> str:
    """A hash of many texts or lists of numbers, in order, for a `key` of `cached`.

    64 hexadecimal digits.
    """
    content = hashlib.sha256()
    for row in rows:
        content.update(json.dumps(row).encode() + b"\n")
    return content.hexdigest()


def cached_json(kind: str, key: Any, compute: Callable[[], Any], *, code: str) -> Any:
    """A value that JSON takes, computed once: see `cached`."""

    def write(folder: Path) -> None:
        (folder / "value.json").write_text(json.dumps(compute()), encoding="utf-8")

    return read_json(cached(kind, key, write, code=code) / "value.json")


def read_json(path: Path) -> Any:
    """The value of a JSON file.

    Raises `OSError` if it is missing or cannot be read; `ValueError` if it is no regular file, is
    larger than `MAX_JSON`, or is not JSON in UTF-8.
    """
    about = path.stat()
    if not stat.S_ISREG(about.st_mode):
        raise ValueError(f"{path}: a folder, a pipe or a device")
    if about.st_size > MAX_JSON:
        raise ValueError(f"{path}: more than {MAX_JSON:,} bytes")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError(f"{path}: nested too deeply") from None


def remove(path: Path) -> None:
    """Remove a file, a link, or a folder with all that can be removed from it, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _inode(path: Path) -> int:
    """Number of what is at a path, also of a link that leads nowhere; 0 if there is nothing."""
    try:
        return path.lstat().st_ino
    except FileNotFoundError:
        return 0


def free_bytes() -> int:
    """Bytes that the cache's disk has left."""
    CACHE.mkdir(parents=True, exist_ok=True)
    return shutil.disk_usage(CACHE).free


def has_room_for(num_bytes: int) -> bool:
    """True if a result of `num_bytes` takes at most half of the free space of the cache's disk."""
    return num_bytes <= MAX_SHARE * free_bytes()


def write_json(file: Path, value: Any, *, indent: int = 2) -> None:
    """Write a value as a JSON file for people, whole or not at all."""
    with atomic_path(file) as path:
        path.write_text(json.dumps(value, indent=indent) + "\n", encoding="utf-8")


def write_checksums(folder: Path, files: Mapping[str, Path]) -> None:
    """Write the manifest of a folder: bytes and SHA-256 of files by their name within it.

    `files` has the path to read for each name: a file may not have taken its place yet.
    """
    sums = {name: [file.stat().st_size, checksum(file)] for name, file in files.items()}
    write_json(folder / CHECKSUMS, sums, indent=1)


def find_fault(folder: Path, names: Iterable[str] | None = None) -> str:
    """The fault of a folder with a manifest, such as "ids.npy is missing"; "" if it is sound.

    Checked are the files of `names`, or by default all in the manifest. A file of `names` that is
    not in the manifest must not be in the folder either.
    """
    try:
        sums = read_json(folder / CHECKSUMS)
        recorded = {name: (int(size), str(digest)) for name, (size, digest) in sums.items()}
    except FileNotFoundError:
        return f"{CHECKSUMS} is missing"
    except (OSError, ValueError, TypeError, AttributeError, OverflowError):  # or of others
        return f"{CHECKSUMS} is damaged"
    if not recorded:
        return f"{CHECKSUMS} names no file"
    for name in recorded if names is None else names:
        if fault := _fault_of(folder / name, recorded.get(name)):
            return f"{textwrap.shorten(name, 200)} {fault}"
    return ""


def _fault_of(file: Path, recorded: tuple[int, str] | None) -> str:
    """The fault of a file, by its recorded bytes and SHA-256; without these it must not exist."""
    size, digest = recorded or (-1, "")
    try:
        if not (recorded or file.exists()):
            return ""
        if not file.is_file():  # such as a pipe, which could be read for ever
            return "is missing"
        found = file.stat().st_size
        if found < size:
            return "is cut"
        return "was changed since" if found > size or checksum(file) != digest else ""
    except (OSError, ValueError) as error:  # such as a name that no file can have
        return f"cannot be read: {getattr(error, 'strerror', error)}"


def _remove_abandoned(parent: Path) -> None:
    """Remove unfinished folders that nothing has changed for a day: their processes ended early."""
    for folder in parent.glob(f"{UNFINISHED}*"):
        with contextlib.suppress(OSError):  # another process is faster
            newest = max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))
            if time.time() - newest > ABANDONED_AFTER:
                log.info("%s: left unfinished by another run; removing it", folder)
                shutil.rmtree(folder)
