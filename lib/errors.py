"""Errors of a user's input: each message is one line that says what, where and the remedy."""

import errno
import re
import resource

# What Python, NumPy, torch, oneDNN, Arrow and the loader of libraries say when memory is short.
NO_MEMORY = re.compile(
    r"MemoryError|OutOfMemory|out of memory|not enough memory|bad_alloc|allocate memory|"
    r"failed to map segment|could not create a primitive|can't start new thread",
    re.IGNORECASE,
)


class InputError(ValueError):
    """A user's input cannot be used; the message is one line: the value, its place, the remedy."""


class ParamsError(InputError):
    """A parameter is unknown, of the wrong type, out of range or contradicts another one."""


class DataError(InputError):
    """The data cannot be used as the parameters ask; the message names file, column and row."""


class NotFiniteError(InputError, FloatingPointError):
    """The loss or its gradient is not finite; the message names step, documents and rate."""


class ModelError(InputError):
    """A model id cannot be resolved, or its weights are damaged."""


class DiskFullError(InputError, OSError):
    """There is no room for a file; the message names it."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.errno = errno.ENOSPC


# Names of the classes above: a notebook's errors arrive as names.
INPUT_ERRORS = {name for name, value in globals().items() if isinstance(value, type)}


def explain_memory(kind: str, message: str) -> str:
    """One line for an error that want of memory explains, with what may help; "" for any other.

    `kind` is the name of the error's class. For a `ValueError` and the classes of this module the
    result is "", because their messages may quote data; only a `ModelError` is examined.
    """
    quotes = {"ValueError"} | INPUT_ERRORS - {ModelError.__name__}
    if kind in quotes or not NO_MEMORY.search(f"{kind}: {message}"):
        return ""
    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    limited = most != resource.RLIM_INFINITY
    limit = f" of the {most / 2**30:.1f} GiB that `ulimit -v` allows" if limited else ""
    said = " ".join(f"{kind}: {message}".split())[:200]
    return (
        f"no memory left{limit} ({said}); free some, or lower `batch_size` or `max_length`: "
        "`python -m lib plan` says what a study needs"
    )
