"""Run a study's command, one at a time for each folder, and end all that it has started with it.

    python -m lib.supervise runs/quick snakemake --cores 2 ...

SIGTERM, SIGINT and SIGHUP stop the study's runs where they can go on; the exit status is 143, 130
or 129. A signal that comes more than `PATIENCE` seconds after the first kills the runs. If `make`
has started this process, its end counts as SIGTERM. When the command or this process ends, by
whatever cause, its descendants end too, and the system releases the folder's lock.
"""

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TextIO

import psutil

from lib.stopping import ASKING, FAILURES, adopt_orphans, die_with_parent, insists

GUARD = "import sys; from lib.supervise import guard; guard(int(sys.argv[1]))"
ELSEWHERE = ("--profile", "--executor")  # options for jobs that are no processes of this machine


def main(arguments: Sequence[str]) -> None:
    """Run the command that follows the folder; exit with its status, or that of a signal."""
    folder, *command = arguments
    runs_nothing = bool(set(command) & {"-n", "--dry-run"})
    failures = Path(folder) / ".failures"
    with contextlib.nullcontext() if runs_nothing else _lock(Path(folder)):
        if not runs_nothing:
            failures.unlink(missing_ok=True)
        sys.exit(_supervise(command, failures))


def _lock(folder: Path) -> TextIO:
    """The folder's lock, a file that is locked while open; exits if another process has it."""
    folder.mkdir(parents=True, exist_ok=True)
    file = (folder / ".lock").open("a+", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        sys.exit(f"{folder}: already being run by {file.read()}; wait for it, or end that process")
    except OSError as error:
        print(f"{folder}: not locked ({error.strerror}); run one command at a time")
    file.truncate(0)
    since = datetime.now().isoformat(" ", "seconds")
    file.write(f"process {os.getpid()} on {socket.gethostname()} since {since}")
    file.flush()
    return file


def _supervise(command: Sequence[str], failures: Path) -> int:
    """The exit status of a command, once nothing runs any more; prints why runs have failed."""
    adopt_orphans()
    os.environ[FAILURES] = str(failures.absolute())
    received: list[tuple[int, float]] = []  # signals, and their times in seconds
    for number in ASKING:
        signal.signal(number, lambda number, _: received.append((number, time.monotonic())))
    make = _make_above()
    process = subprocess.Popen(command, start_new_session=True, preexec_fn=die_with_parent)
    guarding = subprocess.Popen(  # its input ends with this process
        [sys.executable, "-c", GUARD, str(process.pid)], start_new_session=True,
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    elsewhere = any(option.startswith(ELSEWHERE) for option in command)
    runs: list[psutil.Process] | None = None
    while process.poll() is None and not insists(received):
        if make and not received and not _is_running(make):
            received.append((signal.SIGTERM, time.monotonic()))
        if received and elsewhere and runs is None:
            process.send_signal(signal.SIGINT)  # it cancels its jobs
            runs = []
        elif received and runs is None:
            process.send_signal(signal.SIGSTOP)  # starts no other run, reports none as failed
            runs = [p for p in _descendants() if _id_of(p, os.getpgid) == process.pid != p.pid]
            for run in runs:
                with contextlib.suppress(psutil.NoSuchProcess):
                    run.terminate()
        elif received and not elsewhere and not any(map(_is_running, runs)):
            break
        time.sleep(0.1)
    for left in _descendants():
        with contextlib.suppress(psutil.NoSuchProcess):
            left.kill()
    status = process.wait()
    guarding.communicate()
    if status and failures.is_file():
        print(f"\n{failures.read_text(encoding='utf-8').strip()}", file=sys.stderr)
    return 128 + received[0][0] if received else 128 - status if status < 0 else status


def guard(session: int) -> None:
    """Wait until the input ends, as it does with the supervisor, and kill a session's processes.

    The session is that of the command. Rules of Snakemake do not notice by themselves that the
    supervisor has ended.
    """
    sys.stdin.read()
    for _ in range(100):
        of_session = (p for p in psutil.process_iter() if _id_of(p, os.getsid) == session)
        members = list(filter(_is_running, of_session))
        if not members:
            return
        for member in members:
            with contextlib.suppress(psutil.Error):
                for process in (*member.children(recursive=True), member):
                    process.kill()
        time.sleep(0.1)


def _make_above() -> psutil.Process | None:
    """The make that has started this process, itself or by a shell."""
    with contextlib.suppress(psutil.Error):
        for process in psutil.Process().parents()[:2]:
            if process.name() in ("make", "gmake"):
                return process
    return None


def _id_of(process: psutil.Process, ask: Callable[[int], int]) -> int:
    """Session or group of a process; 0 if it has just ended, or is another user's."""
    try:
        return ask(process.pid)
    except OSError:
        return 0


def _descendants() -> list[psutil.Process]:
    return [p for p in psutil.Process().children(recursive=True) if _is_running(p)]


def _is_running(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


if __name__ == "__main__":
    main(sys.argv[1:])
