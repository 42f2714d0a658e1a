"""A run that is asked to stop, and processes that end with the one that started them.

Signals are noted while a model is trained, which then stops where it can go on; elsewhere SIGTERM
ends a notebook's cell at once.
"""

import contextlib
import ctypes
import os
import signal
from collections.abc import Iterator, Sequence
from typing import Any

# Signals that ask to stop. SIGHUP comes when a terminal is closed, and `nohup` lets it be ignored.
IS_HEARD = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
ASKING = (signal.SIGTERM, signal.SIGINT, *([signal.SIGHUP] if IS_HEARD else []))
PATIENCE = 10.0  # seconds within which several signals are one request (our choice)
STOPPED = "stopped; run it again to go on"
FAILURES = "STUDY_FAILURES"  # environment variable: the file that takes a line per failed run
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h


class Stopped(BaseException):
    """A run has stopped because it was asked to; the message is one line: its place, the remedy.

    It is no `Exception`, as `KeyboardInterrupt` is none, so that `except Exception` lets it pass.
    """


class StopRequest:
    """A request to stop: `asked` is true from the first signal on."""

    def __init__(self) -> None:
        self.asked = self._may_break_off = False

    def note(self, *_: Any) -> None:
        """Note a signal; raise `Stopped` if the work that it meets can be thrown away."""
        self.asked = True
        if self._may_break_off:
            raise Stopped

    @contextlib.contextmanager
    def breaking_off(self) -> Iterator[None]:
        """A block whose work can be thrown away; raises `Stopped` at once if already asked."""
        self._may_break_off = True
        try:
            if self.asked:
                raise Stopped
            yield
        finally:
            self._may_break_off = False


@contextlib.contextmanager
def noting_signals() -> Iterator[StopRequest]:
    """A `StopRequest` that notes signals in a block; with any, the block ends in `Stopped`."""
    request, before = StopRequest(), {}
    with contextlib.suppress(ValueError):  # not in the main thread: nothing can be noted
        for number in ASKING:
            before[number] = signal.signal(number, request.note)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if request.asked:
        raise Stopped(STOPPED)


def insists(received: Sequence[tuple[int, float]]) -> bool:
    """True if the last signal came more than `PATIENCE` seconds after the first.

    Earlier ones may be the same request: a process of a group can get a signal twice.
    `received` are signals with their times in seconds.
    """
    return bool(received) and received[-1][1] - received[0][1] > PATIENCE


def stop_on_sigterm() -> None:
    """Let SIGTERM and SIGHUP raise `Stopped` here, as SIGINT raises `KeyboardInterrupt`."""

    def stop(*_: Any) -> None:
        raise Stopped(STOPPED)

    with contextlib.suppress(ValueError):  # not in the main thread
        for number in set(ASKING) - {signal.SIGINT}:
            signal.signal(number, stop)


def die_with_parent() -> None:
    """Let this process be killed when its parent ends (on Linux; elsewhere no effect)."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent ends (on Linux; elsewhere no effect)."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def _prctl(option: int, value: int) -> None:
    if os.uname().sysname == "Linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)
