"""Execute a notebook as papermill does, with its arguments, and stop it where it can go on.

    python -m lib.execute notebooks/03_finetune_embedding.ipynb out.ipynb -p study quick ...

SIGTERM, SIGINT and SIGHUP are passed on to the kernel as SIGTERM; the exit status is then 143, 130
or 129, and one line says where the run has stopped. A signal more than `PATIENCE` seconds after the
first kills the kernel. A run whose metrics are there has finished all the same and exits with 0: on
any other status Snakemake would remove them. If the process that started this one ends, this one
and its kernel end too.
"""

import contextlib
import io
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import psutil
import zmq
from jupyter_client import KernelManager
from papermill.cli import papermill
from papermill.exceptions import PapermillExecutionError

from lib.errors import INPUT_ERRORS, explain_memory
from lib.stopping import ASKING, FAILURES, STOPPED, Stopped, die_with_parent, insists

KERNEL_DIED = 138  # papermill's exit status for a kernel that has died


def main() -> None:
    """Run papermill's command line in this process."""
    die_with_parent()
    metrics_before = _metrics()
    received: list[tuple[int, float]] = []  # signals, and their times in seconds

    def pass_on(number: int, _: Any) -> None:
        received.append((number, time.monotonic()))
        kernels = psutil.Process().children()
        if not kernels:  # nothing has begun
            sys.exit()
        for kernel in kernels:
            if len(received) == 1:
                kernel.terminate()
            elif insists(received):
                kernel.kill()
        # Papermill's own messages about a kernel that ends are not shown.
        logging.disable()
        sys.stderr = io.StringIO()

    for number in ASKING:
        signal.signal(number, pass_on)
    # Papermill warns of parameters that the first cell lacks; the notebook checks them itself.
    logging.getLogger("papermill").addFilter(lambda record: "unknown param" not in str(record.msg))
    if zmq.has("curve"):  # others on the machine cannot listen to the kernel
        KernelManager.transport_encryption.default_value = "auto"
    try:
        for output in sys.argv[2:3]:
            Path(output).parent.mkdir(parents=True, exist_ok=True)
        papermill(prog_name="papermill")
    except PapermillExecutionError as error:
        if received and _metrics() != metrics_before:
            return
        if error.ename != Stopped.__name__ and not received:
            _fail(error.ename, error.evalue, str(error))
        reasons = {Stopped.__name__: error.evalue, KeyboardInterrupt.__name__: STOPPED}
        _stop(received, reasons.get(error.ename, f"{error.ename}: {error.evalue}"))
    except BaseException as error:  # the kernel has ended without `Stopped`, or had not begun
        status = getattr(error, "code", None)
        if received and (status == 0 or _metrics() != metrics_before):
            return
        if received:
            _stop(received, STOPPED)
        if status != KERNEL_DIED:
            raise
        _fail("", "the kernel was killed, most often because memory ran out: see `memory_gib`")


def _metrics() -> tuple[int, int] | None:
    """The time and the place on disk of the metrics beside the notebook; None without them."""
    for output in sys.argv[2:3]:
        with contextlib.suppress(OSError):
            about = Path(output).with_name("metrics.json").stat()
            return about.st_mtime_ns, about.st_ino
    return None


def _fail(kind: str, message: str, details: str = "") -> NoReturn:
    """Exit with one line that says why; errors that are not the input's are printed in full too."""
    line = " ".join(message.split()) or "no reason given"
    if explained := explain_memory(kind, message):
        line = explained
    elif kind and kind not in INPUT_ERRORS:
        print(details, file=sys.__stderr__)
        line = f"{kind}: {line}"
    line = f"{sys.argv[2]}: {line}"
    if FAILURES in os.environ:  # `lib.supervise` prints it again, behind Snakemake's messages
        with Path(os.environ[FAILURES]).open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")
    sys.exit(line)


def _stop(received: Sequence[tuple[int, float]], message: str) -> NoReturn:
    """Exit with the status of a process that a signal has ended, and a line with the notebook."""
    print(f"\n{sys.argv[2]}: {message}", file=sys.__stderr__)
    sys.exit(128 + (received[0][0] if received else signal.SIGTERM))


if __name__ == "__main__":
    main()
