"""The owner of a run's folder: one process at a time, on this machine or on another.

    runs/<study>/<arm>/seed-<n>/owner.json     host, process id and its start; touched every minute

A process id names a process only on one host, since its last start, and within one namespace of
process ids (containers have their own): these three together are a machine here.

The file is created only if there is none. Shared file systems, too, do this in one step.
"""

import atexit
import contextlib
import json
import logging
import math
import os
import socket
import tempfile
import threading
import time
import uuid
from pathlib import Path
from typing import Any, Self

import psutil

from lib.errors import InputError
from lib.storage import read_json, remove

log = logging.getLogger(__name__)

OWNER = "owner.json"
# Our choices.
HEARTBEAT = 60.0  # seconds between two signs of life
SAME_START = 2.0  # seconds by which two readings of a process's start differ if the clock is set
STALE_AFTER = 600.0  # seconds without a sign, after which another machine's process is given up
WATCH = 180.0  # seconds, three heartbeats, that another machine's process is watched for a sign


class Owner:
    """Ownership of a run's folder from `take` to `release`, or until the process ends."""

    def __init__(self, file: Path, about: dict[str, Any]) -> None:
        self.file, self.about = file, about
        self._ended = threading.Event()
        threading.Thread(target=self._live, daemon=True).start()
        atexit.register(self.release)

    @classmethod
    def take(cls, folder: Path) -> Self:
        """Own the folder, which is created; raises `InputError` if another process owns it.

        A folder is taken over if its owner ran on this machine and has ended. An owner on another
        machine has ended if its last sign of life is older than `STALE_AFTER` seconds, or if it is
        watched for `WATCH` seconds and gives none.
        """
        folder.mkdir(parents=True, exist_ok=True)
        file, about = folder / OWNER, _this_process()
        while True:
            try:
                with file.open("x", encoding="utf-8") as opened:
                    json.dump(about, opened)
                return cls(file, about)
            except FileExistsError:
                _remove_left(file, about)

    def __reduce__(self) -> tuple[type, tuple]:
        """None once pickled: a process that a run is sent to does not own the folder."""
        return type(None), ()

    def require(self) -> None:
        """Raise `InputError` if another process has taken the folder over."""
        found = _read(self.file)
        if found != self.about:
            raise InputError(
                f"{self.file.parent}: was taken over by {_named(found)} while this process gave "
                "no sign of life; nothing is written"
            )

    @property
    def released(self) -> bool:
        """True once others may own the folder."""
        return self._ended.is_set()

    def release(self) -> None:
        """Let others own the folder."""
        self._ended.set()
        atexit.unregister(self.release)
        if self.about["pid"] == os.getpid() and _read(self.file) == self.about:
            self.file.unlink(missing_ok=True)

    def _live(self) -> None:
        while not self._ended.wait(HEARTBEAT):
            found = _read(self.file)
            if found and found != self.about:
                return
            with contextlib.suppress(OSError):  # of a shared file system, for a moment
                os.utime(self.file)


def _this_process() -> dict[str, Any]:
    pid, since = os.getpid(), time.strftime("%Y-%m-%d %H:%M:%S")
    return {"host": socket.gethostname(), "machine": _machine(), "pid": pid,
            "started": _started(pid), "since": since, "id": uuid.uuid4().hex}  # fmt: skip


def _machine() -> str:
    """The start of this system and the namespace of its process ids (Linux; elsewhere "")."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _started(pid: int) -> float:
    """Start of a running process in seconds since 1970; -inf if there is none of that id."""
    try:
        process = psutil.Process(pid)
        ended = process.status() == psutil.STATUS_ZOMBIE
        return -math.inf if ended else process.create_time()
    except (psutil.NoSuchProcess, ValueError):  # or no number that a process can have
        return -math.inf


def _read(file: Path) -> dict[str, Any]:
    """The owner in a file; {} if it is missing, not yet whole, or none of ours."""
    try:
        found = read_json(file)
    except (OSError, ValueError):
        return {}
    kinds = {"host": str, "pid": int, "started": float, "since": str, "id": str}
    known = isinstance(found, dict) and all(isinstance(found.get(k), kinds[k]) for k in kinds)
    return found if known else {}


def _named(owner: dict[str, Any]) -> str:
    if not owner:
        return "an unknown process"
    return " ".join(f"process {owner['pid']} on {owner['host']} since {owner['since']}".split())


def _remove_left(file: Path, about: dict[str, Any]) -> None:
    """Remove the file of an owner that has ended; raise `InputError` if it still runs."""
    found = _read(file)
    if any(found.get(key) != about[key] for key in ("host", "machine")):
        runs = not _is_stale(file) and _gives_sign(file, found)
    else:  # another start: the id names a new process; this process may open its run again
        same = abs(_started(found["pid"]) - found["started"]) < SAME_START
        runs = same and found["pid"] != about["pid"]
    if runs:
        raise InputError(
            f"{file.parent}: {_named(found)} is writing this run; wait for it or end it"
        )
    # Of several processes that take over at once, one moves the file away. A slower one may then
    # have moved the file of the new owner, which it puts back.
    aside = file.with_name(f".{OWNER}-{about['id']}")
    with contextlib.suppress(FileNotFoundError, FileExistsError):
        file.rename(aside)
        if _read(aside) != found:
            os.link(aside, file)
    remove(aside)


def _gives_sign(file: Path, found: dict[str, Any]) -> bool:
    """True once an owner on another machine touches the file; False after `WATCH` seconds."""
    before, until = touched(file), time.monotonic() + WATCH
    log.warning("%s: %s may be writing this run; waiting up to %d s for a sign of it", file.parent,
                _named(found), WATCH)  # fmt: skip
    while time.monotonic() < until:
        time.sleep(WATCH / 100)
        if (now := touched(file)) != before:
            return now > 0
    return False


def touched(file: Path) -> float:
    """Time of the file's last change; 0 where there is none."""
    try:
        return file.lstat().st_mtime
    except FileNotFoundError:
        return 0.0


def _is_stale(file: Path) -> bool:
    """True if an owner has given no sign of life for long, by the clock of the file system."""
    with tempfile.TemporaryFile(dir=file.parent) as now:  # nameless: nobody can remove it
        since = os.fstat(now.fileno()).st_mtime - touched(file)
    # An owner writes a regular file: a folder, a pipe or a link in its place is stale.
    return since > STALE_AFTER or file.is_symlink() or not file.is_file()
