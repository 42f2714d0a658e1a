"""Execute a notebook as papermill does, with its arguments, and stop it where it can go on.

    python -m lib.execute notebooks/03_finetune_embedding.ipynb out.ipynb -p study quick ...

SIGTERM and SIGINT are passed on to the kernel; the exit status is then 143 or 130, and one line
says where the run has stopped. A signal after `PATIENCE` kills. If the process that started this
one ends, this one and its kernel end too.
"""

import io
import logging
import signal
import sys
import time
from pathlib import Path
from typing import Any

import psutil
from papermill.cli import papermill
from papermill.exceptions import PapermillExecutionError

from lib.stopping import ASKING, STOPPED, Stopped, die_with_parent

KERNEL_DIED = 138  # papermill's exit status
PATIENCE = 10  # seconds in which signals are one request: a batch system sends several (our choice)


def main() -> None:
    """Run papermill's command line in this process."""
    die_with_parent()
    received: list[int] = []
    since = 0.0

    def pass_on(number: int, _: Any) -> None:
        nonlocal since
        received.append(number)
        since = since or time.monotonic()
        for kernel in psutil.Process().children():
            if len(received) == 1:
                kernel.terminate()
            elif time.monotonic() - since > PATIENCE:
                kernel.kill()
        # What papermill has to say about a kernel that ends is no news.
        logging.disable()
        sys.stderr = io.StringIO()

    for number in ASKING:
        signal.signal(number, pass_on)
    Path(sys.argv[2]).parent.mkdir(parents=True, exist_ok=True)
    try:
        papermill(prog_name="papermill")
    except PapermillExecutionError as error:
        if error.ename != Stopped.__name__ and not received:
            raise
        _stop(received, error.evalue if error.ename == Stopped.__name__ else STOPPED)
    except SystemExit as error:
        if error.code != KERNEL_DIED or not received:
            raise
        _stop(received, STOPPED)


def _stop(received: list[int], message: str) -> None:
    """Exit as a process does that a signal has ended, with one line that names the notebook."""
    print(f"\n{sys.argv[2]}: {message}", file=sys.__stderr__)
    sys.exit(128 + (received[0] if received else signal.SIGTERM))


if __name__ == "__main__":
    main()
